"""Whatever stands in a job file: a JobSpec, or mistakes with their places."""

import copy
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloud_train.job.loading import LoadedJob, load_job
from cloud_train.job.models import JobSpec
from cloud_train.spec.problems import JobFileError, Problem

QUICK = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
WORDS = st.sampled_from(
    [
        *("name", "model", "kind", "cnn", "script", "command", "data", "dataset", "text", "train", "epochs", "env", "secrets", "a", "b"),
        *("5", "1e-3", "no", "null", "0o8", ".inf", "---", "...", "<<", "\t", "\n", "\r", "\x85", "\u2028", "\ufeff", "é", "\x00"),
        *"[]{}:,-?&*!|>'\"#%@`~",
    ]
)
YAML_LIKE = st.lists(st.one_of(WORDS, st.sampled_from(["\n", " ", "  ", ": ", "\n- ", "\n  "])), max_size=60).map("".join)
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8))
VALUES = st.recursive(
    LEAVES, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)), max_leaves=8
)

NAMES = st.builds(
    lambda first, middle, last: first + middle + last,
    st.sampled_from("abz059"),
    st.text("abz059-", max_size=38),
    st.sampled_from("abz059"),
)

WHOLE: dict[str, Any] = {
    "name": "whole",
    "model": {
        "kind": "cnn",
        "blocks": [{"filters": 4, "kernel": 3, "stride": 1, "padding": 1, "norm": "batch", "pool": 2, "dropout": 0.1}],
        "head": "average",
        "dropout": 0.1,
    },
    "data": {
        "dataset": "digits",
        "size": 12,
        "validation": 0.2,
        "augment": {"flip": False, "crop": 2},
        "normalize": {"mean": [0.1], "std": [0.3]},
    },
    "train": {
        "epochs": 2,
        "batch_size": 8,
        "accumulate": 2,
        "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.5, "nesterov": True, "weight_decay": 0.1, "no_decay": ["bias"]},
        "schedule": {"name": "step", "warmup": "5 steps", "every": "1 epoch", "factor": 0.5},
        "clip_norm": 1.0,
        "label_smoothing": 0.1,
        "class_weights": "balanced",
        "ema": 0.9,
        "early_stopping": {"metric": "validation/loss", "goal": "min", "patience": 2, "min_delta": 0.1},
        "evaluate": "1 epoch",
        "precision": "bf16",
        "tensorboard": False,
        "seed": 1,
    },
    "checkpoint": {"every": "1 epoch", "keep": 2, "best": {"metric": "validation/loss", "goal": "min", "keep": 2}},
    "resources": {"accelerator": "L4:1", "cpus": 2, "memory": "8GB", "nodes": 1, "processes": 2, "spot": False},
    "provider": "local",
    "store": "runs",
    "image": {"base": "python:3.12-slim"},
    "env": {"TZ": "b"},
    "secrets": ["TOKEN"],
    "retry": {"attempts": 2, "on": ["failed"]},
    "limits": {"duration": "2 h", "grace": "30 s"},
}
CHOICES = {"kind", "dataset"}  # what the fields beside them mean hangs on these, so a mistake in them hides others


def read(folder: Path, data: bytes) -> LoadedJob | JobFileError:
    """Either of the two answers there are; every place lies in the file."""
    file = folder / "job.yaml"
    file.write_bytes(data)
    lines = re.split("\r\n|[\n\r\x85\u2028\u2029]", data.decode("utf-8-sig", errors="replace"))
    try:
        return load_job(file)
    except JobFileError as error:
        found = error
    assert found.problems
    for problem in found.problems:
        line, column, source = problem.place.line, problem.place.column, problem.place.source
        assert line is not None
        assert column is not None
        assert 1 <= line <= len(lines)
        assert 1 <= column <= max(len(source), len(lines[line - 1])) + 1
        assert problem.message
        assert problem.render() in found.message or len(found.problems) > 50
    return found


@QUICK
@given(data=st.binary(max_size=200))
def test_any_bytes_are_a_job_or_mistakes_with_places(tmp_path: Path, data: bytes) -> None:
    read(tmp_path, data)


@pytest.mark.slow
@settings(QUICK, max_examples=250)
@given(text=st.one_of(YAML_LIKE, st.text(max_size=100)))
def test_any_text_is_a_job_or_mistakes_with_places(tmp_path: Path, text: str) -> None:
    read(tmp_path, text.encode("utf-8", errors="surrogatepass"))
    read(tmp_path, b"name: a\nmodel: {kind: script, command: x}\ntrain: " + text.encode("utf-8", errors="surrogatepass"))


@pytest.mark.slow
@settings(QUICK, max_examples=150)
@given(data=st.data())
def test_any_value_in_any_place_is_a_job_or_mistakes_with_places(tmp_path: Path, data: st.DataObject) -> None:
    job = copy.deepcopy(WHOLE)
    for path in data.draw(st.lists(st.sampled_from([*paths(WHOLE)]), min_size=1, max_size=3)):
        put(job, path, data.draw(VALUES))
    read(tmp_path, json.dumps(job).encode())


