"""Uploads of a run to a cloud's store: logs, metrics, checkpoints and model, by a separate process."""
