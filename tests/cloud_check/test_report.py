"""The report, and what is said to be left."""

from typing import Any

from tools.cloud_check.answers import Answer
from tools.cloud_check.checks.catalogue import NAMES
from tools.cloud_check.claims import claims, is_about
from tools.cloud_check.leftovers import Left
from tools.cloud_check.masking import Mask
from tools.cloud_check.registry import pushed_images
from tools.cloud_check.report import Report, as_document, as_markdown
from tools.cloud_check.verdicts import Result, Verdict, compared, untried

PUSH = Result("push", (compared("a PUT is answered with 201", 200, False, "one-put-a-blob"), untried("tags stay", "they can change")), 2.0)
LEFT = Left("the image x", "not permitted", "aws ecr batch-delete-image")


def report(**more: Any) -> Report:
    fields: dict[str, Any] = {"cloud": "aws", "region": "eu-west-1", "date": "now", "results": (PUSH,), "left": (LEFT,), "unnamed": ()}
    return Report(**{**fields, **more})


def test_differences_come_first_with_the_rows_that_they_contradict() -> None:
    text = as_markdown(report(), Mask())
    assert text.index("## Differences") < text.index("## All checks")
    assert "| push | a PUT is answered with 201 | 200 | **differs** | `one-put-a-blob` |" in text
    assert "0 hold, 1 differs, 1 could not be tried." in text


def test_what_is_left_is_listed_with_the_command_that_removes_it() -> None:
    assert "| the image x | yes | not permitted | `aws ecr batch-delete-image` |" in as_markdown(report(), Mask())
    assert "Nothing is left in the account." in as_markdown(report(left=()), Mask())


def test_a_report_has_no_secret() -> None:
    mask = Mask(["a-canary-of-4711"])
    result = Result("logs", (compared("x", "the log has a-canary-of-4711 | in it", True),))
    assert "canary" not in as_markdown(report(results=(result,)), mask)
    assert "canary" not in str(as_document(report(results=(result,)), mask))


def test_the_document_has_the_verdicts_by_name() -> None:
    document = as_document(report(), Mask())
    assert [fact["verdict"] for fact in document["results"][0]["facts"]] == ["differs", "could not be tried"]
    assert "cloud-train" in document["versions"]


def test_a_check_differs_if_one_of_its_facts_does() -> None:
    assert PUSH.verdict is Verdict.DIFFERS
    assert Result("x", (untried("a", "b"), compared("a", "b", True))).verdict is Verdict.HOLDS
    assert Result("x", ()).verdict is Verdict.NOT_TRIED


def test_the_rows_of_a_check_are_those_of_its_cloud() -> None:
    of_aws, of_gcp = ({claim.id for claim in claims(cloud, NAMES)} for cloud in ("aws", "gcp"))
    assert "ecr-upload-does-not-resume" in of_aws - of_gcp
    assert "artifact-registry-status-of-an-immutable-tag" in of_gcp - of_aws
    assert "job-shows-late" in of_aws & of_gcp
    assert is_about("one-put-a-blob", "azure")


def digest(letter: str) -> str:
    return f"sha256:{letter * 64}"


def answer(method: str, version: str, status: int, content_digest: str = "") -> Answer:
    headers = {"docker-content-digest": content_digest} if content_digest else {}
    return Answer("push", 0.0, 0.0, method, "registry", f"/v2/<project>/jobs/manifests/{version}", "", status, headers, None)


def test_the_images_of_a_session_are_those_that_it_put_there_and_a_base_that_was_missing() -> None:
    seen = [
        answer("GET", "base", 404),
        answer("GET", "old", 200, digest("a")),
        answer("GET", "base", 200, digest("b")),
        answer("PUT", digest("c"), 201),
        answer("PUT", "refused", 400, digest("d")),
        answer("PUT", "gone", 201, digest("e")),
        answer("DELETE", digest("e"), 202),
    ]
    assert pushed_images(seen) == [digest("b"), digest("c")]
