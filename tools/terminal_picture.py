"""Draw docs/images/run.svg, the picture in README.md: the output of a real run in a terminal.

    python tools/terminal_picture.py docs/images/run.svg

It runs the commands of ``COMMANDS`` in a pseudo-terminal, in a temporary home, and draws the screen as it is at the end. It
needs what `make demo` needs. tests/test_picture.py compares the picture's lines with what the program prints today.
"""

import io
import os
import pty
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

ROOT = Path(__file__).parents[1]
COMMANDS = ("cloud-train submit jobs/digits-cnn.yaml --follow", "cloud-train fetch-model")
COLUMNS, LINES = 110, 40
_CHARACTER_WIDTH = 12.2
"""In the units of rich's SVG."""
_ERASES_THE_LINE_ABOVE = "\x1b[1A\x1b[2K"
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-HJKSThl]")
"""Everything that moves the cursor or erases; colours stay."""
_SVG = """\
<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
    <style>
    .{unique_id}-matrix {{ font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: {char_height}px;
        line-height: {line_height}px; font-variant-east-asian: full-width; }}
    .{unique_id}-title {{ font-size: 18px; font-weight: bold; font-family: sans-serif; }}
    {styles}
    </style>
    <defs>
    <clipPath id="{unique_id}-clip-terminal"><rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" /></clipPath>
    {lines}
    </defs>
    {chrome}
    <g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
    {backgrounds}
    <g class="{unique_id}-matrix">
    {matrix}
    </g>
    </g>
</svg>
"""
"""Rich's own format without the fonts that it loads from another site."""


def main(target: Path) -> None:
    """Run the commands and write the picture."""
    console = Console(width=COLUMNS, record=True, file=io.StringIO(), force_terminal=True)
    console.print(Text.from_ansi("\n".join(screen())))
    svg = console.export_svg(title="cloud-train", theme=MONOKAI, code_format=_SVG, unique_id="run")
    target.write_text(re.sub(r"[ \t]+$", "", svg, flags=re.MULTILINE), encoding="utf-8")


def screen() -> list[str]:
    """Run the commands; returns the lines of the terminal, with colours, and with '…' for the folder of the run."""
    lines = []
    with tempfile.TemporaryDirectory() as home:
        for command in COMMANDS:
            lines += [f"\x1b[1;32m$\x1b[0m \x1b[1m{command}\x1b[0m", *shown(output_of(command, Path(home)))]
    return [line.replace(f"{home}/", "…/") for line in lines]


def lines_of(picture: Path) -> list[str]:
    """The lines of text in a picture."""
    rows: dict[str, str] = {}
    for element in ElementTree.parse(picture).iter("{http://www.w3.org/2000/svg}text"):
        if (element.get("clip-path") or "").startswith("url(#run-line-"):
            row = rows.get(element.get("y", ""), "")
            column = round(float(element.get("x", "0")) / _CHARACTER_WIDTH)
            rows[element.get("y", "")] = row.ljust(column) + (element.text or "")
    return [row.replace("\xa0", " ").rstrip() for row in rows.values() if row.strip()]


def output_of(command: str, home: Path) -> str:
    """What a command prints on a terminal of ``COLUMNS`` columns; the run and the model stay in ``home``."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "CLOUD_TRAIN_HOME": str(home), "COLUMNS": str(COLUMNS), "LINES": str(LINES), "TERM": "xterm-256color"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    if not (home / "jobs").exists():
        (home / "jobs").symlink_to(ROOT / "jobs")
    process = subprocess.Popen(
        command.split(), stdin=theirs, stdout=theirs, stderr=theirs, cwd=home, env=environment, start_new_session=True
    )
    os.close(theirs)
    output = b""
    try:
        while chunk := os.read(ours, 65536):
            output += chunk
    except OSError:  # Linux's end of a terminal whose other side is closed
        pass
    finally:
        os.close(ours)
    if process.wait():
        raise SystemExit(f"{command} failed:\n{output.decode(errors='replace')}")
    return output.decode()


def shown(output: str) -> list[str]:
    """The lines that stay on the screen: of a line that is drawn over itself the last state, and none of a line that is erased."""
    lines: list[str] = []
    for drawn in output.split("\n"):
        if _ERASES_THE_LINE_ABOVE in drawn:
            del lines[-1:]
        line = _CONTROL.sub("", drawn.rstrip("\r").rpartition("\r")[2]).rstrip()
        if line:
            lines.append(line)
    return lines


if __name__ == "__main__":
    main(Path(sys.argv[1]))
