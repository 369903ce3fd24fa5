"""An attempt of two machines, at each place that has several: they know each other, end together, and go on together."""

import pytest

from cloud_train.errors import ProviderError
from cloud_train.orchestrator.resuming import resume
from cloud_train.orchestrator.stopping import cancel
from cloud_train.providers.base import Provider
from cloud_train.run import layout
from cloud_train.run.states import Cause, State
from tests.conformance.bench import READY, Bench, saving

TWO = {"nodes": 2}
MEETING = """
import os, socket, time

rank, nodes = os.environ["CLOUD_TRAIN_NODE_RANK"], os.environ["CLOUD_TRAIN_NODES"]
place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
print("node", rank, "of", nodes)
if rank == "0":
    with socket.create_server(place) as server:
        print("met node", server.accept()[0].recv(1).decode())
else:
    while True:
        try:
            with socket.create_connection(place, timeout=10) as connection:
                connection.sendall(rank.encode())
            break
        except ConnectionRefusedError:  # node 0 does not listen yet
            time.sleep(0.02)
"""


@pytest.fixture(autouse=True)
def _several(provider: Provider) -> None:
    if provider.capabilities.max_nodes == 1:
        pytest.skip(f"{provider.name} has one node")


def test_every_node_knows_its_place_and_reaches_node_0(bench: Bench) -> None:
    run = bench.run(["python3", "-c", MEETING], resources=TWO)
    assert run.state is State.SUCCEEDED, run.message
    assert [bench.words(run, node=rank) for rank in (0, 1)] == [["node 0 of 2", "met node 1"], ["node 1 of 2"]]


def test_a_node_that_fails_ends_the_attempt_with_its_cause(bench: Bench) -> None:
    end = bench.run('if [ "$CLOUD_TRAIN_NODE_RANK" = 1 ]; then echo it is broken; exit 3; fi; sleep 60; echo survived', resources=TWO)
    assert (end.state, end.cause, end.message) == (State.FAILED, Cause.FAILED, "node 1: exit status 3: it is broken")
    assert bench.words(end) == []
    bench.wait_until(lambda: not bench.place.leftovers(bench.home.folder, end.run_id), "nothing of either node is left")


def test_machines_without_the_gpus_that_the_job_asks_for_end_together_with_that_cause(bench: Bench) -> None:
    try:
        end = bench.run("echo started", resources={**TWO, "accelerator": "T4:1"}, env={"CUDA_VISIBLE_DEVICES": ""})
    except ProviderError:
        pytest.skip("this engine has no driver for GPUs and starts no container that asks for some")
    assert (end.state, end.cause) == (State.FAILED, Cause.NO_ACCELERATOR)
    assert "the job asks for 1 × T4 on each machine (resources.accelerator), but its program cannot use any: " in end.message
    bench.wait_until(lambda: not bench.place.leftovers(bench.home.folder, end.run_id), "nothing of either node is left")


def test_cancelling_reaches_every_node(bench: Bench) -> None:
    save = f'if [ "$CLOUD_TRAIN_NODE_RANK" = 0 ]; then {saving(9)}; fi'
    run = bench.start(f"trap '{save}; echo saved; exit 143' TERM; {READY}; sleep 600 & wait", resources=TWO)
    for rank in (0, 1):
        bench.wait_for_output(run, b"ready\n", node=rank)
    assert cancel(bench.home, run.run_id).cause is Cause.CANCELLED
    assert [bench.words(run, node=rank) for rank in (0, 1)] == [["ready", "saved"]] * 2
    assert bench.is_sealed(run, 9)
    bench.wait_until(lambda: not bench.place.leftovers(bench.home.folder, run.run_id), "nothing of either node is left")


def test_nodes_whose_machines_died_resume_from_one_checkpoint(bench: Bench) -> None:
    run = bench.start(
        'if [ "$CLOUD_TRAIN_ATTEMPT" = 2 ]; then echo "from ${CLOUD_TRAIN_RESUME##*/}"; cat "$CLOUD_TRAIN_RESUME/weights"; exit; fi\n'
        f'if [ "$CLOUD_TRAIN_NODE_RANK" = 0 ]; then {saving(1)}; {saving(2)}; fi\n{READY}; sleep 600',
        resources=TWO,
    )
    bench.wait_until(lambda: bench.is_sealed(run, 2), "the second checkpoint counts")
    bench.wait_for_output(run, b"ready\n", node=1)
    end = bench.kill(run)
    assert (end.state, end.cause) == (State.INTERRUPTED, Cause.INFRASTRUCTURE)
    resume(bench.home, run.run_id)
    end = bench.end_of(run)
    assert (end.state, end.attempt, end.resumed_step) == (State.SUCCEEDED, 2, 2)
    assert [bench.words(run, node=rank) for rank in (0, 1)] == [[f"from {layout.step_folder(2)}", "2"]] * 2
