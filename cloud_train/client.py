"""The Python interface: everything that the command line can do with jobs and runs.

::

    client = Client()
    run = client.submit("job.yaml", set={"train.epochs": 2})
    for event in run.follow():
        ...
    run.fetch_model("model")

Nothing here prints or asks at a terminal. ``note`` is called with messages about slow steps and minor failures; ``ask`` is called to accept
another person's decisions, such as a config file that came with a job, unless ``trust=True`` accepts them.

Methods that only read change nothing in the ledger, in the store or at the provider. ``submit``, ``follow``, ``wait``, ``resume`` and
``cancel`` record their findings; so do ``status`` and ``runs`` with ``record=True``.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from cloud_train import orchestrator
from cloud_train.errors import MissingDependencyError, UsageError

if TYPE_CHECKING:
    from cloud_train.image.recipe import Built
    from cloud_train.orchestrator.adopting import Listed
    from cloud_train.orchestrator.consent import Question
    from cloud_train.orchestrator.doctor import Finding
    from cloud_train.orchestrator.following import Event, Progress
    from cloud_train.orchestrator.given_values import GivenValues
    from cloud_train.orchestrator.home import Home
    from cloud_train.orchestrator.packing import Packed
    from cloud_train.orchestrator.repairing import Repair
    from cloud_train.orchestrator.results import Artifacts, FetchedModel
    from cloud_train.orchestrator.resuming import Waiting
    from cloud_train.orchestrator.summaries import Summary
    from cloud_train.orchestrator.syncing import SyncResult
    from cloud_train.orchestrator.uploading import Uploaded
    from cloud_train.providers.base import Request
    from cloud_train.run.metrics import MetricPoint
    from cloud_train.run.plan import Plan
    from cloud_train.run.states import State
    from cloud_train.run.view import RunView
    from cloud_train.storage.transfer.progress import Progress as Transfer

AnyPath: TypeAlias = str | PathLike[str]
Note: TypeAlias = Callable[[str], None]
"""Called with one sentence about a slow step or a minor failure."""
Ask: TypeAlias = Callable[["Question"], bool]
"""Called to accept another person's decisions; returns whether they are accepted."""
Report: TypeAlias = Callable[["Transfer"], None]
"""Called with a transfer's progress, a few times a second and at the end."""
Overrides: TypeAlias = Mapping[str, object] | Sequence[str]
"""Values by dotted key, such as ``{"train.epochs": 2}``, or ``key=value`` strings as for ``--set``."""


