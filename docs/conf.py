"""The documentation as a site: `make docs` builds it into build/docs, offline, and every warning is an error."""

import re
from pathlib import Path
from typing import Any

from cloud_train import __version__

project = "cloud-train"
author = "the cloud-train authors"
release = __version__
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}

myst_heading_anchors = 4  # a link to page.md#heading finds the heading by the name that code forges give it

html_theme = "pydata_sphinx_theme"
html_title = "cloud-train"
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": [],
    "footer_end": [],
}

_LINK_UP = re.compile(r"\[([^\]\n]+)\]\((\.\./[^)#\s]+)\)")


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("source-read", _without_links_to_folders)


def _without_links_to_folders(app: Any, page: str, content: list[str]) -> None:
    """A link to a folder of the repository leads nowhere on the site: only its text stays. Links to files become downloads."""
    here = Path(app.srcdir, page).parent
    content[0] = _LINK_UP.sub(lambda link: link[1] if (here / link[2]).is_dir() else link[0], content[0])
