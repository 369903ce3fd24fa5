"""The queue of the local provider: real workers that wait for the cores and the GPUs of this machine."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cloud_train.orchestrator.home import Home
from cloud_train.orchestrator.planning import make_plan
from cloud_train.providers.base import Handle
from cloud_train.providers.local import LocalProvider
from cloud_train.run import layout
from cloud_train.run.record import RunRecord, sha256_of
from cloud_train.run.states import State
from cloud_train.storage.local import LocalStore
from tests.fake_driver import build_driver
from tests.support import wait_until

CORES = len(os.sched_getaffinity(0))


class Runs:
    """Runs on the local provider; each waits until its file is there, and then prints the GPUs that it sees."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.provider = LocalProvider(folder / "home")
        self.handles: dict[str, Handle] = {}

    def start(self, name: str, resources: str) -> None:
        command = f"until [ -e {self.folder}/{name}.end ]; do sleep 0.05; done; echo sees $CUDA_VISIBLE_DEVICES"
        job = self.folder / f"{name}.yaml"
        job.write_text(f"name: {name}\nmodel: {{kind: script, command: '{command}'}}\nstore: runs\nresources: {resources}\n")
        plan = make_plan(Home(self.folder / "home"), job)
        record = RunRecord(plan.run_id, 1.0, plan.job.model_dump(mode="json"), plan.program, plan.facts(), {})
        LocalStore(Path(plan.store)).create(f"{plan.run_id}/{layout.RUN}", record.to_json())
        request = self.provider.render(replace(plan, record_sha256=sha256_of(record.to_json())))
        self.handles[name] = self.provider.launch(request, {})

    def is_at_work(self, name: str) -> bool:
        return (Path(self.handles[name].store) / self.handles[name].run_id / layout.status(1)).exists()

    def waits(self, name: str) -> str:
        seen = self.provider.observe(self.handles[name])
        return seen.message if seen.state is State.QUEUED else ""

    def let_end(self, name: str) -> str:
        (self.folder / f"{name}.end").touch()
        wait_until(lambda: self.provider.observe(self.handles[name]).state.is_end, f"{name} has ended")
        handle = self.handles[name]
        return (Path(handle.store) / handle.run_id / layout.output_log(1)).read_text()


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Runs]:
    made = Runs(tmp_path)
    yield made
    for handle in made.handles.values():
        made.provider.cancel(handle, force=True)


def test_a_run_that_asks_for_all_cores_waits_until_they_are_free(runs: Runs) -> None:
    runs.start("first", f"{{cpus: {CORES}}}")
    wait_until(lambda: runs.is_at_work("first"), "the first is at work")
    runs.start("second", "{cpus: 1}")
    wait_until(lambda: bool(runs.waits("second")), "the second is in the queue")
    first = runs.handles["first"].run_id
    assert runs.waits("second") == f"place 1 in this machine's queue: the run asks for 1 core; {first} must end first"
    assert not runs.is_at_work("second")
    runs.start("third", "{}")  # asks for nothing, and is not held up
    wait_until(lambda: runs.is_at_work("third"), "the third is at work")
    runs.let_end("first")
    wait_until(lambda: runs.is_at_work("second"), "the second is at work")
    assert runs.provider.observe(runs.handles["second"]).state is State.RUNNING


def test_a_run_that_is_cancelled_in_the_queue_never_starts_and_lets_the_next_ahead(runs: Runs) -> None:
    runs.start("first", f"{{cpus: {CORES}}}")
    wait_until(lambda: runs.is_at_work("first"), "the first is at work")
    for name in ("second", "third"):
        runs.start(name, f"{{cpus: {CORES}}}")
        wait_until(lambda name=name: bool(runs.waits(name)), f"the {name} is in the queue")  # type: ignore[misc]
    assert runs.waits("third").startswith("place 2")
    runs.provider.cancel(runs.handles["second"])
    wait_until(lambda: runs.waits("third").startswith("place 1"), "the third is next")
    assert not runs.is_at_work("second")
    runs.let_end("first")
    wait_until(lambda: runs.is_at_work("third"), "the third is at work")


def test_runs_that_ask_for_a_gpu_each_see_another_one(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", str(build_driver(runs.folder)))
    monkeypatch.setenv("FAKE_COUNT", "2")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for name in ("first", "second"):
        runs.start(name, "{accelerator: 'L4:1'}")
        wait_until(lambda name=name: runs.is_at_work(name), f"the {name} is at work")  # type: ignore[misc]
    runs.start("third", "{accelerator: 'L4:1'}")
    wait_until(lambda: runs.waits("third").startswith("place 1"), "the third is in the queue")
    assert runs.let_end("second") == "sees 1\n"
    wait_until(lambda: runs.is_at_work("third"), "the third is at work")
    assert runs.let_end("third") == "sees 1\n"
    assert runs.let_end("first") == "sees 0\n"