class Client:
    """Jobs and runs of one user on this machine.

    ``home`` is the folder of the ledger, by default ``$CLOUD_TRAIN_HOME`` or ``~/.cloud-train``. ``note`` and ``ask`` are described above;
    without ``ask``, anything that needs to be accepted is refused with NotTrustedError.
    """

    def __init__(self, home: AnyPath | None = None, *, note: Note | None = None, ask: Ask | None = None) -> None:
        self._home = orchestrator.home.Home.at(home) if home else orchestrator.home.Home.from_environment()
        self._note: Note = note or (lambda _: None)
        self._ask: Ask = ask or (lambda _: False)

    def __repr__(self) -> str:
        return f"Client({str(self.home)!r})"

    @property
    def home(self) -> Path:
        """The folder of the ledger."""
        return self._home.folder

    def plan(
        self,
        job: AnyPath,
        *,
        set: Overrides = (),
        config: str | None = None,
        provider: str | None = None,
        store: str | None = None,
    ) -> "Plan":
        """A dry run: the plan that ``submit`` would carry out. Nothing is written or sent, and every config file is used without asking.

        Raises JobFileError, which lists every mistake in the files, and ProviderError if the provider cannot carry out the plan.
        """
        return orchestrator.planning.make_plan(self._home, Path(job), _override_texts(set), config, provider, store=store, dry_run=True)

    def request(self, plan: "Plan") -> "tuple[Request, list[str]]":
        """The request to the provider for ``plan``, and the reasons why it would be refused."""
        return orchestrator.planning.request_of(self._home, plan)

    def console_url(self, plan: "Plan", request: "Request") -> str | None:
        """URL of the page in the provider's console that the plan's job would have; None if there is none, or it is not known yet."""
        return orchestrator.console.url_of_plan(self._home, plan, request)

    def submit(
        self,
        job: AnyPath,
        *,
        set: Overrides = (),
        config: str | None = None,
        provider: str | None = None,
        store: str | None = None,
        trust: bool = False,
        follow: bool = False,
    ) -> "Run":
        """Start a run of the job file and return it; with ``follow``, return when the run has ended.

        ``config`` is the name or path of a config file; ``provider`` and ``store`` override it. ``trust`` accepts a config file that came
        with the job. Raises JobFileError, NotTrustedError, and ProviderError if the provider refuses the run.
        """
        configs = orchestrator.configs.Configs(self._home, self._accepting(trust), self._note)
        plan = orchestrator.planning.make_plan(self._home, Path(job), _override_texts(set), config, provider, store=store, configs=configs)
        view = orchestrator.submitting.submit(self._home, plan, self._note)
        run = Run(self, view.run_id, view)
        if follow:
            run.wait()
        return run

    def runs(
        self,
        limit: int | None = None,
        *,
        name: str | None = None,
        states: "Iterable[State | str]" = (),
        record: bool = False,
        check_ended: bool = True,
    ) -> "list[Run]":
        """The newest runs, newest first, each with its ``view``; for a run that cannot be checked, the view is from the ledger.

        ``name`` keeps the runs of the job with this name, ``states`` those in these states, before they are counted. ``record`` records
        the findings, as ``cloud-train list`` does. Without ``check_ended``, what the ledger has as ended is not checked for an attempt from
        another machine. Raises UsageError for an unknown state.
        """
        return list(self.each_run(limit, name=name, states=states, record=record, check_ended=check_ended))

    def each_run(
        self,
        limit: int | None = None,
        *,
        name: str | None = None,
        states: "Iterable[State | str]" = (),
        record: bool = False,
        check_ended: bool = True,
    ) -> "Iterator[Run]":
        """As ``runs``, one run after another as they are needed: for ledgers with very many of them."""
        wanted = _states(states)
        look = orchestrator.reconcile.update_each if record else orchestrator.listing.read_runs
        # A run's state is known only after the run was checked, so the ledger cannot count those in a state.
        views = look(self._home, None if wanted else limit, self._note, name=name, check_ended=check_ended)
        found = (Run(self, view.run_id, view) for view in views if not wanted or view.state in wanted)
        return islice(found, limit)

    def summaries(self, runs: "Iterable[Run | RunView]") -> "Iterator[Summary]":
        """The runs with their progress and the metric that decides which checkpoint is the best, as ``cloud-train list`` shows them.

        ``runs`` are those of ``runs``, ``each_run`` or ``runs_in``. They are read as they are needed; of the first 200 their run
        directories, the others have only their view.
        """
        return orchestrator.summaries.summaries((run.view if isinstance(run, Run) else run for run in runs), self._note)

    def run(self, run_id: str | None = None, *, latest: bool = False, config: str | None = None, trust: bool = False) -> "Run":
        """The run whose id begins or ends with ``run_id``; by default the newest run. Raises NotFoundError, also if several match.

        With ``latest``, the name of a job alone means the newest of its runs.

        ``run_id`` may also be the URL or the path of a run directory. If the ledger does not have that run, or cannot be read, the run is
        used without recording anything on this machine, and only ``cancel`` changes anything; its provider is asked with the settings in
        ``config``, which is only for this. ``resume`` adopts the run first.
        """
        if run_id is None or "/" not in run_id:
            if config is not None:
                raise UsageError("a config file is only used for a run directory's URL", hint="omit it: the run's own settings are used")
            return Run(self, orchestrator.listing.select(self._home, run_id, latest=latest))
        configs = orchestrator.configs.Configs(self._home, self._accepting(trust))
        home, found = orchestrator.visiting.visit(self._home, run_id, config, configs, self._note)
        return Run(self, found, home=home, url=None if home is self._home else run_id)

    def runs_in(self, store: str, *, name: str | None = None, states: "Iterable[State | str]" = ()) -> "Listed":
        """The runs in the store with this URL, from any machine, and the run directories that cannot be read.

        ``name`` and ``states`` choose among the runs, as in ``runs``. Raises UsageError for an unknown state.
        """
        wanted = _states(states)
        listed = orchestrator.adopting.runs_in(store)
        chosen = [run for run in listed.runs if (name is None or run.name == name) and (not wanted or run.state in wanted)]
        return replace(listed, runs=chosen)

    def adopt(self, url: str, *, config: str | None = None, trust: bool = False) -> "Run":
        """Track the run whose run directory is at ``url``, submitted from another machine. Raises NotFoundError, ConflictError."""
        configs = orchestrator.configs.Configs(self._home, self._accepting(trust))
        view = orchestrator.adopting.adopt(self._home, url, config, configs, note=self._note)
        return Run(self, view.run_id, view)

    def package(
        self,
        job: AnyPath,
        *,
        set: Overrides = (),
        config: str | None = None,
        provider: str = "docker",
        push: bool = False,
        repository: str | None = None,
        trust: bool = False,
    ) -> "Built":
        """Build a job's container image, or reuse it: in the local engine, or with ``push`` in a registry.

        ``repository`` overrides the one in the provider's settings. Raises ImageError, ProviderError and UsageError.
        """
        configs = orchestrator.configs.Configs(self._home, self._accepting(trust), self._note)
        plan = orchestrator.planning.make_plan(self._home, Path(job), _override_texts(set), config, provider, dry_run=True, configs=configs)
        if not push:
            return orchestrator.packaging.build_image(plan, self._note)
        repository = repository or plan.provider_settings.get("repository")
        if not repository:
            raise UsageError(
                f"no image repository is configured for provider {provider!r}",
                hint=f"add --repository HOST/NAME, or `repository` to the settings of {provider!r} in configs/NAME.yaml",
            )
        place = orchestrator.connections.provider_at(self._home, plan.provider)
        orchestrator.packaging.refuse_repository(place, plan, str(repository))
        return orchestrator.packaging.push_image(self._home, place, plan, str(repository), self._note)

    def upload(self, source: AnyPath, url: str, *, report: Report | None = None) -> "Uploaded":
        """Copy a folder or a file of data to ``url`` in a store; what is there already is not sent again. Every object is verified."""
        return orchestrator.uploading.upload_data(Path(source), url, report)

    def pack(self, folder: AnyPath, destination: str, *, shard_bytes: int = 256_000_000, report: Report | None = None) -> "Packed":
        """Pack a folder of images into tar shards with an index, in a folder or at a URL in a store."""
        return orchestrator.packing.pack(Path(folder), destination, shard_bytes, report)

    def trust(self, config_file: AnyPath) -> dict[str, Any]:
        """Trust a config file that came with a job, as it is now; returns everything that it sets, by name."""
        return orchestrator.configs.trust_file(self._home, Path(config_file))

    def examine(
        self, stores: Sequence[str] = (), *, config: str | None = None, job: AnyPath | None = None, trust: bool = False
    ) -> "list[Finding]":
        """Check what is installed and what is missing, and how to fix it, as ``cloud-train doctor`` does."""
        return orchestrator.doctor.examine(self._home, stores, config, job=Path(job) if job else None, ask=self._accepting(trust))

    def repair_ledger(self, stores: Sequence[str] = ()) -> "Repair":
        """Repair a damaged ledger, as ``cloud-train doctor --repair`` does; lost runs are also looked up in ``stores``."""
        return orchestrator.repairing.repair(self._home, stores, self._note)

    def providers(self) -> list[str]:
        """The names of the installed providers."""
        return orchestrator.connections.provider_names(self._home)

    def _accepting(self, trust: bool) -> Ask:
        return (lambda _: True) if trust else self._ask


