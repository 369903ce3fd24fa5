"""What cloud-train costs, measured: each module is a script of its own, and ``python -m benchmarks`` runs them all."""
