"""The SDK's messages name the command's options and variables in place of keywords."""

import pytest

from poolservice_client._cli.exit_errors import CommandError
from poolservice_client._cli.operator_parser import parse
from poolservice_client._cli.sdk_errors import describe, translated_errors
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


def test_an_error_of_the_server_has_its_request_id() -> None:
    failed, wrong = ServerError("the server failed"), InvalidRequest("must be 2", field="specs")
    assert describe(failed) == "the server failed"
    failed.request_id = wrong.request_id = "job-7"
    assert describe(failed) == "the server failed (request id job-7)"
    assert describe(wrong) == "--op: must be 2 (request id job-7)"


@pytest.mark.parametrize("field", ["specs[0].kernel_size", "x", "output", "specs", "backbone"])
def test_a_refused_request_has_its_request_id_whatever_is_wrong(field: str) -> None:
    wrong = InvalidRequest("must be 2", field=field)
    wrong.request_id = "job-7"
    with (
        pytest.raises((CommandError, InvalidRequest)) as caught,
        translated_errors(parse(["max2d:kernel_size=3"], {}), "photo.jpg", "out.npy"),
    ):
        raise wrong
    text = describe(caught.value) if isinstance(caught.value, InvalidRequest) else str(caught.value)
    assert text.endswith(": must be 2 (request id job-7)")


@pytest.mark.parametrize(
    ("texts", "flags", "field", "source"),
    [
        # The grid of S3Pool follows from the kernel, for which there is a flag.
        (["s32d"], {"kernel_size": "20"}, "specs[0].grid_size", "--op s32d: grid_size"),
        (["s32d"], {"kernel_size": "20"}, "specs[0].kernel_size", "--kernel-size of s32d"),
        (["gap2d", "max2d:kernel_size=2+gem2d:p=2"], {}, "specs[1].layers[1].p", "--op gem2d:p=2: p"),
        (["max2d+gem2d"], {"kernel_size": "9"}, "specs[0].layers[1].kernel_size", "--kernel-size of gem2d"),
        (["mac2d+gem2d"], {}, "specs[0].layers[1]", "--op gem2d"),
    ],
)
def test_an_error_about_a_parameter_names_where_it_was_written(
    texts: list[str], flags: dict[str, str], field: str, source: str
) -> None:
    with pytest.raises(CommandError) as caught, translated_errors(parse(texts, flags), "x.npy"):
        raise InvalidRequest("must be 2", field=field)
    assert str(caught.value) == f"{source}: must be 2"
