"""The run directory's layout: every key under ``<store>/<run id>/`` in one place. Keys use '/', on every store.

::

    run.json                        the spec, the plan and provenance: written once
    attempts/<n>/status.json        state, cause, heartbeat, host
    attempts/<n>/cancel             exists once this attempt is to be cancelled
    attempts/<n>/failure            what the program says of its own end (text, or JSON with "message" and "cause")
    attempts/<n>/logs/node-<r>/output.log    byte-exact output of the program
    attempts/<n>/logs/node-<r>/worker.log    what the worker did
    attempts/<n>/metrics/node-<r>.jsonl      one JSON object a line
    attempts/<n>/nodes/node-<r>/status.json  of several nodes: where this one stands (node 0: the attempt's own status.json)
    attempts/<n>/nodes/node-<r>/failure      of several nodes: what this one's program says of its end (node 0: the attempt's own failure)
    attempts/<n>/start              of several nodes: name of the checkpoint that all of them start from, which node 0 chose; may be empty
    attempts/<n>/next               of several nodes: node 0 waits here to begin another attempt, and writes the time again and again
    checkpoints/step-00001200/      files, and manifest.json, written last
    moved                           URL of the run directory that this one was moved to; it is not continued here
    model/                          the final model, and manifest.json, written last
"""

import re

RUN = "run.json"
ATTEMPTS = "attempts"
CHECKPOINTS = "checkpoints"
MODEL = "model"
MANIFEST = "manifest.json"
MOVED = "moved"
AT_ONCE = b"at once\n"
"""Content of the cancellation mark that skips the grace period."""

_STEP = re.compile(r"step-([0-9]{1,18})")


def attempt(number: int) -> str:
    """The folder of attempt ``number``, which counts from 1."""
    return f"{ATTEMPTS}/{number}"


def status(number: int, node_rank: int = 0) -> str:
    """The status of attempt ``number``, which node 0 keeps, or that of another of its nodes."""
    return f"{_of_node(number, node_rank)}/status.json"


def cancel(number: int) -> str:
    """The mark that asks attempt ``number`` to end as cancelled."""
    return f"{attempt(number)}/cancel"


def failure(number: int, node_rank: int = 0) -> str:
    """What the program of attempt ``number`` says of its own end, on one node."""
    return f"{_of_node(number, node_rank)}/failure"


def start(number: int) -> str:
    """Where node 0 tells the other nodes of attempt ``number`` which checkpoint they start from."""
    return f"{attempt(number)}/start"


def following(number: int) -> str:
    """Where node 0 tells the other nodes that another attempt follows ``number``."""
    return f"{attempt(number)}/next"


def output_log(number: int, node_rank: int = 0) -> str:
    """The program's output on one node."""
    return f"{attempt(number)}/logs/node-{node_rank}/output.log"


def worker_log(number: int, node_rank: int = 0) -> str:
    """What the worker of one node did."""
    return f"{attempt(number)}/logs/node-{node_rank}/worker.log"


def metrics(number: int, node_rank: int = 0) -> str:
    """The metrics that one node wrote."""
    return f"{attempt(number)}/metrics/node-{node_rank}.jsonl"


def _of_node(number: int, node_rank: int) -> str:
    return f"{attempt(number)}/nodes/node-{node_rank}" if node_rank else attempt(number)


def step_folder(step: int) -> str:
    """The name of the checkpoint folder of ``step``, such as ``step-00001200``."""
    return f"step-{step:08d}"


def step_of(folder: str) -> int | None:
    """The step that a folder name stands for, or None if it is not a checkpoint's (a temporary one, say)."""
    match = _STEP.fullmatch(folder)
    return int(match[1]) if match else None
