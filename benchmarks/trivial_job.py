"""From ``submit --follow`` of a script job that runs ``true`` to its end, compared with running ``true`` by hand and, if installed, TorchX.

Bound: at most 0.5 s on the machine that docs/benchmarks.md describes.
"""

import tempfile
from pathlib import Path

from benchmarks._measure import CLOUD_TRAIN, Case, installed, interleave, report, table, verdict

JOB = """\
name: trivial
model: {kind: script, command: ["true"]}
"""


def main(repeats: int = 15) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        job = folder / "trivial.yaml"
        job.write_text(JOB)
        submit = [CLOUD_TRAIN, "submit", str(job), "--set", f"store={folder / 'runs'}"]
        environment = {"CLOUD_TRAIN_HOME": str(folder / "home")}
        cases = [
            Case("`true`", ["true"]),
            Case("`cloud-train --version`", [CLOUD_TRAIN, "--version"], environment),
            Case("`cloud-train submit` (returns at once)", submit, environment),
            Case("`cloud-train submit --follow`", [*submit, "--follow"], environment),
        ]
        torchx = installed("torchx")
        if torchx:
            echo = [torchx, "run", "--scheduler", "local_cwd", "utils.echo", "--msg", "done"]
            cases.append(Case("`torchx run -s local_cwd utils.echo`", echo, directory=folder))
        series = interleave(cases, repeats)
    follow = "`cloud-train submit --follow`"
    report("A trivial job, from submit to done", table(series, follow), verdict("submit to done", series[follow].median, 0.5, " s"))


if __name__ == "__main__":
    main()
