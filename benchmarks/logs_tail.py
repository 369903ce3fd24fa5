"""``cloud-train logs RUN --tail 100`` of a 1 GB log, compared with ``tail -n 100`` of the same file, in time and in peak memory.

It has to respond immediately and in constant memory, so a log of 1 MB is measured as well.
"""

import subprocess
import tempfile
from pathlib import Path

from benchmarks._measure import CLOUD_TRAIN, Case, interleave, report, table
from benchmarks.trivial_job import JOB
from cloud_train.run import layout

_LINE = b"2026-11-23 12:00:00 step %09d loss 0.123456789 accuracy 0.987654321 images/s 1234.5 and some more words....\n"
_SIZES = {"1 MB": 10**6, "1 GB": 10**9}


def main(repeats: int = 7) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment = {"CLOUD_TRAIN_HOME": str(folder / "home")}
        cases = [Case("`cloud-train --version`", [CLOUD_TRAIN, "--version"], environment)]
        for label, size in _SIZES.items():
            run_id, log = _finished_run(folder, environment)
            _write_log(log, size)
            cases.append(Case(f"`tail -n 100`, {label}", ["tail", "-n", "100", str(log)]))
            cases.append(Case(f"`cloud-train logs --tail 100`, {label}", [CLOUD_TRAIN, "logs", run_id, "--tail", "100"], environment))
        series = interleave(cases, repeats)
    extra = series["`cloud-train logs --tail 100`, 1 GB"].median - series["`cloud-train --version`"].median
    growth = series["`cloud-train logs --tail 100`, 1 GB"].peak_mib - series["`cloud-train logs --tail 100`, 1 MB"].peak_mib
    facts = f"- beyond start-up: **{extra * 1000:.0f} ms**\n- memory that a thousand times the log costs: **{growth:.1f} MiB**"
    report("The end of a 1 GB log", table(series, "`cloud-train --version`"), facts)


def _finished_run(folder: Path, environment: dict[str, str]) -> tuple[str, Path]:
    job = folder / "trivial.yaml"
    job.write_text(JOB)
    command = [CLOUD_TRAIN, "submit", str(job), "--set", f"store={folder / 'runs'}", "--follow"]
    before = set(_runs(folder))
    subprocess.run(command, env={"PATH": "/usr/bin:/bin", **environment}, check=True, stdout=subprocess.DEVNULL)
    (run_id,) = set(_runs(folder)) - before
    return run_id, folder / "runs" / run_id / layout.output_log(1)


def _runs(folder: Path) -> list[str]:
    return [path.name for path in (folder / "runs").iterdir()] if (folder / "runs").exists() else []


def _write_log(log: Path, size: int) -> None:
    block = b"".join(_LINE % number for number in range(10_000))
    with log.open("wb") as file:
        for _ in range(max(1, size // len(block))):
            file.write(block)


if __name__ == "__main__":
    main()
