"""What a test does with a place: write a job, submit it, wait for a moment of it, read what came of it. Nothing here knows a provider."""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from cloud_train.errors import NotFoundError
from cloud_train.orchestrator.following import follow
from cloud_train.orchestrator.home import Home
from cloud_train.orchestrator.packaging import with_image
from cloud_train.orchestrator.planning import make_plan
from cloud_train.orchestrator.reading import read_logs
from cloud_train.orchestrator.reconcile import update_run
from cloud_train.orchestrator.submitting import submit
from cloud_train.providers.registry import load_provider
from cloud_train.run import layout
from cloud_train.run.plan import Plan
from cloud_train.run.record import RunRecord, sha256_of
from cloud_train.run.view import RunView
from cloud_train.storage.base import Store
from cloud_train.storage.registry import open_store
from tests.conformance.place import FarPlace, Place
from tests.support import wait_until

Command = str | list[str]

NEAR_PACE, FAR_PACE = 0.01, 0.15
"""Seconds between two looks of a test that waits."""
READY = "echo ready"
"""A program says this when the test may go on."""
UNTIL_LET_GO = 'until [ -e "$CLOUD_TRAIN_CHECKPOINTS/go" ]; do sleep 0.02; done'
"""A program waits here until the test lets it go."""


def saving(step: int) -> str:
    """Shell that saves a checkpoint of this step, as docs/script-jobs.md says."""
    half = f'"$CLOUD_TRAIN_CHECKPOINTS/.step-{step}.tmp"'
    return f'mkdir {half}; echo {step} > {half}/weights; mv {half} "$CLOUD_TRAIN_CHECKPOINTS/{layout.step_folder(step)}"'


@dataclass(frozen=True)
class Bench:
    """A place, and a home, a folder and a store for one test."""

    place: Place
    home: Home
    folder: Path
    store_url: str
    config: Path

    @property
    def store(self) -> Store:
        return open_store(self.store_url)

    def job(self, command: Command, **more: Any) -> Path:
        """A script job that runs ``command``; ``more`` are further sections of its file."""
        return self.write({"model": {"kind": "script", "command": command, "directory": "code"}, **more})

    def write(self, sections: Mapping[str, Any]) -> Path:
        """A job file for this place with these sections."""
        path = self.folder / "job.yaml"
        fields = {"name": "conformance", "provider": self.place.name, "store": self.store_url, **self.place.job, **sections}
        path.write_text(json.dumps(fields), encoding="utf-8")  # which is YAML as well
        return path

    def plan(self, command: Command, **more: Any) -> Plan:
        return make_plan(self.home, self.job(command, **more), config=str(self.config))

    def start(self, command: Command, **more: Any) -> RunView:
        """Submit such a job."""
        return submit(self.home, self.plan(command, **more))

    def start_job(self, sections: Mapping[str, Any]) -> RunView:
        """Submit a job with these sections."""
        return submit(self.home, make_plan(self.home, self.write(sections), config=str(self.config)))

    def run(self, command: Command, **more: Any) -> RunView:
        """Submit such a job and wait for its end."""
        return self.end_of(self.start(command, **more))

    def start_until_ready(self, command: str, **more: Any) -> RunView:
        """Submit such a job, and wait until its program says that it is ready."""
        run = self.start(command, **more)
        self.wait_for_output(run, b"ready\n")
        return run

    def end_of(self, run: RunView) -> RunView:
        return list(follow(self.home, run.run_id))[-1].view

    def wait_for_output(self, run: RunView, text: bytes, node: int = 0) -> None:
        """Wait until the newest attempt's program has printed ``text`` there; fails at once if the run ends without."""

        def printed() -> bool:
            ended = update_run(self.home, run.run_id)
            said = b""
            with suppress(NotFoundError):  # the node has not begun to write
                said = self.output(run, node=node)
            found = text in said
            assert found or not ended.state.is_end, f"it ended without printing {text!r}: {ended}"
            return found

        self.wait_until(printed, f"{run.run_id} has printed {text!r}")

    def wait_until(self, condition: Callable[[], bool], what: str) -> None:
        """Return as soon as ``condition`` holds. Where each look is a request to a cloud, looks are fewer."""
        wait_until(condition, what, 60.0, FAR_PACE if self.is_far else NEAR_PACE)

    @property
    def is_far(self) -> bool:
        """Whether the place shares no folder with this machine."""
        return self.store.local_path("run") is None

    def kill(self, run: RunView) -> RunView:
        """Let the run's machine die; returns what it is then."""
        self.place.kill(self.home.folder, run.run_id)
        return self.end_of(run)

    def output(self, run: RunView, attempt: int | None = None, node: int = 0) -> bytes:
        return b"".join(read_logs(self.home, run.run_id, attempt, node))

    def words(self, run: RunView, attempt: int | None = None, node: int = 0) -> list[str]:
        """The lines of the output."""
        return self.output(run, attempt, node).decode().splitlines()

    def let_go(self, run_id: str) -> None:
        """Let a program go on that waits ``UNTIL_LET_GO``."""
        if self.store.local_path(run_id) is not None:
            self.store.put(f"{run_id}/{layout.CHECKPOINTS}/go", b"")
        else:
            cast(FarPlace, self.place).touch(run_id, f"{layout.CHECKPOINTS}/go")

    def data(self, files: Mapping[str, bytes]) -> str:
        """Lay files where the place's machines find them; returns the job's ``data.path``."""
        if self.store.local_path("data") is not None:
            for name, content in files.items():
                path = self.folder / "data" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            return "data"
        for name, content in files.items():
            self.store.put(f"data/{name}", content)
        return f"{self.store_url}/data"

    def checkpoint(self, run: RunView, step: int, file: str) -> str:
        """The key of a file of a checkpoint."""
        return f"{run.run_id}/{layout.CHECKPOINTS}/{layout.step_folder(step)}/{file}"

    def is_sealed(self, run: RunView, step: int) -> bool:
        """Whether the checkpoint of this step has its manifest."""
        key = self.checkpoint(run, step, layout.MANIFEST)
        return any(info.key == key for info in self.store.list(key))

    def prepared(self, plan: Plan) -> Plan:
        """All of a submission but the ledger and the launch, for a test that speaks to the provider itself."""
        if load_provider(plan.provider, self.home.folder).capabilities.containers:
            provider = load_provider(plan.provider, self.home.folder)
            plan = with_image(self.home, provider, plan, lambda _: None)
        record = RunRecord(plan.run_id, 1.0, plan.job.model_dump(mode="json"), plan.program, plan.facts(), {})
        self.store.create(f"{plan.run_id}/{layout.RUN}", record.to_json())
        return replace(plan, record_sha256=sha256_of(record.to_json()))
