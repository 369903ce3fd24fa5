"""The checks' workbench: the client, the jobs, waiting for them, and the recorded responses of the services."""

import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from cloud_train import Client
from cloud_train.client import Run
from cloud_train.errors import CloudTrainError, NotFoundError
from cloud_train.job.config import Config, find_config, load_config
from cloud_train.orchestrator.connections import provider_at
from cloud_train.orchestrator.home import Home
from cloud_train.providers.aws.request import region_of
from cloud_train.providers.base import Handle, Provider, Request
from cloud_train.run.plan import Plan
from cloud_train.run.view import RunView
from cloud_train.storage.base import Store
from cloud_train.storage.registry import open_store
from tools.cloud_check.answers import Answers

NAME = "cloud-check"
"""The name of all jobs, and so the beginning of the names of everything that is created for them."""
TOKEN = "CLOUD_CHECK_TOKEN"
"""The environment variable of the planted secret."""
CLOUDS = ("aws", "gcp", "azure")
Result = TypeVar("Result")
_PROGRAMS = Path(__file__).with_name("programs")


class PatienceError(Exception):
    """Something did not happen in time, possibly because no machine was available."""


class EndedError(Exception):
    """A run ended before what a check waits for."""


@dataclass(frozen=True)
class Options:
    """The user's choices."""

    pace: float = 5.0
    """Seconds between two looks at a job or a log."""
    patience: float = 1800.0
    """Longest wait for a job to end, in seconds."""
    log_patience: float = 300.0
    """Longest wait for a line to show in the cloud's own log, in seconds."""
    spot_seconds: float = 120.0
    """How long the spot job waits to be preempted, in seconds."""
    accelerator: str = "T4"
    """The kind of accelerator of the check ``accelerator``."""
    confirm: Callable[[str], bool | None] = field(default=lambda question: None)
    """Asks the user about something that only a person can see; None if there is no answer."""


