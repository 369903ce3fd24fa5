import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from tests.clouds import kit
from tests.clouds.clock import VirtualClock
from tests.clouds.faults import ANY, Fault, Faults
from tests.clouds.machine import LABEL, ContainerStartError, ImagePullError, Login, Machines
from tests.clouds.server import Answer, Request, Server
from tests.support import wait_until

USER, PASSWORD = "AWS", "canary-registry-password"
CODES = {
    Fault.SERVER_ERROR: (500, "InternalFailure"),
    Fault.THROTTLE: (400, "ThrottlingException"),
    Fault.EXPIRED_TOKEN: (403, "ExpiredTokenException"),
}


class Sites:
    """The smallest simulator: it creates jobs and lists them, in SageMaker's protocol (JSON, the operation in a header)."""

    def __init__(self) -> None:
        self.jobs: list[str] = []

    def operation_of(self, request: Request) -> str:
        return request.headers.get("x-amz-target", "").rpartition(".")[2] or f"{request.method} {request.path}"

    def handle(self, request: Request) -> Answer:
        operation = self.operation_of(request)
        if operation == "CreateTrainingJob":
            self.jobs.append(request.json()["TrainingJobName"])
            return Answer.json({"TrainingJobArn": f"arn:aws:sagemaker:us-east-1:123456789012:training-job/{self.jobs[-1]}"})
        if operation == "ListTrainingJobs":
            return Answer.json({"TrainingJobSummaries": []})
        if operation == "GET /mistake":
            raise LookupError("a bug of the simulator's")
        return Answer.json({"method": request.method, "path": request.path, "query": request.query, "body": request.body.decode()})

    def error(self, request: Request, kind: Fault) -> Answer:
        status, code = CODES[kind]
        return Answer.json({"__type": code, "message": f"{self.operation_of(request)}: {kind.value}"}, status)


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def server(clock: VirtualClock) -> Iterator[Server]:
    with Server(Sites(), clock=clock) as running:
        yield running


@pytest.fixture
def sagemaker(server: Server) -> Iterator[Any]:
    """boto3's client, which tries each request once."""
    import boto3
    from botocore.config import Config

    client = boto3.client(
        "sagemaker",
        region_name="us-east-1",
        endpoint_url=server.url,
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
        config=Config(retries={"total_max_attempts": 1}, read_timeout=0.5),
    )
    yield client
    client.close()


def create(sagemaker: Any) -> None:
    sagemaker.create_training_job(TrainingJobName="job-1", RoleArn="r" * 20, OutputDataConfig={"S3OutputPath": "s3://b/o"})


@pytest.mark.parametrize("kind", CODES)
def test_a_refusal_reaches_the_sdk_in_the_clouds_own_words_and_is_not_carried_out(kind: Fault, server: Server, sagemaker: Any) -> None:
    from botocore.exceptions import ClientError

    server.faults.add("CreateTrainingJob", kind)
    sagemaker.list_training_jobs()  # another operation is not concerned
    with pytest.raises(ClientError, match=f"CreateTrainingJob: {kind.value}") as refused:
        create(sagemaker)
    assert refused.value.response["Error"]["Code"] == CODES[kind][1]
    assert server.simulator.jobs == []  # type: ignore[attr-defined] # it is a Sites
    create(sagemaker)
    assert [(logged.operation, logged.status, logged.fault) for logged in server.requests] == [
        ("ListTrainingJobs", 200, None),
        ("CreateTrainingJob", CODES[kind][0], kind),
        ("CreateTrainingJob", 200, None),
    ]


def test_a_lost_answer_is_carried_out_and_the_client_sees_the_connection_end(server: Server, sagemaker: Any) -> None:
    from botocore.exceptions import ConnectionClosedError

    server.faults.add("CreateTrainingJob", Fault.LOST_ANSWER)
    with pytest.raises(ConnectionClosedError):
        create(sagemaker)
    assert server.simulator.jobs == ["job-1"]  # type: ignore[attr-defined] # it is a Sites
    assert server.count("CreateTrainingJob") == 1


def test_a_half_open_connection_says_nothing_until_the_client_gives_up(server: Server, sagemaker: Any) -> None:
    from botocore.exceptions import ReadTimeoutError

    server.faults.add(ANY, Fault.HALF_OPEN)
    with pytest.raises(ReadTimeoutError):
        create(sagemaker)
    assert server.simulator.jobs == []  # type: ignore[attr-defined] # it is a Sites


