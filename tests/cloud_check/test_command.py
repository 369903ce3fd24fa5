"""The command line of cloud-check, before anything is started: the list, the price, the questions."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.providers import aws_plans
from tools.cloud_check import __main__ as command
from tools.cloud_check.bench import Bench, Options, config_of
from tools.cloud_check.checks.catalogue import CHECKS, NAMES, chosen
from tools.cloud_check.estimate import Estimate, bound, estimates
from tools.cloud_check.prices import FILE, Price, price_of, prices
from tools.cloud_check.session import Note, new_bench
from tools.cloud_check.verdicts import Result

SETTINGS = {**aws_plans.SETTINGS, "region": "us-east-1", "repository": "123456789012.dkr.ecr.us-east-1.amazonaws.com/cloud-train"}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("signal.signal", lambda *_: None)  # those of the tests stay as they are


def config(folder: Path, **settings: Any) -> Path:
    file = folder / "account.yaml"
    file.write_text(
        json.dumps({"provider": "aws", "store": "s3://my-training-bucket/runs", "aws": {**SETTINGS, **settings}}), encoding="utf-8"
    )
    return file


def bench(folder: Path, **settings: Any) -> Bench:
    return new_bench(config_of(str(config(folder, **settings))), folder / "session", Options(), hide_accounts=False, note=lambda text: None)


def test_the_list_names_every_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--list"]) == 0
    printed = capsys.readouterr().out
    assert not [name for name in NAMES if name not in printed]


def test_the_upper_bound_is_the_time_limit_of_the_request_at_the_known_price(tmp_path: Path) -> None:
    found = estimates(bench(tmp_path), chosen(("accelerator", "two-nodes"), ()))
    by_name = {each.check.name: each.jobs[0] for each in found}
    gpu, two = by_name["accelerator"], by_name["two-nodes"]
    minutes = 10 + 0.5 + 15  # the duration, the grace period, and the margin of the request
    price = price_of("aws", "us-east-1", "ml.g4dn.xlarge")
    assert price is not None
    assert (gpu.machine, gpu.most_minutes) == ("ml.g4dn.xlarge", minutes)
    assert gpu.usd == pytest.approx(price.usd_per_hour * minutes / 60)
    assert (two.nodes, two.most_minutes, two.usd) == (2, 2 * minutes, None)
    assert bound(found) == (gpu.usd, 2 * minutes)


def test_a_job_that_several_checks_look_at_is_paid_once(tmp_path: Path) -> None:
    found = estimates(bench(tmp_path), chosen(("smallest-job", "output", "logs"), ()))
    assert [[job.kind for job in each.jobs] for each in found] == [["plain", "failing"], [], []]


def test_a_job_that_would_be_refused_costs_nothing_and_is_said(tmp_path: Path) -> None:
    [found] = estimates(bench(tmp_path, machine="ml.c5.xlarge"), chosen(("accelerator",), ()))
    assert any("aws.machine: ml.c5.xlarge" in reason for reason in found.refused)
    assert bound([found]) == (0, 0)


def test_nothing_starts_where_nobody_can_be_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    monkeypatch.setattr(command, "carry_out", lambda *_: pytest.fail("it started"))
    assert command.main([str(config(tmp_path)), "--folder", str(tmp_path / "session")]) == 2
    assert "add --yes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (["y", "n", "y", "n"], {"two-nodes"}),
        (["y", "y", "y", "y"], {"spot", "two-nodes", "accelerator"}),
        (["n"], None),
        ([""], None),
    ],
)
def test_the_checks_that_cost_most_are_asked_for_one_by_one(
    typed: list[str], expected: set[str] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stdin:
        def isatty(self) -> bool:
            return True

    carried: list[str] = []

    def carry_out(_bench: Bench, found: list[Estimate], _note: Note) -> tuple[list[Result], bool]:
        carried.extend(each.check.name for each in found)
        return [], False

    monkeypatch.setattr("sys.stdin", Stdin())
    monkeypatch.setattr("builtins.input", lambda *_: typed.pop(0))
    monkeypatch.setattr(command, "carry_out", carry_out)
    monkeypatch.setattr(command, "clean_up", lambda *_: [])
    status = command.main([str(config(tmp_path)), "--folder", str(tmp_path / "session")])
    costly = {check.name for check in CHECKS if check.costly}
    assert (status, carried == []) == ((2, True) if expected is None else (0, False))
    if expected is not None:
        assert set(carried) & costly == expected
        assert set(carried) - costly == set(NAMES) - costly
    assert not typed


def test_the_end_of_the_input_is_no_consent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def at_the_end(*_: object) -> str:
        raise EOFError

    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", at_the_end)
    monkeypatch.setattr(command, "carry_out", lambda *_: pytest.fail("it started"))
    assert command.main([str(config(tmp_path)), "--folder", str(tmp_path / "session")]) == 2


@pytest.mark.parametrize("where", ["carry_out", "clean_up", "reported"])
def test_an_interruption_anywhere_after_the_start_says_how_to_remove_what_is_left(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "carry_out", lambda *_: ([], True))
    monkeypatch.setattr(command, "clean_up", lambda *_: [])
    monkeypatch.setattr(command, where, interrupt)
    folder = tmp_path / "session"
    assert command.main([str(config(tmp_path)), "--yes", "--folder", str(folder)]) == 130
    said = capsys.readouterr().err
    assert "before anything was started" not in said
    assert f"--clean-up {folder}" in said


def test_a_config_file_whose_smallest_job_would_be_refused_pushes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "carry_out", lambda *_: pytest.fail("it started"))
    file = config(tmp_path, repository="111122223333.dkr.ecr.us-east-1.amazonaws.com/cloud-train")
    assert command.main([str(file), "--yes", "--only", "push", "--folder", str(tmp_path / "session")]) == 4
    assert "is a placeholder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["--only", "pull"], 2, "no such check: pull; the checks are permissions, quota"),
        ([], 2, "name a config file"),
        (["no-such-config"], 4, "config 'no-such-config' not found"),
    ],
)
def test_wrong_usage_says_what_to_do(words: list[str], status: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = [str(config(tmp_path)), *words] if "--only" in words else words
    assert command.main(given) == status
    assert said in capsys.readouterr().err


def test_a_folder_that_has_a_session_is_not_used_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench(tmp_path)
    assert command.main([str(config(tmp_path)), "--yes", "--folder", str(tmp_path / "session")]) == 2
    assert "has a session already" in capsys.readouterr().err


def test_every_price_has_a_source_and_a_date() -> None:
    assert prices()
    assert all(price.source and price.date for price in prices())
    with pytest.raises(ValueError, match="source"):
        Price.model_validate({"cloud": "aws", "region": "x", "machine": "y", "usd_per_hour": 1, "date": "2026-11-30"})
    assert FILE.name == "prices.yaml"
    assert price_of("aws", "eu-west-1", "ml.g4dn.xlarge") is None, "it is the price of another region"
