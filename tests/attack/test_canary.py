"""The value of a secret, through every new path: it reaches the program, and is found in no file and in no line that is printed."""

from pathlib import Path

import pytest

from tests.cli.command import CommandLine

SECRET = "canary-5f0c1d"  # no real one
TOKEN = {"MY_TOKEN": SECRET}


def files_with_the_secret(*folders: Path) -> list[str]:
    return [str(path) for folder in folders for path in folder.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.mark.slow
def test_no_secret_is_written_or_printed_when_a_run_is_refused_accepted_moved_and_resumed(
    cloud_train: CommandLine, tmp_path: Path, said: list[str]
) -> None:
    def run(who: CommandLine, *arguments: str | Path, keys: str | None = None) -> int:
        if keys is None:
            ended = who(*arguments, **TOKEN)
            said.extend([ended.out.decode(errors="replace"), ended.err])
            return ended.status
        with who.terminal(*arguments, variables=TOKEN) as terminal:
            terminal.wait_for("[y/N]")
            terminal.press(keys)
            status = terminal.end()
            said.append(terminal.shown.decode(errors="replace"))
            return status

    folder = cloud_train.folder
    program = 'test "$MY_TOKEN" = canary-"5f0c1d" && echo reached >> reached; false'
    run(cloud_train, "submit", cloud_train.job(program, more="secrets: [MY_TOKEN]\n"), "--follow")
    (directory,) = (folder / "runs").iterdir()
    home = tmp_path / "stranger"
    stranger = CommandLine(home, folder, {**cloud_train.environment, "CLOUD_TRAIN_HOME": str(home)})
    assert run(stranger, "adopt", directory) == 0
    assert run(stranger, "resume", directory.name) == 2
    assert run(stranger, "resume", directory.name, keys="n\r") == 2
    run(stranger, "resume", directory.name, "--trust", "--follow")
    run(stranger, "resume", directory.name, "--store", tmp_path / "moved", "--trust", "--follow")
    run(cloud_train, "resume", directory.name, "--follow")
    for verb in ("status", "logs", "metrics", "list"):
        run(stranger, verb)
    (folder / "configs").mkdir()
    (folder / "configs" / "mine.yaml").write_text("provider: docker\ndocker: {host: 'tcp://203.0.113.7:2375'}\n")
    assert run(stranger, "submit", folder / "script.yaml", "--config", "mine") == 2
    run(stranger, "submit", folder / "script.yaml", "--config", "mine", "--dry-run")
    run(stranger, "submit", folder / "script.yaml", "--config", "mine", "--dry-run", "--json")
    assert (folder / "reached").read_text().count("reached") >= 2
    assert files_with_the_secret(cloud_train.home, home, folder / "runs", tmp_path / "moved") == []
    assert [text for text in said if SECRET in text] == []
