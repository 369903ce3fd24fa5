"""Credentials that end in the middle of the work: others that the cloud's chain finds by then are used, and the same ones are refused."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from cloud_train.storage.base import AccessDeniedError, Store
from cloud_train.storage.objects import Renewal
from cloud_train.storage.registry import open_store
from cloud_train.storage.transfer.engine import Options
from cloud_train.storage.transfer.uploading import Upload, upload
from tests.answers import Answer, Request
from tests.faults import Fault, FaultProxy, Refuse
from tests.storage.certificates import authority_and_server
from tests.storage.conftest import QUICK
from tests.storage.google_server import google_server, said
from tests.storage.scripted import Asked, scripted
from tests.storage.test_gcs import log_in
from tests.stores import SCHEMES, server_or_skip, use

PART = 5 << 20


@dataclass
class Login:
    """Who asks a cloud's service. Its credentials are numbered from 1; the service refuses those in ``ended``."""

    open: Callable[[], Store]
    ended: set[int]
    issue: Callable[[int], None]
    """Let the cloud's chain give these from now on."""
    requests: Callable[[], int]
    """How many the service got."""


@pytest.fixture(params=SCHEMES)
def login(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Login]:
    """Of each cloud in turn."""
    with ExitStack() as servers:
        yield {"s3": s3_login, "gs": google_login, "az": azure_login}[request.param](tmp_path, monkeypatch, servers)


def s3_login(folder: Path, monkeypatch: pytest.MonkeyPatch, servers: ExitStack) -> Login:
    """A program of the user's makes the keys, as ``credential_process``; it does not say when they end."""
    server, ended = server_or_skip("s3"), set[int]()
    proxy = servers.enter_context(FaultProxy(server, refusing(ended, "Credential=AKIA{}/")))
    use(server, monkeypatch, proxy.endpoint)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    (folder / "config").write_text(f"[default]\ncredential_process = cat {folder / 'keys'}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(folder / "config"))

    def issue(number: int) -> None:
        (folder / "keys").write_text(
            json.dumps({"Version": 1, "AccessKeyId": f"AKIA{number}", "SecretAccessKey": "s", "SessionToken": "t"})
        )

    issue(1)
    url = server.new_url()
    return Login(lambda: open_store(url, QUICK), ended, issue, lambda: len(proxy.records))


def google_login(folder: Path, monkeypatch: pytest.MonkeyPatch, servers: ExitStack) -> Login:
    """A service account; its tokens would be good for another hour."""
    server, ended, issued = server_or_skip("gs"), set[int](), [1]
    use(server, monkeypatch)
    url = server.new_url()
    tokens = servers.enter_context(
        google_server(lambda asked: said({"access_token": f"token-{issued[-1]}", "expires_in": 3600, "token_type": "Bearer"}))
    )
    proxy = servers.enter_context(FaultProxy(server, refusing(ended, "Bearer token-{}")))
    log_in(monkeypatch, folder, tokens.url, proxy.endpoint)
    return Login(lambda: open_store(url, QUICK), ended, issued.append, lambda: len(proxy.records))


def azure_login(folder: Path, monkeypatch: pytest.MonkeyPatch, servers: ExitStack) -> Login:
    """A machine's identity; its tokens would be good for two more hours."""
    ended, issued = set[int](), [1]
    end = str(int(time.time()) + 7_200)
    headers = {"Content-Type": "application/json"}

    def token(asked: Asked) -> Answer:
        given = {"access_token": f"token-{issued[-1]}", "expires_on": end, "token_type": "Bearer", "resource": "r"}
        return Answer(200, headers, json.dumps(given).encode())

    def service(asked: Asked) -> Answer:
        if asked.headers["Authorization"] in {f"Bearer token-{number}" for number in ended}:
            return Answer(401, {"x-ms-error-code": "InvalidAuthenticationInfo", "WWW-Authenticate": "Bearer"})
        return Answer(201 if asked.method == "PUT" else 200, {"ETag": '"e"', "Last-Modified": "Tue, 24 Nov 2026 12:00:00 GMT"}, b"")

    authority, certificate = authority_and_server(folder)
    identity = servers.enter_context(scripted(token))
    server = servers.enter_context(scripted(service, certificate))
    monkeypatch.delenv("AZURE_STORAGE_CONNECTION_STRING", raising=False)
    monkeypatch.setenv("IDENTITY_ENDPOINT", identity.endpoint)
    monkeypatch.setenv("IDENTITY_HEADER", "header")
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "ManagedIdentityCredential")
    monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", server.endpoint)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    return Login(lambda: open_store("az://acct/container", QUICK), ended, issued.append, lambda: len(server.asked))


