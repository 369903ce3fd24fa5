"""The front door: everything that the command line can do with jobs and runs, as Python.

::

    client = Client()
    run = client.submit("job.yaml", set={"train.epochs": 2})
    for event in run.follow():
        ...
    run.fetch_model("model")

Nothing here prints or asks at a terminal. ``note`` is told what takes time or goes wrong on the way; ``ask`` is shown what another person
decided, such as a config file that came with a job, unless ``trust=True`` accepts it.

Looking never acts: methods that only read change nothing in the ledger, in the store or at the provider. ``submit``, ``follow``, ``wait``,
``resume`` and ``cancel`` record what they find, and ``status`` and ``runs`` do with ``record=True``.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
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
    from cloud_train.orchestrator.packing import Packed
    from cloud_train.orchestrator.results import FetchedModel, SyncResult
    from cloud_train.providers.base import Request
    from cloud_train.run.metrics import MetricPoint
    from cloud_train.run.plan import Plan
    from cloud_train.run.view import RunView
    from cloud_train.storage.transfer.progress import Progress as Transfer

AnyPath: TypeAlias = str | PathLike[str]
Note: TypeAlias = Callable[[str], None]
"""Is told, in one sentence, what takes time or could not be done."""
Ask: TypeAlias = Callable[["Question"], bool]
"""Is shown what another person decided; True accepts it."""
Report: TypeAlias = Callable[["Transfer"], None]
"""Is told a few times a second how far a transfer has come, and at its end."""
Overrides: TypeAlias = Mapping[str, object] | Sequence[str]
"""Values by dotted key, such as ``{"train.epochs": 2}``, or ``key=value`` texts as ``--set`` takes them."""


class Client:
    """Jobs and runs of one user on this machine.

    ``home`` is the folder of the ledger: by default ``$CLOUD_TRAIN_HOME``, otherwise ``~/.cloud-train``. ``note`` and ``ask`` are described
    above; without ``ask``, whatever needs to be accepted is refused with NotTrustedError.
    """

    def __init__(self, home: AnyPath | None = None, *, note: Note | None = None, ask: Ask | None = None) -> None:
        self._home = orchestrator.home.Home(Path(home).expanduser().absolute()) if home else orchestrator.home.Home.from_environment()
        self._note: Note = note or (lambda _: None)
        self._ask: Ask = ask or (lambda _: False)

    def __repr__(self) -> str:
        return f"Client({str(self.home)!r})"

    @property
    def home(self) -> Path:
        """The folder that holds the ledger."""
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
        """What ``submit`` would do: the dry run. Nothing is written or sent, and every config file is used without being asked about.

        Raises JobFileError, which lists every mistake of the files, and ProviderError if the provider cannot carry this out.
        """
        return orchestrator.planning.make_plan(self._home, Path(job), _override_texts(set), config, provider, store=store, dry_run=True)

    def request(self, plan: "Plan") -> "tuple[Request, list[str]]":
        """What the provider would be sent for ``plan``, and what it would refuse in it."""
        return orchestrator.planning.request_of(self._home, plan)

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
        """Start a run of the job file, and return at once; with ``follow``, when the run has ended.

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

    def runs(self, limit: int | None = None, *, record: bool = False) -> "list[Run]":
        """The newest runs, the newest first, each with its ``view``. A run that cannot be looked at has the ledger's view.

        ``record`` records what is found, as the verb ``list`` does.
        """
        look = orchestrator.reconcile.update_runs if record else orchestrator.state.read_runs
        return [Run(self, view.run_id, view) for view in look(self._home, limit, self._note)]

    def run(self, run_id: str | None = None) -> "Run":
        """The run whose id begins with ``run_id`` or ends with it; the newest one for None. Raises NotFoundError, also if several match."""
        return Run(self, orchestrator.state.select(self._home, run_id))

    def runs_in(self, store: str) -> "Listed":
        """The runs in the store with this URL, from any machine, and the run directories that cannot be read."""
        return orchestrator.adopting.runs_in(store)

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
        """Build the container image of a job, or reuse it: in the local engine, or with ``push`` in a repository of a registry.

        ``repository`` overrides that of the provider's settings. Raises ImageError, UsageError.
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
        return orchestrator.packaging.push_image(self._home, place, plan, str(repository), self._note)

    def pack(self, folder: AnyPath, destination: str, *, shard_bytes: int = 256_000_000, report: Report | None = None) -> "Packed":
        """Pack a folder of images into tar shards with an index, in a folder or at a URL in a store."""
        return orchestrator.packing.pack(Path(folder), destination, shard_bytes, report)

    def trust(self, config_file: AnyPath) -> dict[str, Any]:
        """Trust a config file that came with a job, as it is now; returns everything that it sets, by name."""
        return orchestrator.configs.trust_file(self._home, Path(config_file))

    def examine(self, stores: Sequence[str] = (), *, config: str | None = None, trust: bool = False) -> "list[Finding]":
        """What is installed, what is missing and what to do about it, as the verb ``doctor`` shows it."""
        return orchestrator.doctor.examine(self._home, stores, config, ask=self._accepting(trust))

    def providers(self) -> list[str]:
        """The names of the installed providers."""
        return orchestrator.connections.provider_names(self._home)

    def _accepting(self, trust: bool) -> Ask:
        return (lambda _: True) if trust else self._ask


class Run:
    """One run. Made by ``Client``; two objects with the same id are the same run."""

    def __init__(self, client: Client, run_id: str, view: "RunView | None" = None) -> None:
        self._client, self._home, self._view = client, client._home, view
        self.id = run_id

    def __repr__(self) -> str:
        return f"<Run {self.id}{f': {self._view.state_text}' if self._view else ''}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Run) and (other.id, other._home) == (self.id, self._home)

    def __hash__(self) -> int:
        return hash(self.id)

    @property
    def view(self) -> "RunView":
        """The run as this object saw it last; it looks if it has not yet."""
        return self._view or self.status()

    def status(self, *, record: bool = False) -> "RunView":
        """Where the run stands now. ``record`` records what is found, as the verb ``status`` does."""
        look = orchestrator.reconcile.update_run if record else orchestrator.state.read_run
        self._view = view = look(self._home, self.id)
        return view

    def progress(self, *, record: bool = False) -> "Progress":
        """Where the run stands now, with its newest metrics, its speed and the time to go."""
        seen = orchestrator.following.glance(self._home, self.id, note=self._client._note, record=record)
        self._view = seen.view
        return seen

    def watch(self) -> "Iterator[Progress]":
        """Look at the run until it ends; yields whenever something is new, and the end last."""
        for seen in orchestrator.following.follow(self._home, self.id, note=self._client._note):
            self._view = seen.view
            yield seen

    def follow(self) -> "Iterator[Event]":
        """What happens in the run until it ends: ``StateChange``, ``LogLine`` and ``MetricPoint``, each as it comes."""
        return orchestrator.following.events(self.watch())

    def wait(self) -> "RunView":
        """Wait until the run ends; returns its end."""
        for _ in self.watch():
            pass
        return self.view

    def logs(self, *, attempt: int | None = None, node: int = 0, tail: int | None = None) -> str:
        """What the program printed, as text; bytes that are not UTF-8 are replaced. Raises NotFoundError for an attempt without a log."""
        return b"".join(self.log_bytes(attempt=attempt, node=node, tail=tail)).decode(errors="replace")

    def log_bytes(
        self, *, attempt: int | None = None, node: int = 0, tail: int | None = None, follow: bool = False, record: bool = True
    ) -> Iterator[bytes]:
        """What the program printed, byte for byte, in pieces; with ``follow`` until the run ends, and then that of further attempts too.

        ``record`` says whether following records what it finds.
        """
        if follow:
            if attempt is not None:
                raise UsageError("only the newest attempt can be followed; leave the attempt out")
            return orchestrator.reading.follow_logs(self._home, self.id, node, tail, note=self._client._note, record=record)
        return orchestrator.reading.read_logs(self._home, self.id, attempt, node, tail)

    def worker_log(self, *, attempt: int | None = None, node: int = 0) -> list[str]:
        """The lines of the worker's own log: where it resumed, which checkpoints it skipped, how the attempt ended."""
        return orchestrator.reading.read_worker_log(self._home, self.id, attempt, node)

    def provider_logs(self) -> list[str]:
        """The lines that a cloud holds of an attempt whose worker has not started; empty for a provider of this machine."""
        return orchestrator.provider_logs.read_provider_logs(self._home, self.id)

    def metrics(self) -> "Metrics":
        """The metrics in the order of their steps; where an attempt repeated a step, the later attempt counts."""
        return Metrics(orchestrator.reading.read_metrics(self._home, self.id, note=self._client._note))

    def fetch_model(
        self, folder: AnyPath | None = None, *, checkpoint: str | int | None = None, report: Report | None = None
    ) -> "FetchedModel":
        """Copy the model, verified, into ``folder`` (``./<run id>-model`` by default); ``checkpoint`` is ``best``, ``last`` or a step.

        Raises NotFoundError where there is no such model, ConflictError if the folder holds something else.
        """
        chosen = None if checkpoint is None else str(checkpoint)
        return orchestrator.results.fetch_model(self._home, self.id, _path(folder), chosen, report)

    def sync(self, folder: AnyPath | None = None, *, report: Report | None = None) -> "SyncResult":
        """Copy the run directory into ``folder`` (``./<run id>`` by default); what is there unchanged is not copied again."""
        return orchestrator.results.sync(self._home, self.id, _path(folder), report)

    def resume(
        self,
        *,
        provider: str | None = None,
        store: str | None = None,
        config: str | None = None,
        data: str | None = None,
        trust: "bool | Ask" = False,
    ) -> "Run":
        """Start the next attempt, from the newest valid checkpoint; returns this run.

        With ``provider``, ``store``, ``config`` or ``data`` it runs there instead. ``trust`` accepts what a run of another machine would
        start: True, or a function that is shown it. Raises ConflictError while the run is running and if it has succeeded.
        """
        elsewhere = None
        if provider or store or config or data:
            elsewhere = orchestrator.resuming.Elsewhere(provider, store, config, data)
        ask = trust if callable(trust) else self._client._accepting(trust)
        self._view = orchestrator.resuming.resume(
            self._home, self.id, self._client._note, elsewhere=elsewhere, ask=ask, ask_of_configs=self._client._ask
        )
        return self

    def cancel(self, *, wait: bool = True, force: bool = False) -> "RunView":
        """Stop the run, with time for a last checkpoint, or at once with ``force``. Raises ConflictError if it has ended otherwise."""
        self._view = view = orchestrator.stopping.cancel(self._home, self.id, wait=wait, force=force)
        return view

    def predict(
        self,
        images: Sequence[AnyPath] = (),
        *,
        texts: Sequence[str] = (),
        checkpoint: str | int | None = None,
        invert: bool = False,
    ) -> list[dict[str, Any]]:
        """The class of each image file or line of text, with the probability of every class.

        ``invert`` is for dark strokes on a light ground. The model runs in a process of its own, which needs the extra ``train``.
        """
        if bool(images) == bool(texts):
            raise UsageError("give image files or texts, not both")
        chosen = None if checkpoint is None else str(checkpoint)
        if images:
            return orchestrator.prediction.predict_images(self._home, self.id, [Path(image) for image in images], chosen, invert)
        return orchestrator.prediction.predict_lines(self._home, self.id, texts, chosen)

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
        """The prompt's continuation by ``length`` characters, drawn at ``temperature`` from the ``top_k`` most likely ones."""
        chosen = None if checkpoint is None else str(checkpoint)
        return orchestrator.prediction.continue_text(
            self._home, self.id, prompt, length=length, temperature=temperature, top_k=top_k, seed=seed, checkpoint=chosen
        )


class Metrics(tuple["MetricPoint", ...]):
    """The metrics of a run, one row for each value."""

    __slots__ = ()

    def to_pandas(self) -> Any:
        """A pandas DataFrame with the fields of ``MetricPoint`` as columns. Raises MissingDependencyError without pandas."""
        try:
            pandas = import_module("pandas")
        except ImportError as error:
            raise MissingDependencyError("pandas is not installed", hint="install it with: pip install pandas") from error
        from dataclasses import asdict, fields  # 5 ms, and only here

        from cloud_train.run.metrics import MetricPoint

        return pandas.DataFrame([asdict(point) for point in self], columns=[field.name for field in fields(MetricPoint)])


def _override_texts(values: Overrides) -> list[str]:
    if not isinstance(values, Mapping):
        return list(values)
    from cloud_train.job.overrides import override_text

    return [override_text(key, value) for key, value in values.items()]


def _path(folder: AnyPath | None) -> Path | None:
    return None if folder is None else Path(folder)
