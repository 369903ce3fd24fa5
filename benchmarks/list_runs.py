"""``cloud-train list`` with a ledger of 10,000 finished runs, beyond its start-up time.

Bound: at most 0.3 s beyond ``cloud-train --version``.
"""

import shutil
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from benchmarks._measure import CLOUD_TRAIN, Case, interleave, report, table, verdict
from cloud_train.orchestrator.home import Home
from cloud_train.run.ledger import Ledger
from cloud_train.run.plan import new_run_id
from cloud_train.run.states import Cause

RUNS = 10_000
_CAUSES = tuple(Cause)


def main(repeats: int = 11) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name:
        home = Path(name) / "home"
        fill(home, RUNS)
        environment = {"CLOUD_TRAIN_HOME": str(home)}
        verbs = (["--version"], ["list"], ["list", "--all"], ["list", "--json"], ["list", "--all", "--json"])
        series = interleave([Case(f"`{' '.join(verb)}`", [CLOUD_TRAIN, *verb], environment) for verb in verbs], repeats)
    start = series["`--version`"].median
    listings = ("`list`", "`list --all`", "`list --all --json`")
    lines = [verdict(f"{label} beyond start-up", series[label].median - start, 0.3, " s") for label in listings]
    report(f"A ledger of {RUNS:,} runs", table(series, "`--version`"), "\n".join(lines))


def fill(home: Path, runs: int) -> None:
    """Write a ledger of ``runs`` finished runs under ``home``, one per minute."""
    begin = datetime.now(UTC) - timedelta(minutes=runs)
    memory = Path("/dev/shm")
    # Every change of the ledger is synced to the disk: 20,000 of them are faster in memory, and the file is moved when it is complete.
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        draft = Home(Path(name))
        with Ledger(draft.ledger_path) as ledger:
            for number in range(runs):
                now = begin + timedelta(minutes=number)
                run_id, cause = new_run_id(f"job-{number % 7}", now), _CAUSES[number % len(_CAUSES)]
                job_file, created = str(home / "job.yaml"), now.timestamp()
                ledger.add(
                    run_id,
                    name=f"job-{number % 7}",
                    provider="local",
                    store=str(home / "runs"),
                    job_file=job_file,
                    created=created,
                    settings={},
                    record_sha256="",
                )
                ledger.observed(run_id, 1, cause.state, cause, started=created, ended=created + 30, host="host")
        shutil.copytree(draft.folder, home)


if __name__ == "__main__":
    main()
