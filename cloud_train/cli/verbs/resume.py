"""``cloud-train resume``: start a run's next attempt."""

from dataclasses import asdict
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from cloud_train.cli.options import ConfigOption, FollowOption, JsonOption, NamedRunArgument, accepting, complete_provider, open_client
from cloud_train.cli.output.live import show_started
from cloud_train.cli.output.terminal import say_event

if TYPE_CHECKING:
    from cloud_train import Waiting


class CodeChoice(StrEnum):
    """Which code a script runs."""

    OWN = "own"
    CURRENT = "current"


ChangesOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a value from now on, such as train.epochs=9. Repeatable.", show_default=False),
]
CodeOption = Annotated[
    CodeChoice, typer.Option("--code", metavar="own|current", help="The code of a script: the run's own, or the folder's as it is now.")
]


def resume(
    run: NamedRunArgument,
    *,
    provider: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Continue with this provider.", autocompletion=complete_provider, show_default=False),
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Move the run to this store and continue there.", show_default=False),
    ] = None,
    config: ConfigOption = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="The new location of the job's data: a folder on this machine, or a URL.", show_default=False),
    ] = None,
    overrides: ChangesOption = None,
    code: CodeOption = CodeChoice.OWN,
    trust: Annotated[bool, typer.Option("--trust", help="Start a run from another machine without asking.")] = False,
    follow: FollowOption = False,
    as_json: JsonOption = False,
) -> int:
    """Start a run's next attempt from its newest valid checkpoint.

    For a run that failed, was interrupted or was cancelled, and with --set train.epochs=N also for one that has succeeded. An end that is
    not recorded yet is recorded first. The run keeps its id and its directory. An incomplete or damaged checkpoint is skipped in favour of
    the one before it, and the worker's log says so.

    An attempt that was started from another machine, and may be alive, is given 45 seconds for a heartbeat. With --json, one line of JSON
    on standard error says so at once: {"event": "waiting", "run_id", "attempt", "host", "seconds"}.

    If another command resumes the run at the same moment, one of them starts the attempt; the other says so and exits with 9.

    A script runs the run's own code: that of its image, or the folder's if it has not changed since. Otherwise the changed files are named
    and the exit status is 9. With --code current it runs the code as it is now, and the run records that.

    With --set, values change for this attempt and later ones: train.epochs or train.steps, the length of the whole training, and
    train.early_stopping, train.deliver, train.evaluate, train.tensorboard, checkpoint, limits, retry and resources.memory. A new model
    replaces the run's model when the attempt succeeds.

    A run that is named by the URL of its run directory is adopted first, if it is not tracked here.

    A run can move to another provider, and with --store to another store; its newest checkpoint is copied there and verified.

    The first time that you resume a run from another machine, you are shown its command, image, code, data and secrets, and asked to accept
    them. The provider's settings always come from this machine. You are never asked about your own runs; one whose run.json was changed by
    someone else is refused, and one whose run.json was damaged is repaired from this machine's copy.

    Examples:
      cloud-train resume digits-cnn
      cloud-train resume 7k3f --follow
      cloud-train resume digits-cnn --set train.epochs=10
      cloud-train resume my-script --code current
      cloud-train resume digits-cnn --provider gcp --store gs://my-bucket/runs
    """
    chosen = open_client(as_json).run(run)
    chosen.resume(
        provider=provider,
        store=store,
        config=config,
        data=data,
        changes=overrides or (),
        current_code=code is CodeChoice.CURRENT,
        trust=accepting if trust else False,
        on_wait=_say_waiting if as_json else None,
    )
    return show_started(chosen, follow=follow, as_json=as_json)


def _say_waiting(waiting: "Waiting") -> None:
    say_event("waiting", asdict(waiting))
