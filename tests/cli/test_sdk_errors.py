"""The SDK's messages name the command's options and variables in place of keywords."""

import pytest

from poolservice_client._cli.sdk_errors import describe
from poolservice_client.errors import Unavailable


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