@QUICK
@given(data=st.data())
def test_a_value_is_found_where_it_was_written(tmp_path: Path, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from([path for path in paths(WHOLE) if not isinstance(at(WHOLE, path), dict | list)]))
    job = copy.deepcopy(WHOLE)
    put(job, path, {"not": "this"})
    found = read(tmp_path, json.dumps(job, indent=2).encode())
    assert isinstance(found, JobFileError)
    (problem,) = [
        problem
        for problem in found.problems
        if "secrets" in path or "env" in path or "cannot be" in problem.message or "unknown" in problem.message
    ]
    assert problem.place.source[(problem.place.column or 0) - 1 :].startswith("{")


@QUICK
@given(data=st.data())
def test_all_mistakes_are_reported_at_once(tmp_path: Path, data: st.DataObject) -> None:
    leaves = [path for path in paths(WHOLE) if not isinstance(at(WHOLE, path), dict | list) and path[-1] not in CHOICES]
    wrong = data.draw(st.sets(st.sampled_from(leaves), min_size=1, max_size=6))
    unknown = data.draw(
        st.sets(st.sampled_from([path for path in paths(WHOLE) if isinstance(at(WHOLE, path), dict) and path != ("env",)]), max_size=3)
    )
    job = copy.deepcopy(WHOLE)
    for path in wrong:
        put(job, path, [[]])
    for path in unknown:
        at(job, path)["zzz"] = 1
    found = read(tmp_path, json.dumps(job, indent=2).encode())
    assert isinstance(found, JobFileError)
    lines = {problem.place.line for problem in found.problems}
    assert len(lines) == len(found.problems) == len(wrong) + len(unknown)


@QUICK
@given(data=st.data())
def test_a_spec_survives_being_written_as_json(tmp_path: Path, data: st.DataObject) -> None:
    job = copy.deepcopy(WHOLE)
    job["name"] = data.draw(NAMES)
    job["train"]["optimizer"]["lr"] = data.draw(st.floats(0, exclude_min=True, allow_infinity=False))
    job["env"] = data.draw(
        st.dictionaries(st.sampled_from(["TZ", "LANG", "LC_ALL"]), st.text(st.characters(exclude_categories=["Cs", "Cc"])), max_size=3)
    )
    job["checkpoint"]["every"] = data.draw(st.sampled_from(["3 epochs", "1 step", "0.5 s", "90 min"]))
    job["limits"]["duration"] = data.draw(st.one_of(st.none(), st.integers(1, 10**6), st.sampled_from(["1.5h", "3 d"])))
    loaded = read(tmp_path, json.dumps(job).encode())
    assert isinstance(loaded, LoadedJob)
    again = JobSpec.model_validate_json(json.dumps(loaded.spec.model_dump(mode="json")))
    assert again == loaded.spec
    assert again.name == job["name"]
    assert again.train.optimizer.lr == job["train"]["optimizer"]["lr"]
    assert again.env == job["env"]


@QUICK
@given(key=st.text(max_size=20), value=st.text(max_size=30), prefix=st.sampled_from(["", "train.", "model.blocks.0.", "env.", "retry.on."]))
def test_any_override_is_applied_or_a_mistake_with_its_place(tmp_path: Path, key: str, value: str, prefix: str) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(json.dumps(WHOLE))
    try:
        load_job(file, [f"{prefix}{key}={value}"])
        problems: tuple[Problem, ...] = ()
    except JobFileError as error:
        problems = error.problems
    assert all(str(problem.place).startswith(("--set ", f"{file}:")) for problem in problems)


def test_the_whole_job_of_these_tests_is_a_job(tmp_path: Path) -> None:
    found = read(tmp_path, json.dumps(WHOLE).encode())
    assert isinstance(found, LoadedJob)
    assert set(WHOLE) == set(JobSpec.model_fields)


def paths(value: Any, here: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The path of everything inside ``value``."""
    yield here
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in inside:
        yield from paths(inner, (*here, key))


def at(value: Any, path: tuple[str | int, ...]) -> Any:
    for part in path:
        value = value[part]
    return value


def put(job: dict[str, Any], path: tuple[str | int, ...], value: Any) -> None:
    """Put ``value`` at ``path``, if that is still there."""
    try:
        at(job, path[:-1])[path[-1]] = value
    except (TypeError, KeyError, IndexError):
        return


@pytest.mark.parametrize("name", ["job\udcff.yaml", "a b.yaml", "ä.yaml"])
def test_a_file_may_have_an_odd_name(tmp_path: Path, name: str) -> None:
    file = tmp_path / os.fsdecode(os.fsencode(name))
    file.write_text("name: A\nmodel: {kind: script, command: x}\n")
    with pytest.raises(JobFileError) as caught:
        load_job(file)
    assert str(caught.value.problems[0].place) == f"{file}:1:7"
