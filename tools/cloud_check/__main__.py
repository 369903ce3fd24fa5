"""``make cloud-check CONFIG=aws``: small checks on a real account. See docs/clouds/cloud-check.md.

Exit statuses: 0 if every fact holds or could not be tried, 1 if something differs, 2 for wrong usage or if the checks were not confirmed,
3 if something that costs money is left in the account, 4 if the checks cannot begin, 130 if interrupted; of 130, 3 and 1 the first that
applies.
"""

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cloud_train.errors import CloudTrainError
from tools.cloud_check.bench import Bench, Options, config_of
from tools.cloud_check.checks.catalogue import CHECKS, chosen
from tools.cloud_check.estimate import Estimate, bound_in_words, estimates, table
from tools.cloud_check.leftovers import Left
from tools.cloud_check.report import Report, as_document, as_markdown
from tools.cloud_check.session import Note, carry_out, clean_up, new_bench, old_bench, reported
from tools.cloud_check.verdicts import Verdict

OK, DIFFERS, USAGE, LEFT, CANNOT_BEGIN, INTERRUPTED = 0, 1, 2, 3, 4, 130
_FOLDER = Path("build", "cloud-check")


def main(words: Sequence[str] | None = None) -> int:
    """Carry out what the command line asks for."""
    asked = _arguments().parse_args(words)
    console = Console(stderr=True, soft_wrap=True)
    for each in (signal.SIGINT, signal.SIGTERM):  # also where a shell started this process with SIGINT ignored
        signal.signal(each, _interrupt)
    if asked.list:
        Console().print(_listing())
        return OK
    try:
        if asked.clean_up:
            return _clean_up_earlier(asked, console)
        return _check(asked, console)
    except KeyboardInterrupt:
        console.print("interrupted before anything was started")
        return INTERRUPTED
    except (ValueError, CloudTrainError, OSError) as error:
        console.print(f"error: {error}", style="bold", markup=False)
        if hint := getattr(error, "hint", None):
            console.print(f"hint: {hint}", markup=False)
        return USAGE if isinstance(error, ValueError) else CANNOT_BEGIN


def _check(asked: argparse.Namespace, console: Console) -> int:
    if not asked.config:
        raise ValueError("name a config file, such as: make cloud-check CONFIG=aws")
    checks = chosen(tuple(asked.only), tuple(asked.skip))
    config = config_of(asked.config)
    folder = asked.folder or _FOLDER / f"{config.provider}-{datetime.now(UTC):%y%m%d-%H%M%S}"
    note = _noting(console)
    bench = new_bench(config, folder, _options(asked, console), hide_accounts=asked.hide_accounts, note=note)
    if refused := bench.plan("plain")[2]:
        said = f"{config.file}: even the smallest job would be refused: {'; '.join(refused)}"
        raise CloudTrainError(said, hint="correct the config file")
    found = _confirmed(asked, console, estimates(bench, checks))
    if found is None:
        return USAGE
    try:
        with bench.answers.recording():
            results, interrupted = carry_out(bench, found, note)
            left = clean_up(bench, (), note)
        report = reported(bench, results, left, interrupted=interrupted)
        _write(bench, report, asked, console)
    except KeyboardInterrupt:  # once more, outside of the steps that can be interrupted
        return _broken_off(bench.folder, console)
    return _status(report)


def _clean_up_earlier(asked: argparse.Namespace, console: Console) -> int:
    bench, earlier = old_bench(asked.clean_up, _options(asked, console), _noting(console))
    try:
        with bench.answers.recording():
            left = clean_up(bench, earlier, _noting(console))
        _show_left(left, bench, console)
    except KeyboardInterrupt:
        return _broken_off(bench.folder, console)
    return LEFT if any(each.costs for each in left) else OK


def _broken_off(folder: Path, console: Console) -> int:
    console.print("interrupted; some of what was created, which may cost money, may still be there", style="bold", markup=False)
    console.print(f"Remove it with: make cloud-check ARGS='--clean-up {folder}'", markup=False)
    return INTERRUPTED


def _confirmed(asked: argparse.Namespace, console: Console, found: list[Estimate]) -> list[Estimate] | None:
    """The checks that the user wants at this price; None without any."""
    console.print(table(found))
    usual = [each for each in found if not each.check.costly]
    costly = [each for each in found if each.check.costly]
    if not asked.yes and not sys.stdin.isatty():
        console.print("error: there is no terminal to confirm on; add --yes (and --costly for the most expensive checks)", markup=False)
        return None
    if usual and not (asked.yes or _agrees(console, f"Start these checks? They cost {bound_in_words(usual)}.")):
        return None
    wanted = [each for each in costly if asked.costly or (not asked.yes and _agrees(console, _question(each)))]
    return [each for each in found if each in usual or each in wanted] or None


