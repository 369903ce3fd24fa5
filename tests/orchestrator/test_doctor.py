"""The doctor's findings about stores."""

from pathlib import Path

import pytest

from cloud_train.orchestrator.doctor import Finding, examine
from cloud_train.orchestrator.home import Home
from tests.answers import Request
from tests.faults import FaultProxy, Refuse
from tests.stores import server_or_skip, use

URL_STEPS = ["store list", "store write", "store read", "store upload", "store delete"]


def stores_of(tmp_path: Path, *urls: str) -> list[Finding]:
    findings = examine(Home(tmp_path / "home"), urls, store_seconds=0)
    return [finding for finding in findings if finding.name.startswith("store")]


def test_a_folder_is_checked_without_being_created(tmp_path: Path) -> None:
    (finding,) = stores_of(tmp_path, str(tmp_path / "runs"))
    assert (finding.name, finding.status) == ("store", "ok")
    assert not (tmp_path / "runs").exists()


def test_each_named_store_is_tested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = server_or_skip("s3")
    use(server, monkeypatch)
    url = f"{server.new_url()}/runs"
    findings = stores_of(tmp_path, str(tmp_path), url)
    assert [finding.name for finding in findings] == ["store", *URL_STEPS]
    assert {finding.status for finding in findings} == {"ok"}
    assert all(finding.detail.startswith(f"{url} ") for finding in findings[1:])


@pytest.mark.parametrize(
    ("method", "failed"),
    [
        ("DELETE", {"store upload": "s3:AbortMultipartUpload", "store delete": "s3:DeleteObject"}),
        ("PUT", {"store write": "s3:PutObject"}),
        ("GET", {"store list": "s3:ListBucket", "store read": "s3:GetObject"}),
    ],
)
def test_a_missing_permission_is_an_error_with_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, failed: dict[str, str]
) -> None:
    server = server_or_skip("s3")
    url = server.new_url()

    def refuse(request: Request) -> Refuse | None:
        return Refuse("denied") if request.method == method else None

    with FaultProxy(server, refuse) as proxy:
        use(server, monkeypatch, proxy.endpoint)
        findings = stores_of(tmp_path, url)
    wrong = {finding.name: finding.remedy for finding in findings if finding.status == "error"}
    assert wrong.keys() == failed.keys()
    assert all(failed[name] in remedy for name, remedy in wrong.items())


@pytest.mark.parametrize(
    ("url", "said", "remedy"),
    [("s3:///", "missing bucket in", "s3://bucket/prefix"), ("ftp://host/x", "unsupported store scheme", "s3://")],
)
def test_an_invalid_url_is_a_finding(tmp_path: Path, url: str, said: str, remedy: str) -> None:
    (finding,) = stores_of(tmp_path, url)
    assert finding.status == "error"
    assert said in finding.detail
    assert remedy in finding.remedy


def test_a_store_that_does_not_respond_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = server_or_skip("s3")
    use(server, monkeypatch, "http://127.0.0.1:1")
    (finding,) = stores_of(tmp_path, "s3://bucket")
    assert (finding.name, finding.status) == ("store list", "error")
    assert "Could not connect" in finding.detail
    assert finding.remedy


def test_a_job_that_asks_for_what_this_machine_may_not_have_is_warned_of(tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text("name: gpu\nmodel: {kind: script, command: ['true']}\nresources: {accelerator: 'A100:1'}\n", encoding="utf-8")
    found = [each for each in examine(Home(tmp_path / "home"), job=job) if each.name == "local job"]
    assert [each.status for each in found] == ["ok", "warning"]
    assert found[1].detail.startswith("resources.accelerator: 'local' supplies no accelerators, and the run ends at once")
