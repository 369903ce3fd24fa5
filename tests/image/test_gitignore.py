"""A folder's ``.gitignore``, compared with what git itself leaves out."""

import subprocess
from pathlib import Path

import pytest

from cloud_train.image.context import check, survey
from cloud_train.image.errors import ImageError

FILES = (
    *(
        "main.py",
        "notes.txt",
        "data.csv",
        "build",
        "data/train.csv",
        "data/deep/train.csv",
        "src/data/x.py",
        "src/build/out.o",
        "src/main.py",
    ),
    *(
        "logs/a.log",
        "logs/keep.log",
        "a.log",
        "#sharp",
        "!bang",
        "with space.txt",
        "weights.pt",
        "src/weights.pt",
        "doc/x/y/z.md",
        "doc/z.md",
    ),
    *("foo.c", "fao.c", "f1o.c", "tmp/cache/x", "cache/y", "x/tmp/cache/z", "data2/train.csv", "end "),
)


def by_git(folder: Path) -> set[str]:
    git = ["git", "-c", "core.excludesFile=/dev/null", "-C", str(folder)]
    subprocess.run([*git, "init", "-q"], check=True)
    listed = subprocess.run([*git, "ls-files", "-z", "--others", "--exclude-standard"], check=True, capture_output=True).stdout
    return {name for name in listed.decode().split("\0") if name} - {".gitignore"}


def in_image(folder: Path) -> set[str]:
    return {entry.path for entry in survey(folder).entries if entry.kind == "file"} - {".gitignore"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in FILES:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path


@pytest.mark.parametrize(
    "lines",
    [
        "*.log",
        "data/",
        "/data/",
        "build",
        "build/",
        "/build",
        "data",
        "src/data",
        "/main.py",
        "main.py",
        "doc/**/z.md",
        "**/cache",
        "tmp/cache/",
        "logs/*",
        "*.log\n!keep.log",
        "logs/*\n!logs/keep.log",
        "# a comment\n\n*.pt",
        "\\#sharp",
        "\\!bang",
        "with space.txt",
        "with space.txt   ",
        "f[ao]o.c",
        "f[!a]o.c",
        "f?o.c",
        "f[0-9]o.c",
        "*.csv\n!data/deep/*.csv",
        "data/**",
        "**/train.csv",
        "src/",
        "end\\ ",
        "*\n!*.py\n!*/",
        "data/*\n!data/deep/",
        "data/\n!data/train.csv",
        "*.txt\n*.pt\n/a.log\n",
    ],
)
def test_what_is_left_out_is_what_git_leaves_out(folder: Path, lines: str) -> None:
    (folder / ".gitignore").write_text(lines)
    assert in_image(folder) == by_git(folder)
    assert in_image(folder) != set(FILES)


@pytest.mark.parametrize("line", ["", "[", "!", "a[b", "a**/[/]**b", "\\", "//"])
def test_a_line_that_means_nothing_leaves_nothing_out(folder: Path, line: str) -> None:
    (folder / ".gitignore").write_text(line)
    assert in_image(folder) == set(FILES)


def test_what_only_git_leaves_out_is_said_and_can_be_brought_back(folder: Path) -> None:
    (folder / ".gitignore").write_text("*.csv\ndata2\n*.pt\n")
    notes: list[str] = []
    check(survey(folder), notes.append)
    hint = "to include one, add a line with ! and its name to .dockerignore"
    assert notes == [f"left out by .gitignore: data.csv, data/deep/train.csv, data/train.csv and 3 more; {hint}"]
    (folder / ".dockerignore").write_text("!src/weights.pt\ndata2\n")
    assert "src/weights.pt" in in_image(folder)
    assert survey(folder).left_out_by_git == ("data.csv", "data/deep/train.csv", "data/train.csv", "weights.pt")


def test_it_leaves_secrets_out_but_admits_none(folder: Path) -> None:
    (folder / ".env").write_text("TOKEN=1")
    (folder / ".gitignore").write_text("!.env\n")
    with pytest.raises(ImageError, match=r"look like secrets"):
        check(survey(folder), lambda _: None)
    (folder / ".gitignore").write_text(".env\n")
    check(survey(folder), lambda _: None)


def test_a_link_out_of_the_folder_is_not_followed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("private") / "list"
    elsewhere.write_text("[a-")
    (folder / ".gitignore").symlink_to(elsewhere)
    with pytest.raises(ImageError, match=r"\.gitignore is a link out of"):
        survey(folder)