def test_leaving_ends_half_open_and_idle_connections_at_once_with_their_threads() -> None:
    before = set(threading.enumerate())
    with ThreadPoolExecutor() as clients, requests.Session() as session:
        with Server(Sites()) as server:
            session.get(f"{server.url}/idle", timeout=30)
            server.faults.add("GET /silent", Fault.HALF_OPEN)
            waiting = clients.submit(requests.get, f"{server.url}/silent", timeout=30)
            wait_until(lambda: server.count("GET /silent") == 1, "the request has come")
            start = time.monotonic()
        assert time.monotonic() - start < 5
        with pytest.raises(requests.ConnectionError):
            waiting.result()
        with pytest.raises(requests.ConnectionError):
            session.get(server.url, timeout=30)
    assert set(threading.enumerate()) <= before


def test_one_connection_carries_many_requests_of_any_method(server: Server) -> None:
    connection = HTTPConnection(urlsplit(server.url).netloc, timeout=30)
    sockets: set[socket.socket] = set()
    for method in ("GET", "PUT", "POST", "PATCH", "DELETE", "HEAD"):
        connection.request(method, "/a%20job:cancel?name=a%2Fb&empty=", b"{}")
        answer = connection.getresponse()
        expected = Answer.json({"method": method, "path": "/a job:cancel", "query": {"name": "a/b", "empty": ""}, "body": "{}"}).body
        assert (answer.status, answer.read()) == (200, b"" if method == "HEAD" else expected)
        assert answer.headers["Content-Length"] == str(len(expected))
        sockets.add(connection.sock)
    connection.close()
    assert len(sockets) == 1


def test_requests_and_answers_carry_the_time_of_the_clock(server: Server, clock: VirtualClock) -> None:
    clock.advance(60)
    assert requests.get(server.url, timeout=30).headers["Date"] == "Tue, 14 Nov 2023 22:14:20 GMT"
    assert server.requests[0].time == clock.now()


def test_a_mistake_of_the_simulator_is_raised_when_its_server_ends() -> None:
    def ask() -> None:
        with Server(Sites()) as server:
            with pytest.raises(requests.ConnectionError):
                requests.get(f"{server.url}/mistake", timeout=30)
            assert requests.get(f"{server.url}/other", timeout=30).ok

    with pytest.raises(AssertionError, match="a bug of the simulator's"):
        ask()


def test_a_mistake_of_the_simulator_is_told_beside_the_failure_that_it_led_to() -> None:
    with pytest.raises(requests.ConnectionError) as failed, Server(Sites()) as server:
        requests.get(f"{server.url}/mistake", timeout=30)
    assert "a bug of the simulator's" in failed.value.__notes__[0]


def test_faults_come_as_often_and_in_the_order_in_which_they_were_ordered() -> None:
    faults = Faults()
    faults.add("Create", Fault.NO_CAPACITY)
    faults.add("Create", Fault.THROTTLE, times=2)
    faults.add(ANY, Fault.SERVER_ERROR)
    assert [faults.take("Create"), faults.take("List"), faults.take("Create"), faults.take("Create")] == [
        Fault.THROTTLE,
        Fault.SERVER_ERROR,
        Fault.THROTTLE,
        None,
    ]
    assert [faults.take("Create", [Fault.NO_CAPACITY]) for _ in range(2)] == [Fault.NO_CAPACITY, None]


def test_what_was_created_is_hidden_for_so_many_listings_or_so_long(clock: VirtualClock) -> None:
    faults = Faults(clock)
    faults.created("jobs", "old")
    faults.hide("jobs", requests=2)
    faults.created("jobs", "counted")
    faults.hide("jobs", seconds=5)
    faults.created("jobs", "timed")
    shown = [faults.shown("jobs", ["old", "counted", "timed"]) for _ in range(3)]
    assert shown == [["old"], ["old"], ["old", "counted"]]
    clock.advance(5)
    assert faults.shown("jobs", ["old", "counted", "timed"]) == ["old", "counted", "timed"]


def test_a_thread_that_waits_on_a_virtual_clock_goes_on_when_the_clock_does_or_when_it_is_told_to(clock: VirtualClock) -> None:
    told = threading.Event()
    with ThreadPoolExecutor() as threads:
        first, second = threads.submit(clock.wait, 100, told), threads.submit(clock.wait, 1_000, told)
        clock.advance(99.5)
        assert not first.done()
        clock.advance(0.5)
        assert first.result(30) is False
        assert not second.done()
        told.set()
        assert second.result(30) is True


