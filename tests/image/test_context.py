"""What goes into an image, and what is refused before anything is read or sent."""

import os
import socket
from pathlib import Path

import pytest

from cloud_train.image import context
from cloud_train.image.context import check, survey
from cloud_train.image.errors import ImageError


def paths(folder: Path) -> list[str]:
    return [entry.path for entry in survey(folder).entries]


def test_files_and_folders_are_listed_in_the_order_of_their_names(code: Path) -> None:
    (code / "empty").mkdir()
    context = survey(code)
    assert [(entry.path, entry.kind) for entry in context.entries] == [
        ("empty", "folder"),
        ("main.py", "file"),
        ("package", "folder"),
        ("package/layers.py", "file"),
    ]
    assert context.total_bytes == sum(path.stat().st_size for path in code.rglob("*.py"))


def test_what_is_no_code_is_left_out_unless_it_is_brought_back(code: Path) -> None:
    for name in (
        ".git/config",
        "package/__pycache__/x.pyc",
        ".venv/bin/python",
        "node_modules/x.js",
        ".cloud-train/ledger",
        ".dockerignore",
    ):
        (code / name).parent.mkdir(parents=True, exist_ok=True)
        (code / name).write_text("")
    assert paths(code) == ["main.py", "package", "package/layers.py"]
    (code / ".dockerignore").write_text("!node_modules\n")
    assert paths(code) == ["main.py", "node_modules", "node_modules/x.js", "package", "package/layers.py"]


def test_the_folders_above_a_file_that_is_brought_back_are_there(code: Path) -> None:
    (code / ".dockerignore").write_text("*\n!package/layers.py\n")
    assert paths(code) == ["package", "package/layers.py"]


def test_files_are_not_opened(code: Path) -> None:
    (code / "main.py").chmod(0)
    (code / "huge.txt").touch()
    os.truncate(code / "huge.txt", 1 << 40)
    assert survey(code).total_bytes > 1 << 40


def test_more_than_100_mb_are_refused_with_the_largest_files(code: Path) -> None:
    for name, size in (("small.txt", 1), ("film.mov", 90_000_000), ("package/blob.bin", 20_000_000)):
        (code / name).touch()
        os.truncate(code / name, size)
    with pytest.raises(
        ImageError, match=r"110\.0 MB, more than the limit of 100\.0 MB.*: film\.mov \(90\.0 MB\), package/blob\.bin \(20\.0 MB\), "
    ) as caught:
        check(survey(code), print)
    assert ".dockerignore" in (caught.value.hint or "")


@pytest.mark.parametrize(
    "name",
    [
        *(".env", ".env.local", "tls.pem", "api.KEY", "id_rsa", "credentials.json", ".netrc", ".npmrc", "deep/.env", ".git-credentials"),
        *(
            ".pgpass",
            ".s3cfg",
            ".vault-token",
            "application_default_credentials.json",
            "kubeconfig",
            "msal_token_cache.json",
            "secring.gpg",
        ),
    ],
)
def test_what_looks_like_a_secret_is_refused_by_name_and_size(code: Path, name: str) -> None:
    (code / name).parent.mkdir(exist_ok=True)
    (code / name).write_text("canary")
    with pytest.raises(ImageError, match="look like secrets") as caught:
        check(survey(code), print)
    assert f"{name} (6 bytes)" in caught.value.message
    (code / ".dockerignore").write_text(f"{name}\n")
    check(survey(code), print)


def test_a_secret_that_is_brought_back_by_name_is_let_through(code: Path) -> None:
    (code / "test.pem").write_text("a certificate for tests")
    (code / ".dockerignore").write_text("*.pem\n!test.pem\n")
    context = survey(code)
    check(context, print)
    assert [(suspect.path, suspect.kind, suspect.asked_for) for suspect in context.suspects] == [("test.pem", "secret", True)]


def test_bringing_back_everything_is_not_bringing_back_a_secret(code: Path) -> None:
    (code / ".env").write_text("canary")
    (code / ".dockerignore").write_text("data\n!**\n")
    with pytest.raises(ImageError, match=r"\.env"):
        check(survey(code), print)


def test_modules_and_templates_that_are_named_like_secrets_are_code(code: Path) -> None:
    for name in ("credentials.py", ".env.example"):
        (code / name).touch()
    assert survey(code).suspects == ()


@pytest.mark.parametrize(("name", "size"), [("best.pt", 5), ("train.npz", 5), ("photos.tar.gz", 5), ("video", 10_000_001)])
def test_what_looks_like_data_is_mentioned_with_its_size(code: Path, name: str, size: int) -> None:
    (code / name).touch()
    os.truncate(code / name, size)
    notes: list[str] = []
    check(survey(code), notes.append)
    assert len(notes) == 1
    assert notes[0].startswith(f"{name} ({'10.0 MB' if size > 5 else '5 bytes'})")


def test_a_link_inside_the_folder_stays_a_link(code: Path) -> None:
    (code / "package" / "up").symlink_to("../main.py")
    (code / "dangling").symlink_to("later.py")
    assert {entry.path: entry.target for entry in survey(code).entries if entry.kind == "link"} == {
        "package/up": "../main.py",
        "dangling": "later.py",
    }


@pytest.mark.parametrize("target", ["../outside.txt", "/etc/passwd", "package/../../outside.txt"])
def test_a_link_that_leaves_the_folder_is_an_error_with_its_target(code: Path, target: str) -> None:
    (code / "link").symlink_to(target)
    with pytest.raises(ImageError, match=f"link link leaves .* points to {target}"):
        survey(code)
    (code / ".dockerignore").write_text("link\n")
    assert "link" not in paths(code)


def test_a_link_that_leaves_the_folder_by_way_of_another_is_an_error(code: Path) -> None:
    (code / "a" / "b").mkdir(parents=True)
    (code / "a" / "b" / "top").symlink_to("../..")
    (code / "x").symlink_to("a/b/top/../outside.txt")
    with pytest.raises(ImageError, match="link x leaves"):
        survey(code)


def test_a_socket_a_pipe_and_a_name_that_layers_reserve_are_errors(code: Path) -> None:
    os.mkfifo(code / "pipe")
    with pytest.raises(ImageError, match=r"pipe in .* is a socket, a pipe or a device"):
        survey(code)
    (code / "pipe").unlink()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(code / "s"))
        with pytest.raises(ImageError, match=r"s in .* is a socket"):
            survey(code)
    (code / "s").unlink()
    (code / ".wh.main.py").touch()
    with pytest.raises(ImageError, match="deletions"):
        survey(code)


def test_a_name_with_a_newline_is_shown_on_one_line(code: Path) -> None:
    (code / "two\nlines.env").touch()
    (code / ".env\n").touch()
    with pytest.raises(ImageError) as caught:
        check(survey(code), print)
    assert r"'.env\n' (0 bytes)" in caught.value.message


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="none is not a folder"):
        survey(tmp_path / "none")


def test_a_folder_of_many_files_is_named_while_it_is_listed(code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "_MANY", 10)
    notes: list[str] = []
    for number in range(9):
        (code / f"{number}.txt").write_text("x")
    survey(code, notes.append)
    assert len(notes) <= 1
    for number in range(9, 30):
        (code / f"{number}.txt").write_text("x")
    notes.clear()
    survey(code, notes.append)
    assert [str(code) in note and ".dockerignore" in note for note in notes] == [True]