class Run:
    """One run. Created by ``Client``; objects with the same id are equal."""

    def __init__(
        self, client: Client, run_id: str, view: "RunView | None" = None, *, home: "Home | None" = None, url: str | None = None
    ) -> None:
        self._client, self._home, self._view = client, home or client._home, view
        self._noted: set[str] = set()
        self.id = run_id
        self.url = url
        """The URL or path of its run directory, if it was named by that and the ledger does not have it; otherwise None."""

    def __repr__(self) -> str:
        return f"<Run {self.id}{f': {self._view.state_text}' if self._view else ''}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Run) and (other.id, other._home) == (self.id, self._home)

    def __hash__(self) -> int:
        return hash(self.id)

    @property
    def view(self) -> "RunView":
        """The run's last known state; if none is known yet, the run is checked now."""
        return self._view or self.status()

    @property
    def console_url(self) -> str | None:
        """URL of the newest attempt's page in the provider's console; None if there is none, or if it is not known here."""
        return orchestrator.console.url_of_run(self._home, self.id)

    def status(self, *, record: bool = False) -> "RunView":
        """The run's current state. ``record`` records the findings, as ``cloud-train status`` does."""
        if record:
            self._view = view = orchestrator.reconcile.update_run(self._home, self.id, self._client._note)
        else:
            self._view = view = orchestrator.state.read_run(self._home, self.id)
        return view

    def progress(self, *, record: bool = False) -> "Progress":
        """The run's current state, with its newest metrics, its speed and the remaining time."""
        seen = orchestrator.following.glance(self._home, self.id, note=self._client._note, record=record)
        self._view = seen.view
        return seen

    def watch(self) -> "Iterator[Progress]":
        """Watch the run until it ends; yields every change, and the end last."""
        for seen in orchestrator.following.follow(self._home, self.id, note=self._client._note):
            self._view = seen.view
            yield seen

    def follow(self) -> "Iterator[Event]":
        """The run's events until it ends: ``StateChange``, ``LogLine`` and ``MetricPoint``, as they occur."""
        return orchestrator.following.events(self.watch())

    def wait(self) -> "RunView":
        """Wait until the run ends; returns its final state."""
        for _ in self.watch():
            pass
        return self.view

    def logs(self, *, attempt: int | None = None, node: int = 0, tail: int | None = None) -> str:
        """The program's output as text; bytes that are not UTF-8 are replaced. Raises NotFoundError for an attempt without a log."""
        return b"".join(self.log_bytes(attempt=attempt, node=node, tail=tail)).decode(errors="replace")

    def log_bytes(
        self, *, attempt: int | None = None, node: int = 0, tail: int | None = None, follow: bool = False, record: bool = True
    ) -> Iterator[bytes]:
        """The program's output, byte for byte, in pieces; with ``follow`` until the run ends, including further attempts.

        ``record``: whether following records its findings.
        """
        if follow:
            if attempt is not None:
                raise UsageError("only the newest attempt can be followed; omit the attempt")
            return orchestrator.reading.follow_logs(self._home, self.id, node, tail, note=self._client._note, record=record)
        return orchestrator.reading.read_logs(self._home, self.id, attempt, node, tail)

    def worker_log(self, *, attempt: int | None = None, node: int = 0) -> list[str]:
        """The lines of the worker's own log: where it resumed, which checkpoints it skipped, how the attempt ended."""
        return orchestrator.reading.read_worker_log(self._home, self.id, attempt, node)

    def provider_logs(self) -> list[str]:
        """The lines of the cloud's own log of the newest attempt; empty for a provider on this machine."""
        return orchestrator.reading.read_provider_logs(self._home, self.id)

    def metrics(self, *, thin: bool = False) -> "Metrics":
        """The metrics in order of their steps; if several attempts have a step, the last one counts.

        Of more than 500,000 values, only some of the most frequent metrics are kept. ``thin`` keeps of a long run what a plot or a table of
        its epochs needs: of each metric the lowest and highest value in each of about a thousand parts, and the last one of each epoch.
        """
        return Metrics(orchestrator.reading.read_metrics(self._home, self.id, note=self._note_once, thin=thin))

    def _note_once(self, line: str) -> None:
        """Metrics are read again when a run may just have ended."""
        if line not in self._noted:
            self._noted.add(line)
            self._client._note(line)

    def each_metric(self) -> "Iterator[MetricPoint]":
        """Every value of every metric, one after another: for runs with more of them than memory takes."""
        return orchestrator.reading.each_metric(self._home, self.id)

    def given(self) -> "GivenValues":
        """The values of the run's job that differ from the defaults, those of ``submit --set``, and those of ``resume --set``."""
        return orchestrator.given_values.given_values(self.view)

    def artifacts(self) -> "Artifacts":
        """Whether the run has saved a final model, and a checkpoint to continue from."""
        return orchestrator.results.artifacts(self.view)

    def fetch_model(
        self, folder: AnyPath | None = None, *, checkpoint: str | int | None = None, report: Report | None = None
    ) -> "FetchedModel":
        """Copy the model, verified, into ``folder`` (``./<run id>-model`` by default); ``checkpoint`` is ``best``, ``last`` or a step.

        Raises NotFoundError if there is no such model, ConflictError if the folder has other content or an overtaken attempt made the
        model.
        """
        chosen = None if checkpoint is None else str(checkpoint)
        return orchestrator.results.fetch_model(self._home, self.id, _path(folder), chosen, report, note=self._client._note)

    def sync(self, folder: AnyPath | None = None, *, report: Report | None = None) -> "SyncResult":
        """Copy the run directory into ``folder`` (``./<run id>`` by default); unchanged files are not copied again."""
        return orchestrator.syncing.sync(self._home, self.id, _path(folder), report)

    def resume(
        self,
        *,
        provider: str | None = None,
        store: str | None = None,
        config: str | None = None,
        data: str | None = None,
        changes: Sequence[str] = (),
        current_code: bool = False,
        trust: "bool | Ask" = False,
        on_wait: "Callable[[Waiting], None] | None" = None,
    ) -> "Run":
        """Start the next attempt, from the newest valid checkpoint; returns this run.

        With ``provider``, ``store``, ``config`` or ``data`` the run continues there. ``changes`` are ``key=value`` texts, such as
        ``train.epochs=10``, with which a run trains on even after success. A script runs the run's own code, or with ``current_code`` the
        code as it is now. ``trust`` accepts a run from another machine: True, or
        a function like ``ask``. An attempt that was started from another machine, and may be alive, is given 45 seconds for a heartbeat;
        ``on_wait`` is called when that wait begins, or else ``note``. Raises ConflictError while the run is active, if it has succeeded and
        no change makes it train on, and if its code has changed; UsageError for a change that would make it another run.
        """
        elsewhere = None
        if provider or store or config or data or changes or current_code:
            elsewhere = orchestrator.resuming.Elsewhere(provider, store, config, data, tuple(changes), current_code)
        ask = trust if callable(trust) else self._client._accepting(trust)
        if self.url is not None:  # an attempt costs money, so it has to be recorded
            self._client.adopt(self.url)
            self._home, self.url = self._client._home, None
        self._view = orchestrator.resuming.resume(
            self._home, self.id, self._client._note, elsewhere=elsewhere, ask=ask, ask_of_configs=self._client._ask, on_wait=on_wait
        )
        return self

    def cancel(self, *, wait: bool = True, force: bool = False) -> "RunView":
        """Stop the run after time for a last checkpoint, or at once with ``force``. Raises ConflictError if it ended otherwise."""
        self._view = view = orchestrator.stopping.cancel(self._home, self.id, wait=wait, force=force, note=self._client._note)
        return view

    def predict(
        self,
        images: AnyPath | Sequence[AnyPath] = (),
        *,
        texts: str | Sequence[str] = (),
        checkpoint: str | int | None = None,
        invert: bool = False,
    ) -> list[dict[str, Any]]:
        """The class of each image file or line of text, with the probability of every class.

        ``invert`` is for dark strokes on a light background. The model runs in a separate process, which needs the extra ``train``.
        """
        images = [images] if isinstance(images, str | PathLike) else images
        texts = [texts] if isinstance(texts, str) else texts
        if bool(images) == bool(texts):
            raise UsageError("give either images or texts")
        chosen = None if checkpoint is None else str(checkpoint)
        note = self._client._note
        if images:
            return orchestrator.prediction.predict_images(self._home, self.id, [Path(image) for image in images], chosen, invert, note=note)
        return orchestrator.prediction.predict_lines(self._home, self.id, texts, chosen, note=note)

    def forecast(self, file: AnyPath, *, checkpoint: str | int | None = None) -> list[dict[str, Any]]:
        """The rows that follow each series of a CSV file, which has the columns of the training data.

        Each has ``series``, ``time`` and ``values``, and with quantiles ``quantiles``. What is known ahead comes from rows of the file
        without targets. The model runs in a separate process, which needs the extra ``train``.
        """
        chosen = None if checkpoint is None else str(checkpoint)
        return orchestrator.prediction.forecast(self._home, self.id, Path(file), chosen, note=self._client._note)

    def evaluate(self, data: AnyPath, *, checkpoint: str | int | None = None, invert: bool = False) -> dict[str, Any]:
        """How good the model is on data that it has not seen, which has the form of its training data: a folder of images, a file or folder
        of lines with labels, a text, or a file of series.

        A classifier's result has ``samples``, ``loss``, ``accuracy``, ``macro_f1``, of more than five classes ``top5_accuracy``, of two
        ``auc``, ``classes`` (recall, precision and F1 of each) and ``confusions``; a
        language model's has ``characters``, ``loss``, ``accuracy`` and ``bits_per_character``; a forecast's has ``windows``, ``mae``,
        ``rmse`` and ``mase``, with ``naive_mae`` and others for a repetition of the last season. The model runs in a separate process,
        which needs the extra ``train``.
        """
        chosen = None if checkpoint is None else str(checkpoint)
        return orchestrator.prediction.evaluate(self._home, self.id, Path(data), chosen, invert, note=self._client._note)

    def continue_text(
        self,
        prompt: str,
        *,
        length: int = 200,
        temperature: float = 0.8,
        top_k: int | None = None,
        seed: int = 0,
        checkpoint: str | int | None = None,
    ) -> dict[str, Any]:
        """The prompt's continuation: ``length`` characters, sampled at ``temperature`` from the ``top_k`` most likely ones."""
        chosen = None if checkpoint is None else str(checkpoint)
        return orchestrator.prediction.continue_text(
            self._home,
            self.id,
            prompt,
            length=length,
            temperature=temperature,
            top_k=top_k,
            seed=seed,
            checkpoint=chosen,
            note=self._client._note,
        )