def _question(estimate: Estimate) -> str:
    return f"Also {estimate.check.name} ({estimate.check.what})? It costs {bound_in_words([estimate])}."


def _agrees(console: Console, question: str) -> bool:
    return _said(console, f"{question} \\[y/N] ") in ("y", "yes")


def _said(console: Console, question: str) -> str:
    """The answer in lower case; empty at the end of the input (Ctrl-D)."""
    try:
        return console.input(question).strip().lower()
    except EOFError:
        return ""


def _options(asked: argparse.Namespace, console: Console) -> Options:
    def confirm(question: str) -> bool | None:
        if asked.yes or not sys.stdin.isatty():
            return None
        said = _said(console, f"{question} \\[y/n, Enter to skip] ")
        return {"y": True, "yes": True, "n": False, "no": False}.get(said)

    return Options(asked.pace, asked.patience, min(asked.patience, 300.0), asked.spot_seconds, asked.accelerator, confirm)


def _write(bench: Bench, report: Report, asked: argparse.Namespace, console: Console) -> None:
    mask = bench.answers.mask
    markdown, document = as_markdown(report, mask), json.dumps(as_document(report, mask), indent=2, ensure_ascii=False)
    (bench.folder / "report.md").write_text(markdown, encoding="utf-8")
    (bench.folder / "report.json").write_text(document + "\n", encoding="utf-8")
    print(document if asked.json else markdown)
    _show_left(report.left, bench, console)
    console.print(
        f"The report is in {bench.folder / 'report.md'}, the responses of the services in {bench.folder / 'answers'}.", markup=False
    )


def _show_left(left: Sequence[Left], bench: Bench, console: Console) -> None:
    for each in left:
        if each.costs:
            console.print(f"left: {each.what}: {each.why}\n      remove it with: {each.command}", style="bold", markup=False)
    if any(each.costs for each in left):
        console.print(f"Try again with: make cloud-check ARGS='--clean-up {bench.folder}'", markup=False)


def _status(report: Report) -> int:
    if report.interrupted:
        return INTERRUPTED
    if any(left.costs for left in report.left):
        return LEFT
    return DIFFERS if report.counts()[Verdict.DIFFERS] else OK


def _listing() -> Table:
    shown = Table("check", "what it does", "minutes", "asked for separately")
    for check in CHECKS:
        shown.add_row(check.name, check.what, f"{check.minutes:g}", "yes" if check.costly else "")
    return shown


def _noting(console: Console) -> Note:
    """Shows a line on the terminal, each line once."""
    told: set[str] = set()

    def note(text: str) -> None:
        if text not in told:
            told.add(text)
            console.print(f"  {text}", markup=False, highlight=False)

    return note


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cloud-check", description="Small checks on a real account. See docs/clouds/cloud-check.md.")
    parser.add_argument("config", nargs="?", help="name or path of a config file, such as aws")
    parser.add_argument("--list", action="store_true", help="list the checks and exit")
    parser.add_argument("--only", type=_names, default=[], metavar="NAME,…", help="only these checks")
    parser.add_argument("--skip", type=_names, default=[], metavar="NAME,…", help="not these checks")
    parser.add_argument("--yes", action="store_true", help="do not ask: start all checks but the most expensive ones")
    parser.add_argument("--costly", action="store_true", help="include spot, two-nodes and accelerator without asking")
    parser.add_argument("--json", action="store_true", help="print the report as JSON instead of Markdown")
    parser.add_argument("--folder", type=Path, help="folder for the report and the recorded responses; build/cloud-check/… by default")
    parser.add_argument(
        "--hide-accounts", action="store_true", help="hide names and numbers of the account in the report and the responses"
    )
    parser.add_argument("--clean-up", type=Path, metavar="FOLDER", help="only remove what the session in this folder left behind")
    parser.add_argument("--accelerator", default="T4", help="the kind of GPU for the check accelerator; T4 by default")
    parser.add_argument("--patience", type=float, default=1800.0, metavar="SECONDS", help="longest wait for a job; 1800 by default")
    parser.add_argument("--pace", type=float, default=5.0, metavar="SECONDS", help="pause between two looks at a job; 5 by default")
    parser.add_argument("--spot-seconds", type=float, default=120.0, metavar="SECONDS", help="how long the spot job waits to be preempted")
    return parser


if __name__ == "__main__":
    sys.exit(main())
