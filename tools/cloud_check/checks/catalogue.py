"""The checks, in the order in which they run."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tools.cloud_check.bench import Bench
from tools.cloud_check.checks import account, images, interruptions, jobs, machines
from tools.cloud_check.verdicts import Fact


@dataclass(frozen=True)
class Check:
    """One small thing to try on a real account."""

    name: str
    """Rows of evidence name it in ``check``."""
    what: str
    """What it does, in a few words."""
    facts: Callable[[Bench], Iterator[Fact]]
    """Runs it."""
    jobs: tuple[str, ...] = ()
    """The kinds of jobs that it starts. ``plain`` is started once for all checks that look at it."""
    minutes: float = 1.0
    """How long it usually takes on a real cloud, most of it waiting for a machine."""
    costly: bool = False
    """Whether it is confirmed separately, because it is expensive."""


CHECKS = (
    Check("permissions", "run `cloud-train doctor` on the config file", account.permissions),
    Check("quota", "read the quotas of the jobs' machines", account.quota),
    Check("store", "list, write, read, upload in parts and delete a small object", account.store, minutes=0.5),
    Check("push", "push the jobs' image, and set a separate tag twice", images.push, minutes=3),
    Check("smallest-job", "run a job that describes its machine, and one that fails", jobs.smallest_job, ("plain", "failing"), 10),
    Check("output", "compare what that job printed, byte for byte", jobs.output, ("plain",)),
    Check("logs", "find what that job printed in the cloud's own log", jobs.logs, ("plain",), 2),
    Check("console-link", "make the link to that job's page in the console", jobs.console_link, ("plain",)),
    Check("secrets", "pass a random secret to a job, and see it deleted after the end", jobs.secrets, ("secrets",), 5),
    Check("cancel", "cancel a job, which saves a last checkpoint", interruptions.cancel, ("cancel",), 6),
    Check("lost-answer", "lose the response to the creation of a job, and find the job", interruptions.lost_answer, ("lost-answer",), 5),
    Check("spot", "run a job on spot capacity, and see a preemption if there is one", interruptions.spot, ("spot",), 8, costly=True),
    Check("two-nodes", "let two machines find each other", machines.two_nodes, ("two-nodes",), 6, costly=True),
    Check("accelerator", "count the GPUs of a machine that has one", machines.accelerator, ("accelerator",), 8, costly=True),
    Check(
        "registry-cleanup", "remove the images from the repository, and read what limits its costs", images.registry_cleanup, minutes=0.5
    ),
)
"""All of them."""

NAMES = tuple(check.name for check in CHECKS)
"""Their names."""


def chosen(only: tuple[str, ...], skip: tuple[str, ...]) -> tuple[Check, ...]:
    """The checks named in ``only``, or all of them, without those in ``skip``. Raises ValueError for a name that is not a check's."""
    unknown = [name for name in (*only, *skip) if name not in NAMES]
    if unknown:
        raise ValueError(f"no such check: {', '.join(unknown)}; the checks are {', '.join(NAMES)}")
    return tuple(check for check in CHECKS if (not only or check.name in only) and check.name not in skip)
