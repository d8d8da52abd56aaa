"""The SDK's messages name the command's options and variables in place of keywords."""

import pytest

from poolservice_client._cli.sdk_errors import describe
from poolservice_client.errors import InvalidRequest, ServerError, Unavailable


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "pass it with tls=TLS(certificate=..., key=...), otherwise it may be stopping",
            "pass it with POOLSERVICE_CLIENT_CERTIFICATE and POOLSERVICE_CLIENT_KEY, otherwise it may be stopping",
        ),
        (
            "does tls= name the authority of its certificate, and does tls= hold a client certificate",
            "does POOLSERVICE_CA name the authority of its certificate, and do POOLSERVICE_CLIENT_CERTIFICATE and "
            "POOLSERVICE_CLIENT_KEY name a client certificate",
        ),
        (
            "leave out tls= and its environment variables",
            "leave out POOLSERVICE_CA, POOLSERVICE_CLIENT_CERTIFICATE and POOLSERVICE_CLIENT_KEY",
        ),
    ],
)
def test_messages_about_tls_name_the_variables(text: str, expected: str) -> None:
    assert describe(Unavailable(text)) == expected


def test_an_error_has_its_request_id_unless_the_message_says_all() -> None:
    failed, wrong = ServerError("the server failed"), InvalidRequest("must be 2", field="specs")
    assert describe(failed) == "the server failed"
    failed.request_id = wrong.request_id = "job-7"
    assert describe(failed) == "the server failed (request id job-7)"
    assert describe(wrong) == "--op: must be 2"