class Metrics(tuple["MetricPoint", ...]):
    """The metrics of a run, one row per value."""

    __slots__ = ()

    def to_pandas(self) -> Any:
        """A pandas DataFrame with the fields of ``MetricPoint`` as columns. Raises MissingDependencyError without pandas."""
        try:
            pandas = import_module("pandas")
        except ImportError as error:
            raise MissingDependencyError("pandas is not installed", hint="install it with: pip install pandas") from error
        from dataclasses import asdict, fields  # takes 5 ms, and is needed only here

        from cloud_train.run.metrics import MetricPoint

        return pandas.DataFrame([asdict(point) for point in self], columns=[field.name for field in fields(MetricPoint)])


def _override_texts(values: Overrides) -> list[str]:
    if isinstance(values, str):
        return [values]
    if not isinstance(values, Mapping):
        return list(values)
    from cloud_train.job.overrides import override_text

    return [override_text(key, value) for key, value in values.items()]


def _path(folder: AnyPath | None) -> Path | None:
    return None if folder is None else Path(folder)


def _states(names: "Iterable[State | str]") -> "frozenset[State]":
    """The states by name. Raises UsageError for an unknown one."""
    from cloud_train.run.states import State

    wanted = [names] if isinstance(names, str) else list(names)
    known = frozenset(State)
    for name in wanted:
        if name not in known:
            raise UsageError(f"unknown state: {name}", hint=f"the states are {', '.join(State)}")
    return frozenset(map(State, wanted))
