"""The maximum cost of the checks, before anything is started, from the limits in the requests that would be sent."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

from cloud_train.errors import CloudTrainError
from cloud_train.providers.cloud.machines import machine_of
from cloud_train.providers.cloud.request import longest_seconds
from tools.cloud_check.bench import Bench
from tools.cloud_check.checks.catalogue import Check
from tools.cloud_check.prices import price_of


@dataclass(frozen=True)
class Job:
    """One job of a check."""

    kind: str
    machine: str | None
    """None if the cluster decides, or if it is not known."""
    nodes: int
    most_minutes: float
    """How long the cloud lets its machines run at most, all nodes together, in minutes."""
    usd: float | None
    """Its price at most, on demand; None if the machine's price is unknown."""
    refused: tuple[str, ...] = ()
    """Why it would be refused: then it is not started, and costs nothing."""


@dataclass(frozen=True)
class Estimate:
    """A check, and the jobs that it would be the first to start."""

    check: Check
    jobs: tuple[Job, ...]

    @property
    def refused(self) -> tuple[str, ...]:
        """Why the check cannot be tried."""
        return tuple(reason for job in self.jobs for reason in job.refused)


def estimates(bench: Bench, checks: Sequence[Check]) -> list[Estimate]:
    """The estimate of each check. A job that several checks look at counts for the first of them."""
    known: set[str] = set()
    found = []
    for check in checks:
        kinds = [kind for kind in check.jobs if kind not in known]
        known.update(kinds)
        found.append(Estimate(check, tuple(_job(bench, kind) for kind in kinds)))
    return found


def bound(found: Sequence[Estimate]) -> tuple[float, float]:
    """The upper bound of all known prices in US dollars, and the machine-minutes whose price is unknown."""
    jobs = [job for estimate in found for job in estimate.jobs if not job.refused]
    return sum(job.usd or 0.0 for job in jobs), sum(job.most_minutes for job in jobs if job.usd is None)


def bound_in_words(found: Sequence[Estimate]) -> str:
    """The upper bound in words, for use in a sentence."""
    usd, minutes = bound(found)
    parts = [f"at most ${usd:,.2f}"] if usd else []
    parts += [f"at most {minutes:,.0f} machine-minutes of unknown price"] if minutes else []
    return " and ".join(parts) or "nothing for machines"


def table(found: Sequence[Estimate]) -> Table:
    """The checks, with machine, minutes and price."""
    shown = Table(title="cloud-check", title_justify="left")
    for column in ("check", "what it does", "machine"):
        shown.add_column(column, overflow="fold")
    for column in ("minutes", "costs at most"):
        shown.add_column(column, justify="right", overflow="fold")
    for estimate in found:
        jobs = [job for job in estimate.jobs if not job.refused]
        machines = ", ".join(dict.fromkeys(f"{job.nodes} × {job.machine or 'machines of the cluster'}" for job in jobs))
        if estimate.refused:
            machines = f"cannot be tried: {estimate.refused[0]}"
        price = bound_in_words([estimate]).removeprefix("at most ") if jobs else "–"
        shown.add_row(estimate.check.name, estimate.check.what, machines or "–", f"{estimate.check.minutes:g}", price)
    minutes = sum(estimate.check.minutes for estimate in found)
    shown.add_section()
    shown.add_row("all", "", "", f"{minutes:g}", bound_in_words(found))
    return shown


def _job(bench: Bench, kind: str) -> Job:
    try:
        plan, _, refused = bench.plan(kind)
    except CloudTrainError as error:
        return Job(kind, None, 1, 0.0, None, (error.message,))
    machine = machine_of(bench.cloud, plan.provider_settings, plan.job.resources)
    name = machine.name if machine else plan.provider_settings.get("machine")
    nodes = plan.job.resources.nodes
    minutes = longest_seconds(plan) * nodes / 60
    price = price_of(bench.cloud, bench.region, name)
    usd = price.usd_per_hour * minutes / 60 if price else None
    return Job(kind, str(name) if name else None, nodes, minutes, usd, tuple(refused))
