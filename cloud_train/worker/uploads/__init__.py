"""A run's way to a store that is no folder of this machine: logs, metrics, checkpoints and model, in a process of its own."""
