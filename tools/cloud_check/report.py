"""The report of a session: Markdown to send, and the same as JSON."""

import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from cloud_train.version import __version__
from tools.cloud_check.claims import Claim
from tools.cloud_check.leftovers import Left
from tools.cloud_check.masking import Mask
from tools.cloud_check.verdicts import Fact, Result, Verdict

_PACKAGES = {
    "aws": ("boto3", "botocore"),
    "gcp": ("google-auth", "google-cloud-storage"),
    "azure": ("azure-core", "azure-identity", "azure-storage-blob"),
}
_SHARED = ("obstore", "requests", "urllib3")


@dataclass(frozen=True)
class Report:
    """The findings of a session."""

    cloud: str
    region: str | None
    date: str
    results: tuple[Result, ...]
    left: tuple[Left, ...]
    unnamed: tuple[Claim, ...]
    """The rows of evidence of these checks that no fact is about."""
    interrupted: bool = False

    def counts(self) -> Counter[Verdict]:
        """Verdict → number of facts."""
        return Counter(fact.verdict for result in self.results for fact in result.facts)


def versions(cloud: str) -> dict[str, str]:
    """Versions of cloud-train, Python and the packages in use."""
    found = {"cloud-train": __version__, "python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}"}
    for package in (*_PACKAGES[cloud], *_SHARED):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def as_document(report: Report, mask: Mask) -> dict[str, Any]:
    """The report as JSON."""
    results = []
    for result in report.results:
        facts = [{**asdict(fact), "verdict": fact.verdict.value} for fact in result.facts]
        results.append({**asdict(result), "verdict": result.verdict.value, "facts": facts})
    document: dict[str, Any] = {
        "cloud": report.cloud,
        "region": report.region,
        "date": report.date,
        "interrupted": report.interrupted,
        "versions": versions(report.cloud),
        "results": results,
        "rows_without_a_fact": [claim.id for claim in report.unnamed],
        "left": [asdict(left) for left in report.left],
    }
    masked: dict[str, Any] = _masked(document, mask)
    return masked


def as_markdown(report: Report, mask: Mask) -> str:
    """The report as Markdown."""
    counts = report.counts()
    lines = [f"# cloud-check on {report.cloud}{f', {report.region}' if report.region else ''}", ""]
    lines += [f"{report.date}: " + ", ".join(f"{counts[verdict]} {_plural(verdict, counts[verdict])}" for verdict in Verdict) + "."]
    if report.interrupted:
        lines += ["", "**The session was interrupted.** Checks after the last one below were not run."]
    lines += ["", ", ".join(f"{name} {text}" for name, text in versions(report.cloud).items())]
    differences = [(result, fact) for result in report.results for fact in result.facts if fact.verdict is Verdict.DIFFERS]
    if differences:
        lines += ["", "## Differences", "", *_table([(result.check, fact) for result, fact in differences])]
    lines += ["", "## All checks"]
    for result in report.results:
        lines += ["", f"### {result.check}: {result.verdict.value}, after {result.seconds:,.0f} s", ""]
        lines += _table([("", fact) for fact in result.facts])
        if result.statuses:
            lines += ["", "Responses: " + "; ".join(f"{name} {_counted(statuses)}" for name, statuses in result.statuses.items()) + "."]
    lines += _ending(report)
    return mask.words("\n".join(lines) + "\n")


def _ending(report: Report) -> list[str]:
    lines: list[str] = []
    if report.unnamed:
        lines += ["", "## Rows of evidence that no check of this session could examine", ""]
        lines += [f"- `{claim.id}` ({claim.check}): {claim.behaviour}" for claim in report.unnamed]
    if report.left:
        lines += ["", "## What is left in the account", "", "| what | costs money | why | remove it with |", "|---|---|---|---|"]
        lines += [_left_row(left) for left in report.left]
    else:
        lines += ["", "Nothing is left in the account."]
    return lines


def _left_row(left: Left) -> str:
    command = f"`{_cell(left.command)}`" if left.command else "–"
    return f"| {_cell(left.what)} | {'yes' if left.costs else 'no'} | {_cell(left.why)} | {command} |"


def _table(facts: Sequence[tuple[str, Fact]]) -> list[str]:
    """A table of facts, with a column for their checks if they have names."""
    named = any(check for check, _ in facts)
    columns = [*(["check"] if named else []), "expected", "observed", "verdict", "rows"]
    head = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    return head + [f"| {f'{check} | ' if named else ''}{_row(fact)} |" for check, fact in facts]


def _row(fact: Fact) -> str:
    verdict = f"**{fact.verdict.value}**" if fact.verdict is Verdict.DIFFERS else fact.verdict.value
    rows = ", ".join(f"`{row}`" for row in fact.rows)
    return f"{_cell(fact.expected)} | {_cell(fact.observed)} | {verdict} | {rows}"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")[:1000]


def _counted(statuses: Mapping[str, int]) -> str:
    return ", ".join(f"{status} ({count}×)" if count > 1 else status for status, count in statuses.items())


def _plural(verdict: Verdict, count: int) -> str:
    if count == 1:
        return verdict.value
    return {Verdict.HOLDS: "hold", Verdict.DIFFERS: "differ", Verdict.NOT_TRIED: "could not be tried"}[verdict]


def _masked(value: Any, mask: Mask) -> Any:
    if isinstance(value, dict):
        return {name: _masked(inner, mask) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_masked(inner, mask) for inner in value]
    return mask.words(value) if isinstance(value, str) else value
