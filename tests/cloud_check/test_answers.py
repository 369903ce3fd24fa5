"""Recording what services answer, between the SDKs and a server on loopback."""

import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tools.cloud_check.answers import Answers, read_back
from tools.cloud_check.masking import Mask

requests = pytest.importorskip("requests")

BODIES: dict[str, tuple[int, str, bytes]] = {
    "/job": (200, "application/json", json.dumps({"name": "job", "token": "a-canary-of-4711"}).encode()),
    "/refused": (403, "text/plain", b"not permitted to Bearer a-canary-of-4711"),
    "/layer": (200, "application/octet-stream", b"\x00" * 1000),
}


@contextmanager
def server() -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            status, kind, body = BODIES[path]
            self.send_response(status)
            self.send_header("Content-Type", kind)
            if query == "gzip":
                body = gzip.compress(body)
                self.send_header("Content-Encoding", "gzip")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()
        thread.join()


@pytest.fixture
def answers(tmp_path: Path) -> Answers:
    made = Answers(tmp_path / "answers", Mask())
    made.check = "a-check"
    return made


@pytest.mark.parametrize("query", ["", "?gzip"])
def test_the_sdk_gets_the_answer_and_the_folder_has_it_without_secrets(query: str, answers: Answers, tmp_path: Path) -> None:
    with server() as url, answers.recording(), requests.Session() as session:
        assert session.get(f"{url}/job{query}", headers={"Authorization": "Bearer another-canary"}).json()["token"] == "a-canary-of-4711"
        assert session.get(f"{url}/refused{query}").status_code == 403
        assert session.get(f"{url}/layer{query}").content == b"\x00" * 1000
    job, refused, layer = answers.of("a-check")
    assert (job.method, job.path, job.status, job.body["name"]) == ("GET", f"/job{query}", 200, "job")
    assert refused.status == 403
    assert layer.body is None
    text = (tmp_path / "answers" / "a-check.jsonl").read_text(encoding="utf-8")
    assert "canary" not in text
    assert [answer.status for answer in read_back(tmp_path / "answers")] == [200, 403, 200]


def test_an_answer_that_is_to_be_lost_is_recorded_and_kept_from_the_sdk(answers: Answers) -> None:
    with server() as url, answers.recording(), requests.Session() as session:
        answers.lose_next(lambda answer: answer.status == 200)
        assert session.get(f"{url}/refused").status_code == 403
        with pytest.raises(requests.ConnectionError):
            session.get(f"{url}/job")
        assert session.get(f"{url}/job").status_code == 200
    assert [answer.lost for answer in answers.all()] == [False, True, False]


def test_a_connection_that_breaks_is_recorded(answers: Answers) -> None:
    with server() as url:
        pass
    with answers.recording(), requests.Session() as session, pytest.raises(requests.ConnectionError):
        session.get(f"{url}/job")
    assert [answer.status for answer in answers.all()] == [None]


def test_nothing_is_recorded_outside(answers: Answers) -> None:
    with server() as url, requests.Session() as session:
        with answers.recording():
            pass
        session.get(f"{url}/job")
    assert answers.all() == []


def test_a_line_that_was_cut_off_hides_no_other(tmp_path: Path, answers: Answers) -> None:
    with server() as url, answers.recording(), requests.Session() as session:
        session.get(f"{url}/job")
    file = tmp_path / "answers" / "a-check.jsonl"
    file.write_text(file.read_text(encoding="utf-8") + '{"check": "a-ch', encoding="utf-8")
    assert len(read_back(tmp_path / "answers")) == 1
