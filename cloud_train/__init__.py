"""cloud-train: one YAML file trains a CNN, an RNN or your own script here or on a cloud, with no server.

Nothing is imported here, so that ``cloud-train --help`` stays instant. The rooms and what each may import are in docs/design.md.
"""

__version__ = "0.1.0"
