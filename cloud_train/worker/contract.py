"""The contract between the worker and a training program in any language: these environment variables and nothing else.

docs/script-jobs.md explains them to users.
"""

from cloud_train import exit_status

RUN_ID = "CLOUD_TRAIN_RUN_ID"
"""The run's id."""
ATTEMPT = "CLOUD_TRAIN_ATTEMPT"
"""The attempt's number, from 1."""
JOB = "CLOUD_TRAIN_JOB"
"""Path of run.json, which contains the resolved job under ``job``."""
JOB_SHA256 = "CLOUD_TRAIN_JOB_SHA256"
"""SHA-256 of the submitted run.json, in hexadecimal, to check before using the file."""
CHECKPOINTS = "CLOUD_TRAIN_CHECKPOINTS"
"""Folder for checkpoints. Write one under another name (such as ``.step-1200.tmp``), then rename it to ``step-<number>``, which marks it
complete. The worker then adds a manifest, unless the program wrote ``manifest.json`` itself, as the last file."""
RESUME = "CLOUD_TRAIN_RESUME"
"""Folder of the newest valid checkpoint; empty on a fresh start."""
MODEL = "CLOUD_TRAIN_MODEL"
"""Folder for the final model. The worker adds a manifest when the program succeeds."""
METRICS = "CLOUD_TRAIN_METRICS"
"""File to which JSON lines are appended: ``{"step", "epoch", "time", "split", "name", "value"}``; epoch, time and split may be missing."""
DATA = "CLOUD_TRAIN_DATA"
"""Path of the job's ``data.path``, or a cache folder for downloads."""
FAILURE = "CLOUD_TRAIN_FAILURE"
"""File for the reason of a failure: text, or JSON ``{"message", "cause"}`` (cause: failed, out-of-memory, infrastructure,
no-accelerator).
Each node has its own file; ``"is_consequence": true`` means that another node is at fault."""
GRACE_SECONDS = "CLOUD_TRAIN_GRACE_SECONDS"
"""Seconds between SIGTERM and SIGKILL."""
NODE_RANK = "CLOUD_TRAIN_NODE_RANK"
"""Rank of this node, from 0."""
NODES = "CLOUD_TRAIN_NODES"
"""Number of nodes."""
MASTER_ADDRESS = "MASTER_ADDR"
"""With several nodes: host name or address of node 0, under torch's name."""
MASTER_PORT = "MASTER_PORT"
"""With several nodes: rendezvous port on node 0, under torch's name."""
KEEP_CHECKPOINTS = "CLOUD_TRAIN_KEEP_CHECKPOINTS"
"""Number of newest checkpoints to keep, in addition to the best ones."""
BEST = "CLOUD_TRAIN_BEST"
"""How many of the best checkpoints to keep, and by which metric: ``2:validation/loss:min``, or only a number."""

PLATFORM = "_CLOUD_TRAIN_PLATFORM"
"""The cloud platform of this machine; not set elsewhere. On such a machine, downloads from loopback addresses are refused."""

CODE = "_CLOUD_TRAIN_CODE"
"""The identity of a script's code as JSON, for the manifests that ``cloud_train.worker.api`` writes; not set for a built-in trainer."""
START_FROM = "_CLOUD_TRAIN_START_FROM"
"""The file of weights with which a built-in trainer begins (``train.start_from``). Not set without one, nor with a checkpoint."""

STOPPED = exit_status.TERMINATED
"""Exit status of a program that saved a checkpoint and stopped because of SIGTERM (128 + 15)."""
