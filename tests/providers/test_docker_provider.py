"""The docker provider on a real engine: launching once, finding again, every way to end, and what a program can do inside."""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cloud_train.docker.engine import connected
from cloud_train.docker.host import EngineUnavailableError, address_of
from cloud_train.errors import ProviderError
from cloud_train.providers.base import AlreadyLaunchedError
from cloud_train.providers.docker.provider import DockerProvider
from cloud_train.run import layout
from cloud_train.run.states import Cause, State
from tests.docker.forwarding import forwarded
from tests.docker_engine import engine_or_skip
from tests.providers.docker_runs import Run, of_nobody, plan_of, worker_image
from tests.support import wait_until

if TYPE_CHECKING:
    from docker import DockerClient

MakeRun = Callable[..., Run]

WAITS = ("python3", "-c", "import time; print('started', flush=True); time.sleep(60)")


@pytest.fixture(scope="module")
def engine() -> Iterator["DockerClient"]:
    with closing(engine_or_skip()) as client:
        yield client


@pytest.fixture(scope="module")
def image(engine: "DockerClient") -> Iterator[str]:
    with worker_image(engine) as identifier:
        yield identifier


@pytest.fixture
def provider(tmp_path: Path) -> DockerProvider:
    return DockerProvider(tmp_path / "home")


@pytest.fixture
def link(tmp_path: Path) -> Path:
    """Another address of the engine, which goes away when the link does."""
    address = address_of(None)
    if not address.startswith("unix://"):
        pytest.skip("the engine does not listen at a socket of this machine")
    (tmp_path / "docker.sock").symlink_to(address.removeprefix("unix://"))
    return tmp_path / "docker.sock"


@pytest.fixture
def make_run(provider: DockerProvider, engine: "DockerClient", image: str, tmp_path: Path) -> Iterator[MakeRun]:
    store = tmp_path / "runs"

    def make(*command: str, **plan: Any) -> Run:
        return Run(provider, plan_of(store, *command, **{"image": image, **plan}))

    yield make
    label = {"label": f"cloud-train.store={store}"}
    for container in engine.containers.list(all=True, filters=label):
        container.remove(force=True, v=True)
    for network in engine.networks.list(filters=label):
        network.remove()


def python(code: str) -> tuple[str, ...]:
    return "python3", "-c", code


def test_a_program_runs_to_its_end_and_its_worker_writes_that_down(make_run: MakeRun, engine: "DockerClient") -> None:
    run = make_run(*python("import os; print('hello from', os.getpid() != 1)"))
    handle = run.finish()
    assert run.provider.observe(handle).cause is Cause.SUCCEEDED
    assert run.status().cause is Cause.SUCCEEDED
    assert run.status().pid == 1
    assert run.output() == b"hello from True\n"
    run.provider.clean_up(handle)
    run.provider.clean_up(handle)
    assert run.left_at(engine) == []


def test_what_lands_in_the_run_directory_belongs_to_the_user(make_run: MakeRun) -> None:
    run = make_run(*python("import os, pathlib; pathlib.Path(os.environ['CLOUD_TRAIN_MODEL'], 'weights').write_text('w')"))
    owner = os.getuid()
    if owner == 0:  # who may give the folder to somebody else, which shows more
        owner = 12345
        run.plan = of_nobody(run.plan)
        os.chown(run.directory, owner, owner)
    run.finish()
    assert run.status().cause is Cause.SUCCEEDED
    written = [path for path in run.directory.rglob("*") if path.name != layout.RUN]
    assert {path.stat().st_uid for path in written} == {owner}
    assert (run.directory / "model/weights").read_text() == "w"


def test_an_attempt_is_launched_once(make_run: MakeRun, engine: "DockerClient") -> None:
    run = make_run(*WAITS)
    run.launch()
    with pytest.raises(AlreadyLaunchedError):
        run.launch()
    assert run.left_at(engine) == [f"ct-{run.plan.run_id}-1-0"]


