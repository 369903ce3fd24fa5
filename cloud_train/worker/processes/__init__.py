"""Processes as the kernel sees them: forks, process trees, signals."""
