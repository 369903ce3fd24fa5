"""Run every benchmark, one after another, each in a separate process, and print one Markdown document.

``python -m benchmarks startup list_runs`` runs only those two. Output goes only to standard output.
"""

import subprocess
import sys

from benchmarks._measure import machine

BENCHMARKS = (
    "startup",
    "cloud_requests",
    "follow_memory",
    "trivial_job",
    "list_runs",
    "logs_tail",
    "long_runs",
    "worker_cost",
    "time_to_first_step",
    "digits_accuracy",
    "defaults",
    "forecasting",
    "python_docs",
    "classic_cnn",
    "linear_cell",
    "busy_machine",
    "image_pipeline",
    "checkpoint_cost",
    "resume_time",
    "repackage",
    "docker_overhead",
    "transfer",
)


def main() -> int:
    """Run the benchmarks named on the command line, by default all; the exit status is 1 if one of them could not run."""
    names = sys.argv[1:] or BENCHMARKS
    unknown = sorted(set(names) - set(BENCHMARKS))
    if unknown:
        print(f"error: unknown benchmark: {', '.join(unknown)}; available: {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    print(machine(), flush=True)
    statuses = [subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=False).returncode for name in names]
    return int(any(statuses))


if __name__ == "__main__":
    sys.exit(main())