@dataclass
class Bench:
    """One session of checks. Everything that it creates is below ``store_url``, is named ``NAME``, or is an image of ``code``."""

    config: Config
    folder: Path
    answers: Answers
    options: Options
    stamp: str
    client: Client
    _plain: Run | None = None

    @property
    def cloud(self) -> str:
        """``aws``, ``gcp`` or ``azure``."""
        return str(self.config.provider)

    @property
    def settings(self) -> dict[str, Any]:
        """The cloud's settings in the config file."""
        return self.config.settings.get(self.cloud, {})

    @property
    def region(self) -> str | None:
        """The region of the jobs, if the config file names it."""
        if self.cloud == "aws":
            return region_of(self.settings)
        found = self.settings.get("location" if self.cloud == "azure" else "region")
        return str(found) if found else None

    @property
    def repository(self) -> str:
        """The repository for images in the config file; empty without one."""
        return str(self.settings.get("repository") or "")

    @property
    def store_url(self) -> str:
        """The folder of this session in the user's store."""
        return f"{str(self.config.store).rstrip('/')}/{NAME}-{self.stamp}"

    @property
    def store(self) -> Store:
        """The store at ``store_url``."""
        return open_store(self.store_url)

    @property
    def provider(self) -> Provider:
        """The cloud's provider."""
        return provider_at(Home(self.client.home), self.cloud)

    def plan(self, kind: str) -> tuple[Plan, Request, list[str]]:
        """A dry run: the plan of a job of this kind, its request, and why it would be refused. Nothing is sent."""
        with self._planted(kind):
            plan = self.client.plan(self.job(kind), config=str(self.config.file), store=self.store_url)
            return plan, *self.client.request(plan)

    def submit(self, kind: str) -> Run:
        """Start a job of this kind."""
        with self._planted(kind):
            return self.client.submit(self.job(kind), config=str(self.config.file), store=self.store_url, trust=True)

    def job(self, kind: str) -> Path:
        """The job file of this kind."""
        file = self.folder / f"{kind}.yaml"
        words, more = self._kinds()[kind]
        model = {"kind": "script", "command": ["python3", "check.py", *words], "directory": "code"}
        fields = {"name": NAME, "provider": self.cloud, "model": model, "limits": {"duration": "10 min"}, **more}
        file.write_text(json.dumps(fields), encoding="utf-8")
        return file

    def ended(self, run: Run) -> RunView:
        """Wait for a run's end, as the run directory has it. Raises PatienceError."""
        return self.until(lambda: view if (view := run.status(record=True)).state.is_end else None, f"the run {run.id} ends")

    def ended_at_cloud(self, run: Run) -> str:
        """Wait until the cloud, too, sees the end of a run's job; what the provider says about it. Raises PatienceError."""
        handle = self.handle(run)
        if handle is None:
            raise NotFoundError(f"the cloud has no job of {run.id}")
        seen = self.until(lambda: look if (look := self.provider.observe(handle)).state.is_end else None, f"the job of {run.id} ends")
        return f"{seen.cause}: {seen.message}"

    def printed(self, run: Run, line: str) -> RunView:
        """Wait until the run's program has printed this line. Raises PatienceError, and EndedError if it ends without."""

        def look() -> RunView | None:
            view = run.status(record=True)
            with suppress(NotFoundError):
                if line in run.logs().splitlines():
                    return view
            if view.state.is_end:
                raise EndedError(f"the run {run.id} ended without printing {line!r}: {view.state}, {view.message}")
            return None

        return self.until(look, f"{run.id} prints {line!r}")

    def until(self, look: Callable[[], Result | None], what: str, seconds: float | None = None) -> Result:
        """What ``look`` returns, as soon as it is not None. Raises PatienceError if it stays None."""
        deadline = time.monotonic() + (self.options.patience if seconds is None else seconds)
        while (found := look()) is None:
            if time.monotonic() > deadline:
                raise PatienceError(f"waited {seconds or self.options.patience:,.0f} s, and this did not happen: {what}")
            time.sleep(self.options.pace)
        return found

    def said(self, run: Run, what: str, node: int = 0) -> Any:
        """What the run's program said about ``what``; None if it said nothing."""
        begin = f"cloud-check {what}: "
        for line in run.logs(node=node).splitlines():
            if line.startswith(begin):
                return json.loads(line.removeprefix(begin))
        return None

    def handle(self, run: Run, attempt: int = 1) -> Handle | None:
        """The provider's reference to the run's job."""
        return self.provider.find(run.id, attempt, self.store_url, self.settings)

    @cached_property
    def token(self) -> str:
        """The planted secret."""
        value = f"cloud-check-{secrets.token_hex(16)}"
        self.answers.mask.learn(value)
        return value

    def plain(self) -> Run:
        """The run that several checks look at, after its end; only the first of them waits for it.

        Raises CloudTrainError if it cannot be started, and PatienceError if it does not end.
        """
        if self._plain is None:
            self._plain = self.submit("plain")
            self.ended(self._plain)
        elif not self._plain.view.state.is_end:
            raise PatienceError(f"the run {self._plain.id} did not end in time")
        return self._plain

    def stop_all(self) -> None:
        """Stop every run that has not ended, because a check no longer waits for it, and it costs money."""
        for run in self.client.each_run(record=True):
            if not run.view.state.is_end:
                with suppress(CloudTrainError):  # the end of the session tries again
                    run.cancel(wait=False, force=True)

    @contextmanager
    def _planted(self, kind: str) -> Iterator[None]:
        """The planted secret in the environment, for the kind of job that asks for it."""
        if kind != "secrets":
            yield
            return
        os.environ[TOKEN] = self.token
        try:
            yield
        finally:
            del os.environ[TOKEN]

    def _kinds(self) -> Mapping[str, tuple[list[str], dict[str, Any]]]:
        spot_seconds, accelerator = f"{self.options.spot_seconds:g}", f"{self.options.accelerator}:1"
        return {
            "plain": (["plain"], {}),
            "failing": (["failing"], {}),
            "cancel": (["waiting"], {}),
            "lost-answer": (["plain"], {}),
            "secrets": (["secret"], {"secrets": [TOKEN]}),
            "spot": (["spot", spot_seconds], {"resources": {"spot": True}, "retry": {"attempts": 2}}),
            "two-nodes": (["node"], {"resources": {"nodes": 2}}),
            "accelerator": (["accelerator"], {"resources": {"accelerator": accelerator}}),
        }


def config_of(name: str) -> Config:
    """The config file with this name or path. Raises CloudTrainError if it is not one of a cloud with a store."""
    config = load_config(find_config(name, Path()))
    if config.provider not in CLOUDS or config.store is None:
        raise CloudTrainError(
            f"{config.file}: cloud-check needs `provider` ({', '.join(CLOUDS)}) and `store`",
            hint="docs/clouds has a page for each cloud with an example",
        )
    return config


def write_code(folder: Path, stamp: str) -> None:
    """The folder that goes into the image: the program, and the session's name, so that no other image has the same digest."""
    code = folder / "code"
    code.mkdir(parents=True, exist_ok=True)
    shutil.copy(_PROGRAMS / "check.py", code / "check.py")
    (code / "session.txt").write_text(f"{stamp}\n", encoding="utf-8")
