"""``cloud-train doctor --store``."""

import pytest

from tests.answers import Request
from tests.cli.command import CommandLine
from tests.faults import FaultProxy, Refuse
from tests.stores import SCHEMES, server_or_skip


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_usable_store_passes_every_check(cloud_train: CommandLine, scheme: str) -> None:
    server = server_or_skip(scheme)
    url = f"{server.new_url()}/runs"
    ended = cloud_train("doctor", "--store", url, "--json", **server.environment)
    assert ended.status == 0, ended
    found = {finding["name"]: finding["status"] for finding in ended.json["findings"] if finding["name"].startswith("store ")}
    assert found == dict.fromkeys(["store list", "store write", "store read", "store upload", "store delete"], "ok")


def test_a_missing_permission_is_shown_with_its_name_and_ends_with_5(cloud_train: CommandLine) -> None:
    server = server_or_skip("s3")
    url = f"{server.new_url()}/runs"

    def refuse(request: Request) -> Refuse | None:
        return Refuse("denied") if request.method == "DELETE" and "uploadId" not in request.query else None

    with FaultProxy(server, refuse) as proxy:
        environment = server.environment_at(proxy.endpoint)
        shown = cloud_train("doctor", "--store", url, **environment)
        told = cloud_train("doctor", "--store", url, "--json", **environment)
    assert (shown.status, told.status) == (5, 5)
    assert f"✘ store delete     cannot delete {url}/cloud-train-probe-" in shown.text
    assert "→ required: s3:DeleteObject on arn:aws:s3:::" in shown.text
    assert [finding["name"] for finding in told.json["findings"] if finding["status"] == "error"] == ["store delete"]
    assert environment["AWS_SECRET_ACCESS_KEY"] not in shown.text.replace(url, "")
