"""Checks of other machines: several, and those with accelerators."""

from collections.abc import Iterator

from cloud_train.run.states import State
from tools.cloud_check.bench import Bench
from tools.cloud_check.verdicts import Fact, compared, succeeded, untried

_TABLES = {"aws": "sagemaker-machine-table", "gcp": "vertex-machines"}


def two_nodes(bench: Bench) -> Iterator[Fact]:
    """Two machines know each other."""
    run = bench.submit("two-nodes")
    view = bench.ended(run)
    yield succeeded("a job on two machines succeeds", view)
    if view.state is not State.SUCCEEDED:
        return
    nodes = [bench.said(run, "node", node) for node in (0, 1)]
    if None in nodes:
        yield compared("each says its number", nodes, False)
        return
    ranks = [node["CLOUD_TRAIN_NODE_RANK"] for node in nodes]
    yield compared("each says its number", ", ".join(map(str, ranks)), ranks == ["0", "1"])
    addresses = {node["MASTER_ADDR"] for node in nodes}
    yield compared("both know the same address of node 0", ", ".join(map(str, addresses)), len(addresses) == 1 and None not in addresses)
    apart = abs(nodes[0]["began"] - nodes[1]["began"])
    rows = {"aws": ("sagemaker-late-names",), "gcp": ("vertex-nodes-start-one-by-one",)}.get(bench.cloud, ())
    yield compared("the worker waits until all are there", f"the programs began {apart:,.1f} s apart", apart < 1200, *rows)
    if bench.cloud == "aws":
        interfaces = {node["NCCL_SOCKET_IFNAME"] for node in nodes}
        yield compared("NCCL is told its interface", ", ".join(map(str, interfaces)), None not in interfaces, "sagemaker-network-interface")


def accelerator(bench: Bench) -> Iterator[Fact]:
    """A program sees the GPU that it asked for."""
    table = (_TABLES[bench.cloud],) if bench.cloud in _TABLES else ()
    run = bench.submit("accelerator")
    view = bench.ended(run)
    expected = f"a job that asks for 1 × {bench.options.accelerator} succeeds"
    yield succeeded(expected, view, "gpu-nvidia-runtime", *table)
    seen = bench.said(run, "accelerator") if view.state is State.SUCCEEDED else None
    if seen is None:
        yield untried("the driver counts 1 GPU", "the program did not run", "gpu-driver-library")
        return
    yield compared("the driver counts 1 GPU", seen["driver"], seen["driver"] == 1, "gpu-driver-library")
    kind = bench.options.accelerator.upper()
    yield compared("nvidia-smi names its kind", seen["nvidia-smi"], any(kind in line.upper() for line in seen["nvidia-smi"]), *table)
    if bench.cloud == "gcp":
        path = seen["values"].get("LD_LIBRARY_PATH", "")
        found = [folder for folder in seen["folders"] if folder in path]
        yield compared("Google's folders for NVIDIA's libraries are there", seen["folders"], bool(found), "gpu-libraries-on-google")