@pytest.fixture(scope="module")
def registry(shared_clouds: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[kit.Registry]:
    with kit.registry(shared_clouds, tmp_path_factory.mktemp("login") / "registry", {USER: PASSWORD}) as running:
        yield running


@pytest.fixture(scope="module")
def image(registry: kit.Registry, shared_clouds: Path, small_base: str) -> str:
    return f"{registry.repository}@{kit.base_in_registry(shared_clouds, small_base)}"


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    with Machines("core") as started:
        yield started


def test_the_registry_lets_in_who_has_the_login(registry: kit.Registry) -> None:
    answers = [requests.get(f"http://{registry.host}/v2/", auth=auth, timeout=30) for auth in (None, (USER, "wrong"), (USER, PASSWORD))]
    assert [answer.status_code for answer in answers] == [401, 401, 200]


def test_a_machine_has_the_platforms_files_names_and_variables_and_an_image_that_is_not_root(machines: Machines, image: str) -> None:
    program = """
import os, pathlib, socket
print(os.getuid(), os.environ["AWS_REGION"], socket.gethostname(), socket.gethostbyname("algo-2"))
for path in ("/opt/ml", "/opt/ml/model", "/opt/ml/input/config/resourceconfig.json"):
    found = os.stat(path)
    print(found.st_uid, oct(found.st_mode), os.access(path, os.W_OK))
pathlib.Path("/tmp/note").write_bytes(pathlib.Path("/opt/ml/input/config/resourceconfig.json").read_bytes())
"""
    machine = machines.start(
        image,
        command=["python3", "-c", program],
        environment={"AWS_REGION": "eu-west-1"},
        files={"/opt/ml/input/config/resourceconfig.json": b"{}", "/opt/ml/model/": b""},
        hostname="algo-1",
        hosts={"algo-2": "127.0.0.1"},
        login=Login(USER, PASSWORD),
    )
    assert machine.wait(60) == 0, machine.output()
    assert machine.output().decode().splitlines() == [
        "65532 eu-west-1 algo-1 127.0.0.1",
        "0 0o40755 False",
        "0 0o40755 False",
        "0 0o100644 False",
    ]
    assert (machine.read("/tmp/note"), machine.read("/tmp/nothing")) == (b"{}", None)
    assert (machine.is_running(), machine.exit_code(), machine.out_of_memory()) == (False, 0, False)


def test_a_machine_hears_sigterm_and_may_take_its_time_until_it_is_killed(machines: Machines, image: str) -> None:
    program = """
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: print("terminated", flush=True))
print("ready", flush=True)
while True:
    signal.pause()
"""
    machine = machines.start(image, command=["python3", "-c", program], login=Login(USER, PASSWORD))
    wait_until(lambda: b"ready" in machine.output(), "it runs")
    machine.terminate()
    wait_until(lambda: b"terminated" in machine.output(), "it has heard SIGTERM")
    assert (machine.is_running(), machine.exit_code(), machine.wait(0.1)) == (True, None, None)
    machine.kill()
    assert (machine.is_running(), machine.exit_code(), machine.out_of_memory()) == (False, 137, False)
    machine.terminate()  # as a cloud that has not noticed yet
    machine.kill()


def test_a_machine_with_too_little_memory_says_so(machines: Machines, image: str) -> None:
    greedy = machines.start(
        image, command=["python3", "-c", "bytearray(1) * (1 << 30)"], memory_bytes=64 << 20, login=Login(USER, PASSWORD)
    )
    assert greedy.wait(60) == 137
    assert greedy.out_of_memory()


def test_what_keeps_a_machine_from_starting_is_told_in_the_engines_words(machines: Machines, image: str) -> None:
    missing = f"{image.partition('@')[0]}@sha256:{'0' * 64}"
    with pytest.raises(ImagePullError, match="manifest unknown"):
        machines.start(missing, command=["true"], login=Login(USER, PASSWORD))
    with pytest.raises(ImagePullError, match="unauthorized"):
        machines.start(image, command=["true"], login=Login(USER, "wrong"))
    with pytest.raises(ImagePullError, match="no basic auth credentials"):
        machines.start(image, command=["true"])
    with pytest.raises(ContainerStartError, match="no-such-program"):
        machines.start(image, command=["no-such-program"], login=Login(USER, PASSWORD))


def test_leaving_removes_every_machine_and_what_was_pulled(shared_clouds: Path, small_base: str, tmp_path: Path) -> None:
    from docker.errors import ImageNotFound

    with kit.registry(shared_clouds, tmp_path / "registry") as registry, Machines("core") as own:
        image = f"{registry.repository}@{kit.base_in_registry(shared_clouds, small_base)}"
        own.start(image, command=["sleep", "600"]).remove()
        machine = own.start(image, command=["sleep", "600"])
        own.kill_all()
        assert machine.exit_code() == 137
        own.start(image, command=["sleep", "600"])
    with Machines("core") as other:
        assert other.client.containers.list(all=True, filters={"label": f"{LABEL}={own.label}"}) == []
        with pytest.raises(ImageNotFound):
            other.client.images.get(image)
