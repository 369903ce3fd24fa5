"""Benchmarks of cloud-train's overhead: each module is a script, and ``python -m benchmarks`` runs them all."""
