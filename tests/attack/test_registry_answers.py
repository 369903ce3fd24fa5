"""What a stranger's registry answers: it leads this machine to no address of its choice, takes no memory without limit, and
crashes nothing.
"""

import hashlib
import json
import re
import socket
import socketserver
import threading
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloud_train.errors import CloudTrainError
from cloud_train.image import uploads
from cloud_train.image.appending import read_base
from cloud_train.image.building import build_in_registry
from cloud_train.image.config import configuration
from cloud_train.image.connection import POLICY
from cloud_train.image.errors import RegistryError
from cloud_train.image.layers import Blob, digest_of
from cloud_train.image.manifest import DOCKER_INDEX, DOCKER_MANIFEST, OCI_INDEX
from cloud_train.image.pushed import recall, remember
from cloud_train.image.recipe import Recipe
from cloud_train.image.reference import parse_reference
from cloud_train.image.registry import Repository
from tests.attack.wire import Always, Heard, Wire, redirect
from tests.clouds.server import Answer, Server
from tests.image.faulty_registry import Fault, FaultyRegistry, faulty_registry

AT_ONCE = replace(POLICY, sleep=lambda seconds: None)
DIGEST = f"sha256:{hashlib.sha256(b'layer').hexdigest()}"
METADATA = "http://169.254.169.254/computeMetadata/v1/token"
TOKEN = Always(Answer.json({"token": "the-token-of-this-machine"}))


@pytest.fixture(autouse=True)
def no_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "no-docker-config"))


@pytest.fixture
def registry() -> Iterator[FaultyRegistry]:
    with faulty_registry() as running:
        yield running


def show(there: Repository, folder: Path) -> None:
    there.manifest("1")


def fetch_small(there: Repository, folder: Path) -> None:
    there.small_blob(DIGEST)


def fetch(there: Repository, folder: Path) -> None:
    there.fetch_blob(DIGEST, 5, folder / "layer")


def push(there: Repository, folder: Path) -> None:
    (folder / "blob").write_bytes(b"layer")
    there.push_blob(Blob(folder / "blob", digest_of(b"layer"), 5))


