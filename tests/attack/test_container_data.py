"""A stranger's job names a folder of this machine as its data: nothing is mounted through which a container leaves, or reads keys."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloud_train.providers.docker.data_folder import problems_of


def refused(data: Path | str) -> str:
    """Why; the empty text where it is mounted."""
    return "".join(problems_of(Path(data), ()))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "users" / "me"
    folder.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(folder))
    return folder


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[Path]:
    """A folder with a socket that a program listens at."""
    folder = tmp_path / "agent"
    folder.mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "s"))
        server.listen()
        yield folder


@pytest.mark.parametrize(
    "place", ["/", "/proc", "/proc/1", "/proc/self/root", "/sys", "/sys/kernel", "/dev", "/etc", "/etc/ssl", "/var", "/run"]
)
def test_the_system_is_not_mounted(place: str) -> None:
    if not Path(place).exists():
        pytest.skip(f"no {place} here")
    assert refused(place)


def test_a_folder_with_a_socket_is_not_mounted_nor_one_above_it(listening: Path) -> None:
    assert f"contains the socket {listening}/s" in refused(listening)
    assert "contains the socket" in refused(listening.parent)


def test_a_socket_that_was_bound_by_a_relative_path_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path / "inner")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s")
        assert "contains the socket" in refused(tmp_path / "inner")
        assert "contains the socket" in refused(tmp_path)


def test_the_home_folder_and_what_is_hidden_in_it_is_not_mounted(home: Path) -> None:
    (home / ".config" / "gh").mkdir(parents=True)
    (home / "data").mkdir()
    (home / ".cache" / "sets").mkdir(parents=True)
    (home.parent / "link").symlink_to(home / ".config")
    for place in (home, home.parent, home / ".config", home / ".config" / "gh", home.parent / "link"):
        assert refused(place), place
    for place in (home / "data", home / ".cache" / "sets"):
        assert not refused(place), place


@pytest.mark.parametrize("name", [".git-credentials", ".netrc", "id_ed25519", ".env", "kaggle.json"])
def test_a_folder_that_a_key_file_is_in_is_not_mounted(home: Path, name: str) -> None:
    (home / "data").mkdir()
    (home / "data" / name).write_text("x")
    assert f"contains {name}, which holds a key or a login" in refused(home / "data")


def test_a_folder_of_images_and_a_file_are_mounted(home: Path) -> None:
    (home / "data" / "cat").mkdir(parents=True)
    (home / "data" / "cat" / "1.png").write_bytes(b"x")
    (home / "data" / "link").symlink_to("cat")
    assert not refused(home / "data")
    assert not refused(home / "data" / "cat" / "1.png")
    assert refused(home / "absent").startswith("data.path: no such file or folder")
