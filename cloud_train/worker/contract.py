"""The contract between the worker and a training program, in any language: these environment variables and nothing else.

docs/script-jobs.md explains them to users. The built-in trainers use nothing else.
"""

from cloud_train import exit_status

RUN_ID = "CLOUD_TRAIN_RUN_ID"
"""The run's id."""
ATTEMPT = "CLOUD_TRAIN_ATTEMPT"
"""The attempt's number, from 1."""
JOB = "CLOUD_TRAIN_JOB"
"""Path of run.json: the resolved job stands in it under ``job``."""
JOB_SHA256 = "CLOUD_TRAIN_JOB_SHA256"
"""SHA-256 of run.json as it was submitted, in hexadecimal: a program that acts on the file checks it first."""
CHECKPOINTS = "CLOUD_TRAIN_CHECKPOINTS"
"""Folder for checkpoints. Write one elsewhere inside it (``.step-1200.tmp``, say), then rename it to ``step-<number>``: from then on it is
complete, and the worker gives it a manifest, unless the program wrote ``manifest.json`` itself, last."""
RESUME = "CLOUD_TRAIN_RESUME"
"""Folder of the newest valid checkpoint, or empty on a fresh start."""
MODEL = "CLOUD_TRAIN_MODEL"
"""Folder for the final model. The worker gives it a manifest when the program ends well."""
METRICS = "CLOUD_TRAIN_METRICS"
"""File to which JSON lines are appended: ``{"step", "epoch", "time", "split", "name", "value"}``; epoch, time and split may be missing."""
DATA = "CLOUD_TRAIN_DATA"
"""Path of the job's ``data.path``, or a cache folder for downloads."""
FAILURE = "CLOUD_TRAIN_FAILURE"
"""File in which a program may say why it ends: text, or JSON ``{"message", "cause"}`` (cause: failed, out-of-memory, infrastructure).
Of several nodes each has a file of its own; ``"is_consequence": true`` says that another node is at fault."""
GRACE_SECONDS = "CLOUD_TRAIN_GRACE_SECONDS"
"""Seconds between SIGTERM and SIGKILL."""
NODE_RANK = "CLOUD_TRAIN_NODE_RANK"
"""This node's number, from 0."""
NODES = "CLOUD_TRAIN_NODES"
"""Number of nodes."""
MASTER_ADDRESS = "MASTER_ADDR"
"""Of several nodes: host name or address at which the others reach node 0. The name is torch's."""
MASTER_PORT = "MASTER_PORT"
"""Of several nodes: port on node 0 that is theirs to meet at. The name is torch's."""
KEEP_CHECKPOINTS = "CLOUD_TRAIN_KEEP_CHECKPOINTS"
"""Newest checkpoints kept; the best ones are kept as well."""
BEST = "CLOUD_TRAIN_BEST"
"""How many of the best checkpoints are kept, and which they are: ``2:validation/loss:min``, or a number alone."""

PLATFORM = "_CLOUD_TRAIN_PLATFORM"
"""The cloud whose machine this is; not set elsewhere. The built-in trainers download nothing from such a machine itself."""

STOPPED = exit_status.TERMINATED
"""Exit status of a program that stopped because of SIGTERM (128 + 15), its last checkpoint saved."""
