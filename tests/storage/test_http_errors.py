"""What an answer means, and the reading of obstore's errors."""

import pytest

from cloud_train.errors import StoreError
from cloud_train.storage.base import AccessDeniedError, ObjectMissingError, TransientStoreError
from cloud_train.storage.http_errors import BAD_CERTIFICATE, answer_in, error_of


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (
            "Generic S3 error: Error performing PUT http://host/k in 3.5ms - Server returned non-2xx status code: 503 Service Unavailable: "
            "<Error><Code>SlowDown</Code><Message>Please wait</Message></Error>\n\nDebug source:\nGeneric {}",
            (503, "SlowDown", "Please wait"),
        ),
        (
            'Generic GCS error: Error performing GET http://host in 3.5ms - Server returned non-2xx status code: 403 Forbidden: {"error": '
            '{"code": 403, "message": "no access", "errors": [{"reason": "forbidden"}]}}',
            (403, "forbidden", "no access"),
        ),
        ("Error performing HEAD http://host/k in 285.6µs - Server returned non-2xx status code: 404 Not Found: ", (404, "", "")),
        (
            "The operation lacked valid authentication credentials for path External AWS credential provider: botocore.SSOError: ended: no",
            (401, "SSOError", "ended: no"),
        ),
        ("Error performing GET http://h in 6ms - Received redirect without LOCATION", (301, "", "Received redirect without LOCATION")),
        (
            "Error performing GET https://h in 69ms - HTTP error: error sending request\n\nDebug source:\nerror: InvalidCertificate(\n"
            "   UnknownIssuer,\n)",
            (0, BAD_CERTIFICATE, "UnknownIssuer"),
        ),
        (
            'Error performing GET http://h in 2s - HTTP error: error sending request\n\nDebug source:\n{ message: "Connection refused" }',
            (0, "", "HTTP error: error sending request (Connection refused)"),
        ),
        (
            "Error performing GET http://h in 2s - HTTP error: error sending request\n\nDebug source:\nsource: TimedOut",
            (0, "", "HTTP error: error sending request (timed out)"),
        ),
    ],
)
def test_status_code_and_message_are_read_out_of_an_error(text: str, answer: tuple[int, str, str]) -> None:
    assert answer_in(Exception(text)) == answer


def test_signatures_and_passwords_in_an_address_are_not_repeated() -> None:
    text = "Generic MicrosoftAzure error: cannot reach https://user:pass@host/container/key?sv=2026&sig=SECRET%3D and gave up"
    status, code, message = answer_in(Exception(text))
    assert (status, code) == (0, "")
    assert message == "Generic MicrosoftAzure error: cannot reach https://…@host/container/key?… and gave up"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *((status, TransientStoreError) for status in (0, 408, 429, 500, 502, 503, 504)),
        *((status, AccessDeniedError) for status in (401, 403)),
        (404, ObjectMissingError),
        *((status, StoreError) for status in (301, 400, 405, 411, 501)),
    ],
)
def test_a_status_decides_whether_it_is_worth_another_try(status: int, kind: type[StoreError]) -> None:
    assert type(error_of(status, "Code", "words", "cannot read x")) is kind


def test_an_answer_without_a_body_is_explained_by_its_status() -> None:
    assert error_of(403, "", "", "cannot read x").message == "cannot read x: no permission (403: Forbidden)"


def test_a_busy_service_and_a_dead_network_have_different_next_steps() -> None:
    assert "retry later" in (error_of(503, "SlowDown", "", "cannot read x").hint or "")
    assert "network" in (error_of(0, "", "Connection refused", "cannot read x").hint or "")
