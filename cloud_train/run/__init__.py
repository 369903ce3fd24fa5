"""What happened: run ids, states and causes, the run directory's layout, checkpoints and their manifests, the ledger.

Nothing here imports pydantic: the worker reads these modules, and it has to start in a moment and stay small.
"""
