"""The record of runs: ids, states and causes, the run directory's layout, checkpoints and their manifests, the ledger.

No module that the worker uses imports pydantic: the worker has to start fast and stay small.
"""