def test_a_second_launch_leaves_the_workspace_of_the_first_alone(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(*WAITS)
    run.plan = replace(run.plan, store="s3://bucket/runs")
    handle = run.launch(Entrypoint=["sleep", "60"], Cmd=[])
    try:
        with pytest.raises(AlreadyLaunchedError):
            run.launch(Entrypoint=["sleep", "60"], Cmd=[])
        assert (tmp_path / "home" / "work" / f"{run.plan.run_id}.node-0").is_dir()
    finally:
        run.provider.cancel(handle, force=True)


def test_several_nodes_are_launched_once(make_run: MakeRun, engine: "DockerClient") -> None:
    run = make_run(*WAITS, resources={"nodes": 2})
    run.launch()
    before = sorted(run.left_at(engine))
    with pytest.raises(AlreadyLaunchedError):
        run.launch()
    assert sorted(run.left_at(engine)) == before
    assert len(before) == 3


def test_an_attempt_is_found_by_its_labels_alone(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(*WAITS)
    elsewhere = DockerProvider(tmp_path / "another home")
    assert elsewhere.find(run.plan.run_id, 1, run.plan.store, {}) is None
    handle = run.launch()
    assert elsewhere.find(run.plan.run_id, 1, run.plan.store, {}) == handle
    assert elsewhere.find(run.plan.run_id, 2, run.plan.store, {}) is None
    assert elsewhere.find(run.plan.run_id, 1, "/another/store", {}) is None


def test_an_attempt_on_an_engine_that_only_the_config_named_is_found(
    make_run: MakeRun, link: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(*WAITS, settings={"host": f"unix://{link}"})
    handle = run.launch()
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    assert run.provider.find(run.plan.run_id, 1, run.plan.store, {}) == handle
    with pytest.raises(EngineUnavailableError):  # an engine that cannot be asked might have it
        run.provider.find(run.plan.run_id, 2, run.plan.store, {})


def test_a_submission_that_was_cut_off_before_the_start_has_ended(make_run: MakeRun, engine: "DockerClient") -> None:
    run = make_run(*WAITS, resources={"nodes": 2})
    request = run.provider.render(run.plan)
    engine.api.create_network(request["network"]["Name"], labels=request["network"]["Labels"])
    only_network = run.provider.find(run.plan.run_id, 1, run.plan.store, {})
    assert only_network is not None
    assert run.provider.observe(only_network).cause is Cause.INFRASTRUCTURE
    first = request["containers"][0]
    for mount in first["body"]["HostConfig"]["Mounts"]:
        Path(mount["Source"]).mkdir(parents=True, exist_ok=True)
    engine.api.create_container_from_config(first["body"], first["name"])
    found = run.provider.find(run.plan.run_id, 1, run.plan.store, {})
    assert found is not None
    assert "never started" in run.provider.observe(found).message
    run.provider.cancel(found, force=True)
    assert run.left_at(engine) == []


SAVES = """
import os, pathlib, signal, sys, time
def save(*_):
    folder = pathlib.Path(os.environ["CLOUD_TRAIN_CHECKPOINTS"], "step-00000007")
    folder.mkdir()
    (folder / "weights").write_text("last words")
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
print("started", flush=True)
time.sleep(60)
"""


def test_a_cancelled_program_saves_a_last_checkpoint(make_run: MakeRun) -> None:
    run = make_run(*python(SAVES))
    handle = run.launch()
    run.says(b"started")
    (run.directory / layout.cancel(1)).write_bytes(b"")
    run.provider.cancel(handle)
    wait_until(lambda: run.provider.observe(handle).state.is_end, "the container has ended")
    assert run.provider.observe(handle).cause is Cause.CANCELLED
    assert run.status().cause is Cause.CANCELLED
    assert (run.directory / "checkpoints/step-00000007/manifest.json").is_file()
    run.provider.cancel(handle)  # one that has ended is left as it is


def test_a_paused_program_is_said_to_be_paused_and_can_be_cancelled(make_run: MakeRun, engine: "DockerClient") -> None:
    run = make_run(*python(SAVES))
    handle = run.launch()
    run.says(b"started")
    engine.api.pause(handle.reference["containers"][0]["id"])
    seen = run.provider.observe(handle)
    assert seen.state is State.RUNNING
    assert "docker unpause" in seen.message
    run.provider.cancel(handle)
    wait_until(lambda: run.provider.observe(handle).state.is_end, "the container has ended")
    assert run.status().cause is Cause.PREEMPTED


def test_force_ends_and_removes_everything_at_once(make_run: MakeRun, engine: "DockerClient") -> None:
    run = make_run(*WAITS, resources={"nodes": 2})
    handle = run.launch()
    run.provider.cancel(handle, force=True)
    assert run.left_at(engine) == []
    seen = run.provider.observe(handle)
    assert (seen.state, seen.cause) == (State.INTERRUPTED, Cause.INFRASTRUCTURE)
    assert "was removed" in seen.message
    run.provider.cancel(handle, force=True)


def test_a_program_that_needs_too_much_memory_is_said_to(make_run: MakeRun) -> None:
    run = make_run(*python("b = bytearray(300_000_000); print(len(b))"), resources={"memory": "64MB"})
    run.finish()
    assert run.status().cause is Cause.OUT_OF_MEMORY


def test_a_worker_that_was_killed_for_memory_is_said_to(make_run: MakeRun, engine: "DockerClient") -> None:
    for _ in range(5):  # an engine that hears of the container's end before it hears why does not tell
        run = make_run(*WAITS, resources={"memory": "64MB"})
        handle = run.finish(Entrypoint=["python3", "-c", "b = bytearray(300_000_000); print(len(b))"])
        if engine.api.inspect_container(handle.reference["containers"][0]["id"])["State"]["OOMKilled"]:
            break
    seen = run.provider.observe(handle)
    assert seen.cause is Cause.OUT_OF_MEMORY
    assert "64 MB (resources.memory)" in seen.message


def test_a_killed_container_is_the_machine_s_failure(make_run: MakeRun, engine: "DockerClient") -> None:
    run = make_run(*WAITS)
    handle = run.launch()
    run.says(b"started")
    engine.api.kill(handle.reference["containers"][0]["id"])
    seen = run.provider.observe(handle)
    assert (seen.state, seen.cause) == (State.INTERRUPTED, Cause.INFRASTRUCTURE)
    assert "killed" in seen.message


def test_a_node_that_is_lost_ends_the_attempt(make_run: MakeRun, engine: "DockerClient") -> None:
    run = make_run(*WAITS, resources={"nodes": 2})
    handle = run.launch()
    assert run.provider.observe(handle).state is State.RUNNING
    engine.api.kill(handle.reference["containers"][1]["id"])
    seen = run.provider.observe(handle)
    assert seen.cause is Cause.INFRASTRUCTURE
    assert seen.message.startswith("node 1: ")


def test_what_a_worker_says_before_it_can_keep_a_log_is_kept(make_run: MakeRun) -> None:
    run = make_run(*WAITS)
    handle = run.finish(Entrypoint=["python3", "-m", "no_such_worker"])
    seen = run.provider.observe(handle)
    assert seen.cause is Cause.FAILED
    assert "No module named no_such_worker" in seen.message
    said, cursor = run.provider.logs(handle, None)
    assert b"No module named no_such_worker" in said
    assert run.provider.logs(handle, cursor) == (b"", cursor)
    run.provider.clean_up(handle)
    assert run.provider.logs(handle, cursor) == (b"", cursor)


def test_a_missing_image_is_named_and_nothing_is_left(make_run: MakeRun, engine: "DockerClient") -> None:
    run = make_run(*WAITS, image="sha256:" + "0" * 64, resources={"nodes": 2})
    with pytest.raises(ProviderError, match="the engine has no image sha256:0000") as caught:
        run.launch()
    assert caught.value.hint
    assert run.left_at(engine) == []


def test_an_image_without_python_is_named_and_nothing_is_left(make_run: MakeRun, engine: "DockerClient") -> None:
    run = make_run(*WAITS, resources={"nodes": 2})
    with pytest.raises(ProviderError, match="the image has no python9") as caught:
        run.launch(Entrypoint=["python9", "-m", "cloud_train.worker"])
    assert "image.base" in str(caught.value.hint)
    assert run.left_at(engine) == []


def test_a_folder_that_the_engine_does_not_see_is_named(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(*WAITS)
    run.plan = replace(run.plan, host_data=str(tmp_path / "absent"))
    with pytest.raises(ProviderError, match=f"bind source path does not exist: {tmp_path}/absent"):
        run.launch()


OUTSIDE = Path("/proc/self/cwd")
"""The folder of the process that asks: what a test sees below is elsewhere for the engine."""


def test_on_an_engine_that_does_not_see_this_machine_s_folders_a_run_in_a_store_has_volumes_and_its_files_are_brought_along(
    make_run: MakeRun, engine: "DockerClient", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "authority.pem").write_text("trusted\n")
    run = make_run(*WAITS)
    run.provider, run.plan = DockerProvider(OUTSIDE / "home"), replace(run.plan, store="s3://bucket/runs")
    command = "touch /cloud-train/work/a /cloud-train/home/data/b && cat /cloud-train/credentials/AWS_CA_BUNDLE"
    handle = run.launch({"AWS_CA_BUNDLE": str(tmp_path / "authority.pem")}, Entrypoint=["sh", "-c", command], User="0:0")
    try:
        wait_until(lambda: run.provider.observe(handle).state.is_end, "it has ended")
        assert run.provider.logs(handle, None)[0] == b"trusted\n"
    finally:
        run.provider.cancel(handle, force=True)
    assert not [volume for volume in engine.volumes.list() if "cloud-train" in volume.name]


def test_on_such_an_engine_a_local_run_directory_is_refused_with_what_to_do_and_nothing_is_left(
    make_run: MakeRun, engine: "DockerClient", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = make_run(*WAITS)
    run.plan = replace(run.plan, store=str(OUTSIDE / "runs"))
    with pytest.raises(
        ProviderError, match=r"cannot see the run directory at /proc/self/cwd/runs/.*, because it runs on another machine"
    ) as caught:
        run.launch()
    assert "--store s3://bucket/runs (or gs://, az://)" in str(caught.value.hint)
    assert run.left_at(engine) == []


def test_more_processors_than_there_are_and_an_unknown_network_are_refused_in_words(make_run: MakeRun) -> None:
    with pytest.raises(ProviderError, match=r"resources\.cpus"):
        make_run(*WAITS, resources={"cpus": 100_000}).launch()
    with pytest.raises(ProviderError, match="the engine has no network nowhere"):
        make_run(*WAITS, settings={"network": "nowhere"}).launch()


def test_no_engine_is_an_error_of_a_launch_and_unknown_to_a_look(make_run: MakeRun, link: Path) -> None:
    run = make_run(*WAITS, settings={"host": f"unix://{link}"})
    handle = run.launch()
    link.unlink()
    seen = run.provider.observe(handle)
    assert (seen.state, seen.cause) == (State.RUNNING, Cause.UNKNOWN)
    assert f"no Docker Engine is running at unix://{link}" in seen.message
    with pytest.raises(EngineUnavailableError, match="no Docker Engine is running"):
        run.provider.cancel(handle)
    with pytest.raises(EngineUnavailableError, match="no Docker Engine is running") as caught:
        run.launch()
    assert "DOCKER_HOST" in str(caught.value.hint)


def test_what_an_engine_that_is_gone_still_has_is_taken_away_by_the_next_launch(
    make_run: MakeRun, engine: "DockerClient", link: Path
) -> None:
    run = make_run("true", settings={"host": f"unix://{link}"})
    handle = run.finish()
    engine_socket = link.readlink()
    link.unlink()
    run.provider.clean_up(handle)
    assert run.left_at(engine)
    link.symlink_to(engine_socket)
    make_run("true", settings={"host": f"unix://{link}"}).launch()
    assert run.left_at(engine) == []


def test_a_socket_that_is_not_ours_names_the_group_to_join(make_run: MakeRun, tmp_path: Path) -> None:
    path = tmp_path / "docker.sock"
    run = make_run(*WAITS, settings={"host": f"unix://{path}"})
    request = run.provider.render(run.plan)
    with closing(socket.socket(socket.AF_UNIX)) as listening:
        listening.bind(str(path))
        path.chmod(0)
        me = os.geteuid()
        os.seteuid(65534 if me == 0 else me)  # nothing keeps root out
        try:
            with pytest.raises(EngineUnavailableError, match="permission denied") as caught:
                run.provider.launch(request, {})
        finally:
            os.seteuid(me)
    assert "usermod -aG docker" in str(caught.value.hint)


LOOKS_AROUND = """
import os
for line in open("/proc/self/status"):
    if line.startswith(("CapEff", "CapBnd", "NoNewPrivs")):
        print("".join(line.split()))
for place in ("/written", "/cloud-train/data/written", "/usr/written", "/tmp/written", "/dev/shm/written"):
    try:
        open(place, "w").close()
        print("wrote", place)
    except OSError as error:
        print("refused", place, error.strerror)
print("socket", os.path.exists("/var/run/docker.sock"))
print("data", open("/cloud-train/data/words.txt").read())
shm = os.statvfs("/dev/shm")
print("shm", shm.f_blocks * shm.f_frsize)
"""


def test_a_program_can_do_nothing_that_training_does_not_need(make_run: MakeRun, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o777)
    (data / "words.txt").write_text("read me")
    run = make_run(*python(LOOKS_AROUND), resources={"memory": "512MB", "cpus": 1})
    run.plan = replace(run.plan, host_data=str(data))
    run.finish()
    lines = run.output().decode().splitlines()
    assert {"CapEff:0000000000000000", "CapBnd:0000000000000000", "NoNewPrivs:1"} <= set(lines)
    assert [line for line in lines if line.startswith("refused")] == [
        f"refused {place} Read-only file system" for place in ("/written", "/cloud-train/data/written", "/usr/written")
    ]
    assert {"wrote /tmp/written", "wrote /dev/shm/written", "socket False", "data read me", "shm 256000000"} <= set(lines)


def test_a_secret_reaches_the_program_and_no_file(make_run: MakeRun, tmp_path: Path) -> None:
    secret = "canary-5f2c"
    run = make_run(*python("import os; print(len(os.environ['TOKEN']))"), secrets=["TOKEN"])
    handle = run.finish({"TOKEN": secret})
    assert run.output() == b"11\n"
    assert secret not in repr(run.provider.render(run.plan)) + repr(handle)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]


def test_of_an_engine_elsewhere_a_container_that_goes_on_is_told_from_an_engine_that_is_gone(make_run: MakeRun) -> None:
    run = make_run(*WAITS)
    (container,) = run.launch().reference["containers"]
    run.says(b"started")
    with forwarded() as address, connected(address) as far:
        assert not far.has_stopped(container["id"], 0.2)
        far.terminate(container["id"])
        assert far.has_stopped(container["id"], 20)
        assert far.errors(container["id"], 10) == b""  # what the program prints is in its standard output alone


def test_an_attempt_that_goes_on_is_not_tidied_away(make_run: MakeRun, engine: "DockerClient", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloud_train.providers.docker.provider._LEAVING_SECONDS", 0.2)
    run = make_run(*WAITS)
    handle = run.launch()
    run.provider.clean_up(handle)
    assert run.provider.observe(handle).state is State.RUNNING
    assert run.left_at(engine)
