"""Every exit status of cloud-train's programs, once: the command line's, the worker's, and those that shells and kernels give.

docs/exit-codes.md explains them. A process that a signal killed has 128 and the signal's number, as a shell reports it.
"""

OK = 0

INTERNAL = 1
"""A bug in cloud-train, and an error that has no status of its own."""
USAGE = 2
"""Invalid usage."""
JOB = 3
"""A job or config file is wrong."""
NOT_FOUND = 4
MISSING_DEPENDENCY = 5
STORE = 6
PROVIDER = 7
CORRUPT = 8
CONFLICT = 9

FAILED = 10
OUT_OF_MEMORY = 11
PREEMPTED = 12
CANCELLED = 13
TIMED_OUT = 14
INFRASTRUCTURE = 15
REJECTED = 16
UNKNOWN = 17

WORKSPACE = 18
"""Of a worker only: it can write to no folder of its machine."""

NO_ACCELERATOR = 19

STORE_ON_VERTEX = 20
"""``STORE`` of a worker on Vertex AI, which takes 6 for SIGABRT and starts the whole job again, up to three times."""

INTERRUPTED = 128 + 2
"""Ctrl-C: SIGINT."""
KILLED = 128 + 9
"""SIGKILL: sent by the kernel when memory runs out, or to a process that did not stop in time."""
OUTPUT_CLOSED = 128 + 13
"""The reader of the output is gone: SIGPIPE."""
TERMINATED = 128 + 15
"""SIGTERM; also of a program that stopped because of it, its last checkpoint saved."""

TAKEN = 3
"""Of a worker only, which reads no job file: another worker has the attempt, so this one did nothing."""
