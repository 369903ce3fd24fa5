"""The documentation as a site: `make docs` builds it into build/docs, offline, and every warning is an error."""

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
