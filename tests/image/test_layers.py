"""Layers, reproducibly."""

import gzip
import hashlib
import os
import shutil
import tarfile
from pathlib import Path

import pytest

from cloud_train.image.context import survey
from cloud_train.image.errors import ImageError
from cloud_train.image.layers import Member, code_members, compress, make_layer, worker_members, write_layer, write_tar


def code_layer(folder: Path, tar: Path) -> str:
    layer = make_layer(code_members(survey(folder)), "the code")
    with tar.open("wb") as file:
        write_layer(layer, file)
    return layer.diff_id


def test_a_layer_carries_nothing_of_the_machine(code: Path, tmp_path: Path) -> None:
    (code / "run.sh").write_text("#!/bin/sh\n")
    (code / "run.sh").chmod(0o711)
    (code / "link").symlink_to("main.py")
    code_layer(code, tmp_path / "layer.tar")
    with tarfile.open(tmp_path / "layer.tar") as archive:
        members = archive.getmembers()
    assert [member.name for member in members] == sorted(member.name for member in members)
    assert {(member.uid, member.gid, member.uname, member.gname, member.mtime) for member in members} == {(0, 0, "", "", 0)}
    assert {member.name: oct(member.mode) for member in members} == {
        "workspace": "0o755",
        "workspace/link": "0o777",
        "workspace/main.py": "0o644",
        "workspace/package": "0o755",
        "workspace/package/layers.py": "0o644",
        "workspace/run.sh": "0o755",
    }


def test_other_times_modes_and_order_of_creation_give_the_same_bytes(code: Path, tmp_path: Path) -> None:
    first = code_layer(code, tmp_path / "first.tar")
    copy = tmp_path / "copy"
    (copy / "package").mkdir(parents=True, mode=0o700)
    for name in ("package/layers.py", "main.py"):
        shutil.copyfile(code / name, copy / name)
        (copy / name).chmod(0o600)
        os.utime(copy / name, (1, 1))
    assert code_layer(copy, tmp_path / "second.tar") == first
    assert (tmp_path / "first.tar").read_bytes() == (tmp_path / "second.tar").read_bytes()


def test_a_worker_of_any_user_can_write_where_an_engine_elsewhere_puts_volumes_of_its_own(tmp_path: Path) -> None:
    with (tmp_path / "layer.tar").open("wb") as file:
        write_layer(make_layer(worker_members(), ""), file)
    with tarfile.open(tmp_path / "layer.tar") as archive:
        assert [oct(archive.getmember(name).mode) for name in ("cloud-train/home/data", "cloud-train/work")] == ["0o1777"] * 2


def test_the_bytes_of_a_layer_are_these_on_every_machine(tmp_path: Path) -> None:
    members = [Member("a", "folder"), Member("a/b.py", "file", content=b"print()\n"), Member("a/l", "link", target="b.py")]
    layer = make_layer(members, "")
    assert layer.diff_id == "sha256:b19b8ec5982c141cd714a0e94e200912a705ef1278f74fed275525c0602c36d2"


def test_a_compressed_layer_is_the_layer_with_digests_of_both(code: Path, tmp_path: Path) -> None:
    layer = make_layer(code_members(survey(code)), "the code")
    blob = compress(layer, tmp_path / "layer.tar.gz")
    data = blob.file.read_bytes()
    assert (blob.size, blob.digest) == (len(data), f"sha256:{hashlib.sha256(data).hexdigest()}")
    assert f"sha256:{hashlib.sha256(gzip.decompress(data)).hexdigest()}" == layer.diff_id
    assert data[4:8] == bytes(4)  # the time


def test_the_workers_layer_has_what_runs_inside_an_attempt_and_nothing_compiled(tmp_path: Path) -> None:
    names = [member.name for member in worker_members()]
    assert "opt/cloud-train/lib/cloud_train/worker/__main__.py" in names
    assert "opt/cloud-train/lib/cloud_train/py.typed" in names
    below = {name.split("/")[4] for name in names if name.count("/") > 4}
    assert below == {"data", "job", "networks", "run", "spec", "storage", "training", "worker"}
    assert not any("__pycache__" in name or name.endswith(".pyc") for name in names)


def test_what_lies_about_in_the_package_stays_out(tmp_path: Path) -> None:
    for name in ("kept.py", "kept.yaml", "old.pyc", "__pycache__/kept.cpython-311.pyc.1234", ".swap", ".cache/note.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    names = [member.name.rpartition("/")[2] for member in worker_members(tmp_path) if member.kind == "file"]
    assert sorted(names) == ["kept.py", "kept.yaml"]


def test_a_file_that_changed_since_it_was_listed_is_an_error(code: Path, tmp_path: Path) -> None:
    context = survey(code)
    (code / "main.py").write_text("print('something else')\n")
    with pytest.raises(ImageError, match=r"main\.py changed while being read"):
        make_layer(code_members(context), "")


@pytest.mark.parametrize("change", ["grow", "shrink"])
def test_a_file_that_changes_while_it_is_read_is_an_error(tmp_path: Path, change: str) -> None:
    log = tmp_path / "log.txt"
    log.write_bytes(bytes(3_000_000))

    class Target:
        """Changes the file as soon as the first of its bytes arrive."""

        written = 0

        def tell(self) -> int:
            return self.written

        def write(self, data: bytes) -> int:
            if self.written == 512:
                os.truncate(log, 10 if change == "shrink" else 5_000_000)
            self.written += len(data)
            return len(data)

    with pytest.raises(ImageError, match=r"log\.txt changed while being read"):
        write_tar([Member("log.txt", "file", source=log)], Target())  # type: ignore[arg-type] # all that a tar needs


def test_a_file_that_may_not_be_read_or_is_gone_is_an_error(code: Path, tmp_path: Path) -> None:
    context = survey(code)
    (code / "main.py").unlink()
    with pytest.raises(ImageError, match=r"cannot read .*main\.py: No such file"):
        make_layer(code_members(context), "")


def test_files_that_change_between_hashing_and_sending_are_an_error_though_size_and_time_are_the_same(tmp_path: Path) -> None:
    file = tmp_path / "main.py"
    file.write_text("a = 1\n")
    layer = make_layer([Member("main.py", "file", source=file)], "")
    file.write_text("a = 2\n")
    with pytest.raises(ImageError, match="files changed while the image was being built"):
        compress(layer, tmp_path / "layer.tar.gz")
