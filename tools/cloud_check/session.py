"""One session: carry out the checks, remove what they created, and report."""

import json
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from cloud_train import Client
from cloud_train.errors import CloudTrainError
from cloud_train.job.config import Config
from cloud_train.providers.cloud.errors import CloudError, ForbiddenError, ThrottledError, UnreachableError
from tools.cloud_check.answers import Answer, Answers, read_back
from tools.cloud_check.bench import Bench, EndedError, Options, PatienceError, config_of, write_code
from tools.cloud_check.checks.catalogue import Check
from tools.cloud_check.claims import claims
from tools.cloud_check.estimate import Estimate
from tools.cloud_check.leftovers import Left, remove_all
from tools.cloud_check.masking import Mask, accounts_of, secrets_of_environment
from tools.cloud_check.report import Report
from tools.cloud_check.verdicts import Fact, Result, Verdict, lacks_machine, untried

Note = Callable[[str], None]
_NOT_TRIED = (ForbiddenError, PatienceError, ThrottledError, UnreachableError)
"""Errors that say nothing about how the service behaves."""
_TO_ITS_END = "the check runs to its end"


def new_bench(config: Config, folder: Path, options: Options, *, hide_accounts: bool, note: Note) -> Bench:
    """Everything for a new session in ``folder``. Raises ValueError if the folder has one."""
    if (folder / "session.json").exists():
        raise ValueError(f"{folder} has a session already: name another folder, or remove what it left with --clean-up {folder}")
    stamp = datetime.now(UTC).strftime("%y%m%d-%H%M%S")
    folder.mkdir(parents=True, exist_ok=True)
    kept = {"config": str(config.file.absolute()), "stamp": stamp, "hide_accounts": hide_accounts}
    (folder / "session.json").write_text(json.dumps(kept, indent=2), encoding="utf-8")
    write_code(folder, stamp)
    return _bench(config, folder, options, stamp, hide_accounts=hide_accounts, note=note)


def old_bench(folder: Path, options: Options, note: Note) -> tuple[Bench, list[Answer]]:
    """The session of an earlier process, and what it recorded. Raises OSError or ValueError if the folder has none."""
    kept = json.loads((folder / "session.json").read_text(encoding="utf-8"))
    earlier = read_back(folder / "answers")
    bench = _bench(config_of(kept["config"]), folder, options, kept["stamp"], hide_accounts=kept["hide_accounts"], note=note)
    bench.answers.check = "clean-up"
    return bench, earlier


def carry_out(bench: Bench, estimates: Sequence[Estimate], note: Note) -> tuple[list[Result], bool]:
    """The results of the checks, and whether they were interrupted."""
    results: list[Result] = []
    try:
        for estimate in estimates:
            if not _carry_out_one(bench, estimate, results, note):
                return results, True
    except KeyboardInterrupt:  # between two checks: what they created still has to be removed
        return results, True
    return results, False


def clean_up(bench: Bench, earlier: Sequence[Answer], note: Note) -> list[Left]:
    """Remove everything; what is left is returned."""
    bench.answers.check = "clean-up"
    return remove_all(bench, [*earlier, *bench.answers.all()], note)


def reported(bench: Bench, results: Sequence[Result], left: Sequence[Left], *, interrupted: bool) -> Report:
    """The report."""
    examined = {row for result in results for fact in result.facts for row in fact.rows}
    unnamed = [claim for claim in claims(bench.cloud, [result.check for result in results]) if claim.id not in examined]
    date = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return Report(bench.cloud, bench.region, date, tuple(results), tuple(left), tuple(unnamed), interrupted)


def _carry_out_one(bench: Bench, estimate: Estimate, results: list[Result], note: Note) -> bool:
    """Add the result of a check; returns False if it was interrupted."""
    check = estimate.check
    note(f"{check.name}: {check.what}")
    bench.answers.check, began = check.name, time.monotonic()
    facts: list[Fact] = []
    is_complete = True
    try:
        if estimate.refused:
            facts += [untried("the dry run finds no problem", reason) for reason in estimate.refused]
        else:
            _try(bench, check, facts)
    except KeyboardInterrupt:
        facts.append(untried(_TO_ITS_END, "interrupted"))
        is_complete = False
    results.append(Result(check.name, tuple(facts), time.monotonic() - began, _statuses(bench.answers.of(check.name))))
    note(f"{check.name}: {results[-1].verdict.value}")
    return is_complete


def _try(bench: Bench, check: Check, facts: list[Fact]) -> None:
    """Carry out a check, and add its facts one by one: those before an error count. After an error, its jobs are stopped."""
    try:
        for fact in check.facts(bench):
            facts.append(fact)  # noqa: PERF402 -- an error in between leaves those that were there
        return
    except (CloudTrainError, EndedError, PatienceError) as error:
        facts.append(Fact(_TO_ITS_END, str(error), _verdict_of(error)))
    except Exception as error:  # noqa: BLE001 -- whatever went wrong, what the check has created has to be removed
        facts.append(Fact(_TO_ITS_END, f"{type(error).__name__}: {error}", Verdict.DIFFERS))
    with suppress(Exception):  # the end of the session tries again
        bench.stop_all()


def _verdict_of(error: Exception) -> Verdict:
    said = f"{error} {error.said if isinstance(error, CloudError) else ''}"
    if isinstance(error, _NOT_TRIED) or lacks_machine(said):
        return Verdict.NOT_TRIED
    return Verdict.DIFFERS


def _statuses(answers: Sequence[Answer]) -> dict[str, dict[str, int]]:
    counted: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for answer in answers:
        counted[answer.name][str(answer.status or "no answer")] += 1
    return {name: dict(statuses) for name, statuses in counted.items()}


def _bench(config: Config, folder: Path, options: Options, stamp: str, *, hide_accounts: bool, note: Note) -> Bench:
    settings = config.settings.get(str(config.provider), {})
    accounts = accounts_of(settings, str(config.store)) if hide_accounts else {}
    answers = Answers(folder / "answers", Mask(secrets_of_environment(), accounts))
    client = Client(folder / "home", note=note)
    return Bench(config, folder, answers, options, stamp, client)
