"""The fault proxy of the tests: each fault is what it says, and nothing else is touched."""

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection, HTTPException
from urllib.parse import urlsplit

import pytest

from cloud_train.storage.base import ObjectMissingError, UploadGoneError
from cloud_train.storage.registry import open_store
from tests.answers import REFUSALS, Request
from tests.faults import Cut, Drip, Fault, FaultProxy, Flip, Lose, Refuse, Weather
from tests.stores import SCHEMES, StoreServer, server_or_skip, use

DATA = bytes(range(256)) * 400
Ask = Callable[..., tuple[int, dict[str, str], bytes]]


@pytest.fixture
def server() -> StoreServer:
    return server_or_skip("gs")


@pytest.fixture
def path(server: StoreServer) -> str:
    url = server.new_url()
    server.put_raw(url, "key", DATA)
    return f"/{urlsplit(url).netloc}/key"


@pytest.fixture
def proxy(server: StoreServer) -> Iterator[FaultProxy]:
    with FaultProxy(server) as proxy:
        yield proxy


@pytest.fixture
def ask(proxy: FaultProxy) -> Ask:
    def ask(method: str, target: str, body: bytes = b"") -> tuple[int, dict[str, str], bytes]:
        with closing(HTTPConnection(urlsplit(proxy.endpoint).netloc, timeout=30)) as connection:
            connection.request(method, target, body)
            with connection.getresponse() as response:
                return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()

    return ask


def always(fault: Fault) -> Callable[[Request], Fault]:
    return lambda request: fault


def test_without_a_fault_requests_and_answers_pass_unchanged(proxy: FaultProxy, ask: Ask, path: str) -> None:
    assert ask("PUT", path, DATA * 20)[0] == 200
    status, headers, body = ask("GET", path)
    assert (status, body) == (200, DATA * 20)
    assert ask("HEAD", path)[1]["content-length"] == headers["content-length"]
    assert ask("GET", path + "-missing")[0] == 404
    seen = {(record.request.method, record.sent, record.status, record.received) for record in proxy.records}  # in the order of their ends
    assert {("PUT", len(DATA) * 20, 200, 0), ("GET", 0, 200, len(DATA) * 20)} <= seen
    assert proxy.sent("GET") == 2
    assert proxy.sent("GET", "missing") == 1
    assert proxy.faults() == []


def test_one_connection_serves_many_requests(proxy: FaultProxy, path: str) -> None:
    with closing(HTTPConnection(urlsplit(proxy.endpoint).netloc, timeout=30)) as connection:
        for _ in range(3):
            connection.request("GET", path)
            assert connection.getresponse().read() == DATA


def test_a_cut_request_never_reaches_the_store_whole(proxy: FaultProxy, ask: Ask, path: str) -> None:
    proxy.plan = always(Cut("request", after=1000))
    with pytest.raises((HTTPException, OSError)):
        ask("PUT", path, b"other" * 100_000)
    proxy.plan = lambda request: None
    assert ask("GET", path)[2] == DATA
    assert proxy.records[0].status is None


@pytest.mark.parametrize("after", [0, 1, 777, 10**9])
def test_a_cut_answer_ends_early(proxy: FaultProxy, ask: Ask, path: str, after: int) -> None:
    proxy.plan = always(Cut("response", after=after))
    with pytest.raises((HTTPException, OSError)):
        ask("GET", path)
    (record,) = proxy.records
    assert record.status == 200
    assert record.received == min(after, len(DATA) - 1)


def test_an_answer_cut_before_its_head_was_carried_out(proxy: FaultProxy, ask: Ask, path: str) -> None:
    proxy.plan = always(Cut("response", after=-1))
    with pytest.raises((HTTPException, OSError)):
        ask("PUT", path, b"new")
    proxy.plan = lambda request: None
    assert ask("GET", path)[2] == b"new"


def test_a_flip_changes_one_bit_and_no_length(proxy: FaultProxy, ask: Ask, path: str) -> None:
    proxy.plan = always(Flip(len(DATA) + 5))
    status, headers, body = ask("GET", path)
    assert status == 200
    assert int(headers["content-length"]) == len(body) == len(DATA)
    assert [(place, was ^ now) for place, (was, now) in enumerate(zip(DATA, body, strict=True)) if was != now] == [(5, 1)]


