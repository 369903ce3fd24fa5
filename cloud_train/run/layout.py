"""The run directory's layout: every key under ``<store>/<run id>/``. Keys use '/' on every store.

::

    run.json                        the spec, the plan and provenance; written once
    attempts/<n>/status.json        state, cause, heartbeat, host
    attempts/<n>/cancel             exists once this attempt is to be cancelled
    attempts/<n>/superseded         in a worker's workspace only: the newer attempt that the uploader found
    attempts/<n>/failure            why the program failed, in its own words (text, or JSON with "message" and "cause")
    attempts/<n>/logs/node-<r>/output.log    byte-exact output of the program
    attempts/<n>/logs/node-<r>/worker.log    what the worker did
    attempts/<n>/metrics/node-<r>.jsonl      one JSON object per line
    attempts/<n>/nodes/node-<r>/status.json  multi-node: the status of node r (node 0 uses the attempt's own status.json)
    attempts/<n>/nodes/node-<r>/failure      multi-node: why the program on node r failed (node 0 uses the attempt's own failure)
    attempts/<n>/start              multi-node: the checkpoint that node 0 chose for all nodes to start from; may be empty
    attempts/<n>/next               multi-node: exists while node 0 waits to start another attempt; it keeps writing the time here
    checkpoints/step-00001200/      checkpoints of attempt 1: files and manifest.json, which is written last
    checkpoints-<n>/step-00002400/  checkpoints of attempt n, from 2 on. Earlier versions kept those of all attempts in checkpoints/
    start-from/                     the weights that the run begins with, as run.json records them: weights, and perhaps model.json
    moved                           URL of the run directory in which the run continues after a move
    model-<n>/                      the model that the program of attempt n is writing; on a machine only, until the attempt succeeds
    model/                          the final model and manifest.json, which is written last
"""

import re

RUN = "run.json"
ATTEMPTS = "attempts"
CHECKPOINTS = "checkpoints"
MODEL = "model"
MANIFEST = "manifest.json"
MOVED = "moved"
START_FROM = "start-from"
AT_ONCE = b"at once\n"
"""Content of the cancellation mark that skips the grace period."""

_STEP = re.compile(r"step-([0-9]{1,18})")
_UNFINISHED_MODEL = re.compile(rf"{MODEL}-([1-9][0-9]{{0,5}})")
_LATER_CHECKPOINTS = re.compile(rf"{CHECKPOINTS}-([1-9][0-9]{{0,5}})")


def attempt(number: int) -> str:
    """The folder of attempt ``number``, which counts from 1."""
    return f"{ATTEMPTS}/{number}"


def status(number: int, node_rank: int = 0) -> str:
    """The status of attempt ``number``, which node 0 writes, or of one of its other nodes."""
    return f"{_of_node(number, node_rank)}/status.json"


def cancel(number: int) -> str:
    """The mark that cancels attempt ``number``."""
    return f"{attempt(number)}/cancel"


def superseded(number: int) -> str:
    """The mark, in a worker's workspace, that a newer attempt than ``number`` has begun."""
    return f"{attempt(number)}/superseded"


def failure(number: int, node_rank: int = 0) -> str:
    """Why the program of attempt ``number`` failed on one node, in its own words."""
    return f"{_of_node(number, node_rank)}/failure"


def start(number: int) -> str:
    """The checkpoint from which all nodes of attempt ``number`` start, written by node 0."""
    return f"{attempt(number)}/start"


def following(number: int) -> str:
    """Node 0's announcement that another attempt follows ``number``."""
    return f"{attempt(number)}/next"


def output_log(number: int, node_rank: int = 0) -> str:
    """The program's output on one node."""
    return f"{attempt(number)}/logs/node-{node_rank}/output.log"


def worker_log(number: int, node_rank: int = 0) -> str:
    """The worker's own log on one node."""
    return f"{attempt(number)}/logs/node-{node_rank}/worker.log"


def metrics(number: int, node_rank: int = 0) -> str:
    """The metrics of one node."""
    return f"{attempt(number)}/metrics/node-{node_rank}.jsonl"


def _of_node(number: int, node_rank: int) -> str:
    return f"{attempt(number)}/nodes/node-{node_rank}" if node_rank else attempt(number)


def checkpoints(attempt: int) -> str:
    """The folder of the checkpoints of one attempt, into which no other attempt writes."""
    return CHECKPOINTS if attempt == 1 else f"{CHECKPOINTS}-{attempt}"


def checkpoints_of(folder: str) -> int | None:
    """The attempt whose checkpoints are in the folder of this name; None for other names. Inverse of ``checkpoints``."""
    if folder == CHECKPOINTS:
        return 1
    match = _LATER_CHECKPOINTS.fullmatch(folder)
    return int(match[1]) if match and match[1] != "1" else None


def unfinished_model(attempt: int) -> str:
    """The folder in which the program of one attempt leaves its model, which becomes ``MODEL`` when the attempt succeeds."""
    return f"{MODEL}-{attempt}"


def unfinished_model_of(folder: str) -> int | None:
    """The attempt whose program leaves its model in the folder of this name; None for other names. Inverse of ``unfinished_model``."""
    match = _UNFINISHED_MODEL.fullmatch(folder)
    return int(match[1]) if match else None


def step_folder(step: int) -> str:
    """The name of the checkpoint folder of ``step``, such as ``step-00001200``."""
    return f"step-{step:08d}"


def step_of(folder: str) -> int | None:
    """The step in a checkpoint folder's name; None for other names, such as those of temporary folders."""
    match = _STEP.fullmatch(folder)
    return int(match[1]) if match else None