def push_in_chunks(there: Repository, folder: Path) -> None:
    """Push as to a registry that has refused a whole blob."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(uploads, "CHUNK_BYTES", 2)
        patch.setattr(there._uploader, "_in_chunks", True)
        push(there, folder)


def mount(there: Repository, folder: Path) -> None:
    there.mount(DIGEST, parse_reference("registry.example/base"))


def leading(address: str) -> dict[str, tuple[Callable[[Repository, Path], None], Fault]]:
    """Every request, with an answer that leads to ``address``."""
    moved = {"Location": address}
    realm = {"WWW-Authenticate": f'Bearer realm="{address}",service="s"'}
    return {
        "the realm of its tokens": (show, Fault("GET", "/manifests/", 401, realm)),
        "a redirect of a manifest": (show, Fault("GET", "/manifests/", 302, moved)),
        "a redirect of a configuration": (fetch_small, Fault("GET", "/blobs/", 302, moved)),
        "a redirect of a layer": (fetch, Fault("GET", "/blobs/", 307, moved)),
        "a redirect of a question for a layer": (push, Fault("HEAD", "/blobs/", 307, moved)),
        "the place of an upload": (push, Fault("POST", "/uploads/", 202, moved)),
        "a redirect of the start of an upload": (push, Fault("POST", "/uploads/", 308, moved)),
        "the place of the rest of an upload": (push_in_chunks, Fault("PATCH", "/uploads/", 202, moved)),
        "a redirect of a piece": (push_in_chunks, Fault("PATCH", "/uploads/", 307, moved)),
        "a redirect of the end of an upload": (push, Fault("PUT", "/uploads/", 307, moved)),
        "an upload that was not asked for": (mount, Fault("POST", "/uploads/", 202, moved)),
    }


WAYS = tuple(leading(METADATA))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "address",
    [METADATA, "https://169.254.169.254/x", "https://[fd00:ec2::254]/x", "https://metadata.google.internal/x", "https://2852039166/x"],
)
def test_a_registry_leads_to_no_metadata_service(way: str, address: str, registry: FaultyRegistry, tmp_path: Path) -> None:
    do, fault = leading(address)[way]
    registry.faults = [fault]
    with (
        pytest.raises(RegistryError, match=r"leads to a forbidden address|not encrypted"),
        Repository(parse_reference(f"{registry.host}/x"), AT_ONCE) as there,
    ):
        do(there, tmp_path)


@pytest.mark.parametrize("way", WAYS)
def test_nor_does_a_name_that_resolves_to_one(way: str, registry: FaultyRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lead_to(monkeypatch, {"bucket.example": "169.254.169.254"})
    do, fault = leading("https://bucket.example/x")[way]
    registry.faults = [fault]
    with (
        pytest.raises(RegistryError, match=r"leads to a forbidden address: bucket\.example \(169\.254\.169\.254\)"),
        Repository(parse_reference(f"{registry.host}/x"), AT_ONCE) as there,
    ):
        do(there, tmp_path)


def lead_to(monkeypatch: pytest.MonkeyPatch, names: dict[str, str]) -> None:
    """Let these names resolve to these addresses."""
    resolve = socket.getaddrinfo

    def changed(host: Any, *arguments: Any, **options: Any) -> Any:
        return resolve(host if options.get("flags") else names.get(host, host), *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", changed)


@pytest.fixture
def distant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    """The network, in which a registry on another machine is."""
    with Wire(tmp_path / "wire", "registry.example") as wire:
        for name, value in wire.environment.items():
            monkeypatch.setenv(name, value)
        yield wire


@pytest.mark.parametrize("way", WAYS)
def test_a_registry_on_another_machine_leads_to_no_service_of_this_one(way: str, distant: Wire, tmp_path: Path) -> None:
    with Server(TOKEN) as private:
        do, fault = leading(f"{private.url}/admin/do?x=1")[way]

        def answer(heard: Heard) -> Answer:
            if heard.method == fault.method and fault.path in heard.path:
                return Answer(fault.status, fault.headers)
            if heard.method == "POST":
                return Answer(202, {"Location": "/v2/x/blobs/uploads/1"})
            return Answer(202 if heard.method == "PATCH" else 404, {"Location": heard.path})

        distant.answer = answer
        with (
            pytest.raises(RegistryError, match="is this machine itself"),
            Repository(parse_reference("registry.example/x"), AT_ONCE) as there,
        ):
            do(there, tmp_path)
        assert private.requests == []
        assert distant.hosts_that_heard("the-token-of-this-machine") == set()


@pytest.mark.parametrize("spelt", ["localhost", "127.0.0.1", "127.1", "0.0.0.0", "[::1]", "[::ffff:127.0.0.1]", "2130706433"])
@pytest.mark.parametrize("proxied", [True, False])
def test_a_registry_on_another_machine_leads_to_this_one_in_no_spelling(
    spelt: str, proxied: bool, distant: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    distant.answer = lambda heard: Answer(302, {"Location": f"https://{spelt}/x"})
    if not proxied:
        monkeypatch.setenv("no_proxy", f"{spelt},{spelt.strip('[]')}")
    with pytest.raises(RegistryError, match="is this machine itself"), Repository(parse_reference("registry.example/x"), AT_ONCE) as there:
        there.manifest("1")
    assert distant.hosts() == {"registry.example"}


def test_nor_by_a_name_that_resolves_to_this_machine(distant: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    distant.answer = lambda heard: Answer(302, {"Location": "https://bucket.example/x"})
    lead_to(monkeypatch, {"bucket.example": "127.0.0.1"})
    monkeypatch.setenv("no_proxy", "bucket.example")
    with (
        pytest.raises(RegistryError, match=r"bucket\.example \(127\.0\.0\.1\) is this machine itself"),
        Repository(parse_reference("registry.example/x"), AT_ONCE) as there,
    ):
        there.manifest("1")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_token_server_that_redirects_is_not_followed_without_a_login_either(status: int, registry: FaultyRegistry) -> None:
    with Server(TOKEN) as other, Server(redirect(f"{other.url}/token", status)) as tokens:
        registry.faults = [Fault("GET", "/manifests/", 401, {"WWW-Authenticate": f'Bearer realm="{tokens.url}/token",service="s"'})]
        with (
            pytest.raises(RegistryError, match=rf"the token server of .* responded with {status}"),
            Repository(parse_reference(f"{registry.host}/x"), AT_ONCE) as there,
        ):
            there.manifest("1")
        assert len(tokens.requests) == 1
        assert other.requests == []
    assert not any("the-token-of-this-machine" in str(headers) for headers in registry.headers)


def test_a_server_that_a_registry_redirects_to_cannot_ask_for_a_login(registry: FaultyRegistry) -> None:
    with Server(TOKEN) as tokens:
        asking = Answer(401, {"WWW-Authenticate": f'Bearer realm="{tokens.url}/token",service="s"'})
        with Server(Always(asking)) as bucket:
            registry.faults = [Fault("GET", "/manifests/", 302, {"Location": f"{bucket.url}/x"})]
            with pytest.raises(RegistryError, match="401"), Repository(parse_reference(f"{registry.host}/x"), AT_ONCE) as there:
                there.manifest("1")
        assert tokens.requests == []


def test_a_registry_with_a_certificate_of_a_stranger_hears_nothing_and_is_asked_once(
    distant: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    for host in ("registry.example", "another.example", "10.0.0.1"):
        waits: list[float] = []
        with (
            pytest.raises(RegistryError, match=rf"the certificate of the registry {host} is not trusted on this machine") as caught,
            Repository(parse_reference(f"{host}/x"), replace(POLICY, sleep=waits.append)) as there,
        ):
            there.manifest("1")
        assert "REQUESTS_CA_BUNDLE" in (caught.value.hint or "")
        assert waits == []
    assert distant.heard == []


def test_a_registry_that_redirects_in_a_circle_is_given_up(registry: FaultyRegistry) -> None:
    registry.faults = [Fault("GET", "/manifests/", 302, {"Location": "/v2/x/manifests/1"}) for _ in range(50)]
    with (
        pytest.raises(RegistryError, match="redirected more than 10 times"),
        Repository(parse_reference(f"{registry.host}/x"), AT_ONCE) as there,
    ):
        there.manifest("1")


def test_a_redirect_to_another_server_is_followed_where_it_may_lead(registry: FaultyRegistry, tmp_path: Path) -> None:
    with faulty_registry() as bucket:
        bucket.blobs[DIGEST] = b"layer"
        registry.faults = [Fault("GET", "/blobs/", 307, {"Location": f"http://{bucket.host}/blobs/{DIGEST}"})]
        with Repository(parse_reference(f"{registry.host}/x"), AT_ONCE) as there:
            assert there.fetch_blob(DIGEST, 5, tmp_path / "layer").file.read_bytes() == b"layer"


def test_a_registry_at_a_metadata_service_is_asked_for_nothing() -> None:
    for host in ("169.254.169.254", "metadata.google.internal", "168.63.129.16:443"):
        with (
            pytest.raises(RegistryError, match=rf"leads to a forbidden address: {re.escape(host.partition(':')[0])}"),
            Repository(parse_reference(f"{host}/x"), AT_ONCE) as there,
        ):
            there.manifest("1")


PACKED_BYTES = 300_000_000
LIMIT_BYTES = 60_000_000
"""How much memory may be needed: several times the largest answer, and much less than what the attacks send."""


@pytest.fixture(scope="module")
def packed() -> bytes:
    """Little that unpacks to much."""
    packing = zlib.compressobj(9, zlib.DEFLATED, 31)
    return b"".join(packing.compress(b" " * 1_000_000) for _ in range(PACKED_BYTES // 1_000_000)) + packing.flush()


def most_memory(do: Callable[[], None]) -> int:
    """The bytes that ``do`` takes at most, beyond what was taken before."""
    tracemalloc.start()
    try:
        do()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def large_answers(kind: str, body: bytes, headers: dict[str, str]) -> tuple[Callable[[Repository, Path], None], list[Fault]]:
    """A request, and an answer with this body wherever a registry may put one."""
    typed = {"Content-Type": "application/json", **headers}
    return {
        "a manifest": (show, [Fault("GET", "/manifests/", 200, typed, body)]),
        "a configuration": (fetch_small, [Fault("GET", "/blobs/", 200, typed, body)]),
        "a layer": (fetch, [Fault("GET", "/blobs/", 200, typed, body)]),
        "a refusal": (show, [Fault("GET", "/manifests/", 403, typed, body)]),
        "a refusal of a layer": (fetch, [Fault("GET", "/blobs/", 403, typed, body)]),
        "a failure that may pass": (show, [Fault("GET", "/manifests/", 503, typed, body) for _ in range(5)]),
        "the start of an upload": (push, [Fault("POST", "/uploads/", 202, typed, body)]),
        "a piece of an upload": (push_in_chunks, [Fault("PATCH", "/uploads/", 202, typed, body)]),
        "a redirect": (show, [Fault("GET", "/manifests/", 302, {**typed, "Location": "/v2/x/manifests/2"}, body)]),
        "a wish for a login": (show, [Fault("GET", "/manifests/", 401, {**typed, "WWW-Authenticate": 'Basic realm="x"'}, body)]),
    }[kind]


ANSWERS = (
    *("a manifest", "a configuration", "a layer", "a refusal", "a refusal of a layer", "a failure that may pass"),
    *("the start of an upload", "a piece of an upload", "a redirect", "a wish for a login"),
)


@pytest.mark.parametrize("form", ["packed", "plain"])
@pytest.mark.parametrize("kind", ANSWERS)
def test_an_answer_takes_no_more_memory_than_an_honest_one(
    kind: str, form: str, packed: bytes, registry: FaultyRegistry, tmp_path: Path
) -> None:
    body = packed if form == "packed" else bytes(2 * LIMIT_BYTES)
    do, registry.faults = large_answers(kind, body, {"Content-Encoding": "gzip"} if form == "packed" else {})
    with Repository(parse_reference(f"{registry.host}/x"), AT_ONCE) as there:

        def attempt() -> None:
            with suppress(CloudTrainError):
                do(there, tmp_path)

        assert most_memory(attempt) < LIMIT_BYTES
    assert registry.faults == []
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 5


@pytest.mark.parametrize("form", ["packed", "plain"])
def test_nor_does_the_answer_of_a_token_server(form: str, packed: bytes, registry: FaultyRegistry) -> None:
    body = packed if form == "packed" else bytes(2 * LIMIT_BYTES)
    registry.token = "any"
    registry.faults = [Fault("GET", "/token", 200, {"Content-Encoding": "gzip"} if form == "packed" else {}, body)]

    def attempt() -> None:
        with pytest.raises(CloudTrainError), Repository(parse_reference(f"{registry.host}/x"), AT_ONCE) as there:
            there.manifest("1")

    assert most_memory(attempt) < LIMIT_BYTES


def test_nor_does_an_answer_in_endless_chunks_or_with_an_endless_length(tmp_path: Path) -> None:
    for endless in (b"f" * 1_000_000, b"fffff\r\n" + bytes(0xFFFFF) + b"\r\n"):
        with raw_server(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", endless) as host:

            def attempt(host: str = host) -> None:
                with pytest.raises(CloudTrainError), Repository(parse_reference(f"{host}/x"), AT_ONCE) as there:
                    there.manifest("1")

            assert most_memory(attempt) < LIMIT_BYTES


@contextmanager
def raw_server(head: bytes, endless: bytes) -> Iterator[str]:
    """A server, ``host:port``, that sends a head, and then the same bytes until the client leaves, at most 500 MB."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(65536)
            with suppress(OSError):
                self.request.sendall(head)
                for _ in range(500_000_000 // len(endless)):
                    self.request.sendall(endless)

    class Threaded(socketserver.ThreadingTCPServer):
        daemon_threads = False

    with Threaded(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


CONFIG = {
    "os": "linux",
    "architecture": "amd64",
    "variant": "",
    "config": {"User": "me", "Env": ["A=b"], "Labels": {"a": "b"}, "Volumes": {}},
    "rootfs": {"type": "layers", "diff_ids": [DIGEST]},
}
MANIFEST = {"schemaVersion": 2, "config": {"digest": DIGEST, "size": 1}, "layers": [{"digest": DIGEST, "size": 5}]}
INDEX = {"manifests": [{"digest": DIGEST, "platform": {"os": "linux", "architecture": "amd64"}}]}
NONSENSE = (
    b"",
    b"nonsense",
    b"\xff\xfe",
    b"[" * 200_000,
    b'{"a":' * 200_000,
    b"1" * 10_000,
    b"null",
    b"[]",
    b"{}",
    b'"text"',
    b"NaN",
)


def mistaken(document: Any) -> Iterator[Any]:
    """The document, with each of its parts in turn replaced by values of another kind, or left out."""
    yield from (None, 7, "text", "../../x", [], {}, [None], {"a": None}, [[]], True, -1, "\u00e9\ud800")
    for key, value in document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ():
        for other in mistaken(value):
            changed = document.copy()
            changed[key] = other
            yield changed
        if isinstance(document, dict):
            yield {name: inside for name, inside in document.items() if name != key}


def bodies(document: Any) -> list[bytes]:
    return [*NONSENSE, *(json.dumps(each).encode() for each in mistaken(document))]


def offer(registry: FaultyRegistry, *, manifest: bytes, config: bytes, media_type: str = DOCKER_MANIFEST) -> None:
    """Offer an image, whatever its digests are."""
    digest = digest_of(config)
    registry.blobs = {digest: config, DIGEST: b"layer"}
    registry.manifests["1"] = (media_type, manifest.replace(DIGEST.encode(), digest.encode(), 1))


def build(registry: FaultyRegistry, target: FaultyRegistry) -> None:
    with suppress(CloudTrainError):
        build_in_registry(Recipe(None, f"{registry.host}/base:1"), f"{target.host}/x", lambda line: None)


@pytest.mark.slow
def test_no_manifest_crashes_a_build_whatever_it_says(registry: FaultyRegistry) -> None:
    config = json.dumps(CONFIG).encode()
    with faulty_registry() as target:
        offer(registry, manifest=json.dumps(MANIFEST).encode(), config=config)
        build(registry, target)
        assert target.manifests  # an honest one is built
        for body in bodies(MANIFEST):
            target.manifests.clear()
            offer(registry, manifest=body, config=config)
            build(registry, target)
        for body in bodies(INDEX):
            for kind in (OCI_INDEX, DOCKER_INDEX):
                offer(registry, manifest=body, config=config, media_type=kind)
                build(registry, target)
        asked = {path for _, path in [*registry.requests, *target.requests]}
    assert not any(".." in path for path in asked)


def test_no_configuration_crashes_a_build_whatever_it_says(registry: FaultyRegistry) -> None:
    read = 0
    with Repository(parse_reference(f"{registry.host}/base"), AT_ONCE) as there:
        for body in [json.dumps(CONFIG).encode(), *bodies(CONFIG)]:
            offer(registry, manifest=json.dumps(MANIFEST).encode(), config=body)
            with suppress(CloudTrainError):
                configuration(read_base(there, "1", "linux/amd64").base, [], {})
                read += 1
    assert read > 1


def test_what_was_pushed_before_may_have_become_anything(registry: FaultyRegistry, tmp_path: Path) -> None:
    recipe = Recipe(None, "base")
    with Repository(parse_reference(f"{registry.host}/x"), AT_ONCE) as there:
        for manifest, config in [
            *((body, json.dumps(CONFIG).encode()) for body in bodies(MANIFEST)),
            *((json.dumps(MANIFEST).encode(), body) for body in bodies({"rootfs": {"diff_ids": [DIGEST]}})),
        ]:
            registry.manifests.clear()
            offer(registry, manifest=manifest, config=config)
            _, data = registry.manifests["1"]
            registry.manifests[digest_of(data)] = (DOCKER_MANIFEST, data)
            remember(tmp_path, there, recipe, f"x@{digest_of(data)}")
            recall(tmp_path, there, recipe)


WORDS = (
    "",
    "\xb2",
    "0-\xb2",
    "9" * 5000,
    "0-" + "9" * 5000,
    "https://[::1",
    "//[",
    "http://a:99999/",
    "https://a..b/",
    f"https://{'a' * 70}.b/",
    "\xe9\xff",
    ":",
    "x:y",
)


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("way", WAYS)
def test_no_header_crashes_a_request(way: str, word: str, registry: FaultyRegistry, tmp_path: Path) -> None:
    do, fault = leading(word)[way]
    again = [Fault(method, "/uploads/", status, {"Retry-After": word}) for method in ("PUT", "PATCH") for status in (503, 416)]
    registry.faults = [fault, *again]
    with Repository(parse_reference(f"{registry.host}/x"), AT_ONCE) as there, suppress(CloudTrainError):
        do(there, tmp_path)


@pytest.mark.parametrize("body", [*NONSENSE, *(json.dumps(each).encode() for each in mistaken({"token": "t"}))])
def test_no_token_crashes_a_request(body: bytes, registry: FaultyRegistry) -> None:
    registry.token = "any"
    registry.faults = [Fault("GET", "/token", 200, {"Content-Type": "application/json"}, body)]
    with pytest.raises(RegistryError), Repository(parse_reference(f"{registry.host}/x"), AT_ONCE) as there:
        there.manifest("1")


@pytest.mark.parametrize(
    "body", [*NONSENSE, *(json.dumps(each).encode() for each in mistaken({"errors": [{"code": "a", "message": "b"}]}))]
)
def test_no_refusal_crashes_a_request(body: bytes, registry: FaultyRegistry) -> None:
    registry.faults = [Fault("GET", "/manifests/", 403, {}, body)]
    with pytest.raises(RegistryError, match="403"), Repository(parse_reference(f"{registry.host}/x"), AT_ONCE) as there:
        there.manifest("1")