def test_a_drip_brings_everything(proxy: FaultProxy, ask: Ask, path: str) -> None:
    proxy.plan = always(Drip(pieces=7, pause=0.001))
    assert ask("GET", path)[2] == DATA


def test_a_lost_upload_is_acknowledged_and_not_there(proxy: FaultProxy, ask: Ask, path: str) -> None:
    proxy.plan = always(Lose())
    status, headers, _ = ask("PUT", path, b"lost")
    assert status == 200
    assert headers["etag"].strip('"')
    proxy.plan = lambda request: None
    assert ask("GET", path)[2] == DATA


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_clouds_own_clients_believe_in_a_lost_upload(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    server = server_or_skip(scheme)
    with FaultProxy(server) as proxy:
        use(server, monkeypatch, proxy.endpoint)
        store = open_store(server.new_url())
        parts = store.multipart()
        token = parts.begin("parts", 2 * parts.part_bytes(1), "0" * 64)
        proxy.plan = lambda request: Lose() if request.method == "PUT" else None
        store.put("whole", DATA)
        receipt = parts.send("parts", token, 0, 0, bytes(parts.part_bytes(1)))
        assert receipt
        assert proxy.faults() == [Lose(), Lose()]
        with pytest.raises(ObjectMissingError):
            store.stat("whole")
        proxy.plan = lambda request: None
        with pytest.raises(UploadGoneError):
            parts.finish("parts", token, {0: receipt})


def test_a_clock_that_is_an_hour_off_shows_in_the_date_only(proxy: FaultProxy, ask: Ask, path: str) -> None:
    right = parsedate_to_datetime(ask("GET", path)[1]["date"])
    proxy.clock_offset = 3600
    status, headers, body = ask("GET", path)
    assert (status, body) == (200, DATA)
    assert abs((right - parsedate_to_datetime(headers["date"])).total_seconds() - 3600) < 60


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("kind", ["busy", "throttled", "denied", "expired"])
def test_a_refusal_is_in_the_clouds_own_words(scheme: str, kind: str) -> None:
    status, code, message = REFUSALS[kind][scheme]
    with FaultProxy(server_or_skip(scheme), always(Refuse(kind))) as proxy:
        paths = ["/bucket/key", "/storage/v1/b/bucket/o/key"] if scheme == "gs" else ["/bucket/key"]
        for path in paths:
            with closing(HTTPConnection(urlsplit(proxy.endpoint).netloc, timeout=30)) as connection:
                connection.request("PUT", path, b"some bytes")
                response = connection.getresponse()
                body = response.read().decode()
            assert response.status == status
            assert message in body
            if path.startswith("/storage"):
                assert json.loads(body)["error"]["errors"][0]["reason"] == code
            else:
                assert "<Code>" in body
        assert all(record.sent == len(b"some bytes") for record in proxy.records)


def test_the_same_seed_brings_the_same_faults_and_another_one_others() -> None:
    requests = [Request(number, "PUT", f"/bucket/{number % 7}", "", {}, 1000, "s3") for number in range(200)]

    def drawn(seed: int) -> list[Fault | None]:
        weather = Weather(seed, cut=0.1, busy=0.05, flip=0.1, drip=0.1, lose=0.1)
        return [weather(request) for request in requests]

    assert drawn(1) == drawn(1) != drawn(2)
    assert {type(fault) for fault in drawn(1)} == {type(None), Cut, Refuse, Drip, Lose}  # of a PUT no answer is flipped
    assert sum(fault is not None for fault in drawn(1)) == 50


def test_weather_spares_what_it_does_not_concern() -> None:
    weather = Weather(1, cut=1.0, concerns=lambda request: request.method == "GET")
    assert weather(Request(1, "PUT", "/a", "", {}, 10, "s3")) is None
    assert isinstance(weather(Request(2, "GET", "/a", "", {}, 0, "s3")), Cut)


def test_a_proxy_ends_though_a_client_keeps_its_connection_open(server: StoreServer, path: str) -> None:
    with FaultProxy(server) as proxy:
        connection = HTTPConnection(urlsplit(proxy.endpoint).netloc, timeout=30)
        connection.request("GET", path)
        assert connection.getresponse().read() == DATA
    with closing(connection):
        assert connection.sock.recv(1) == b""