def refusing(ended: set[int], mark: str) -> Callable[[Request], Fault | None]:
    """A plan that refuses requests signed with what has ended; ``mark`` is how the number shows in their ``Authorization``."""

    def plan(request: Request) -> Fault | None:
        signed = request.headers.get("authorization", "")
        return Refuse("expired") if any(mark.format(number) in signed for number in ended) else None

    return plan


def first_request_of_an_upload(store: Store) -> None:
    parts = store.multipart()
    token = parts.begin("a", PART, "00")
    if store.url.startswith("az:"):  # an upload to Azure begins with its first part
        parts.send("a", token, 0, 0, b"x")


ACTS: dict[str, Callable[[Store], object]] = {
    "by obstore": lambda store: store.put("a", b"x"),
    "by the sdk": first_request_of_an_upload,
}


@pytest.mark.parametrize("act", ACTS)
def test_credentials_that_were_renewed_meanwhile_are_used_for_the_very_request_that_was_refused(login: Login, act: str) -> None:
    store = login.open()
    ACTS[act](store)
    before = login.requests()
    login.ended.add(1)
    login.issue(2)
    for other in ACTS.values():  # the second one is signed with the new ones at once, or asks for them by itself
        other(store)
    assert login.requests() - before <= 4


@pytest.mark.parametrize(("act", "others"), [("by obstore", False), ("by the sdk", True)])
def test_credentials_that_stay_refused_end_the_request_with_what_to_do(login: Login, act: str, others: bool) -> None:
    store = login.open()
    ACTS[act](store)
    before = login.requests()
    login.ended |= {1, 2}
    if others:
        login.issue(2)
    with pytest.raises(AccessDeniedError) as caught:
        ACTS[act](store)
    assert caught.value.hint
    # Google's own client asks twice more, each time with a token that it has just got.
    assert login.requests() - before <= (2 if others else 1) * 3


def test_an_upload_goes_on_with_renewed_credentials_and_sends_one_part_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ExitStack() as servers:
        login = s3_login(tmp_path, monkeypatch, servers)
        (tmp_path / "large").write_bytes(b"x" * 4 * PART)
        store = login.open()

        def end_after_two(moved: int) -> None:
            if moved >= 2 * PART and not login.ended:
                login.ended.add(1)
                login.issue(2)

        options = Options(part_bytes=PART, threads=1, state=tmp_path / "state", report=lambda progress: end_after_two(progress.bytes_done))
        before = login.requests()
        summary = upload(store, [Upload(tmp_path / "large", "large")], options)
        assert login.ended
        assert summary.bytes == 4 * PART
        # Looking, beginning, four parts, finishing, looking; one of them was refused.
        assert login.requests() - before <= 4 + 4 + 1


def test_threads_that_are_refused_together_ask_the_chain_once_and_a_late_refusal_is_an_old_one() -> None:
    asked, now, answers = [], [0.0], [False, True, False]

    def renew() -> bool:
        asked.append(now[0])
        return answers[len(asked) - 1]

    renewal = Renewal(renew, lambda: now[0])
    assert [renewal.came() for _ in range(3)] == [False] * 3
    assert asked == [0.0]
    now[0] = 6.0
    assert [renewal.came() for _ in range(3)] == [True] * 3
    now[0] = 30.0
    assert renewal.came(), "it may have been signed before"
    assert asked == [0.0, 6.0]
    now[0] = 70.0
    assert not renewal.came()
