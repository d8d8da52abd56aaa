"""The SDK's errors in the command's terms: a message names the option, the file or the operator that the user wrote."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType

from poolservice_client import InvalidRequest, PoolError, Unauthenticated
from poolservice_client._cli.exit_errors import CommandError
from poolservice_client._cli.operator_parser import Operator
from poolservice_client._settings.credentials import CA_VARIABLE, CERTIFICATE_VARIABLE, KEY_VARIABLE
from poolservice_client._settings.settings import TOKEN_VARIABLE

# Arguments of the client's constructor. A wrong one makes the command line wrong, whatever the request is.
_SETTINGS: Mapping[str, str] = MappingProxyType(
    {
        "address": "address",
        "timeout": "--timeout",
        "max_message_bytes": "--max-message-bytes",
        "token": TOKEN_VARIABLE,
        "tls": f"TLS ({CA_VARIABLE}, {CERTIFICATE_VARIABLE}, {KEY_VARIABLE})",
    }
)
_OPTIONS: Mapping[str, str] = MappingProxyType(
    {
        "specs": "--op",
        "color_mode": "--color-mode",
        "normalize": "--normalize",
        "dtype": "--float16",
        "layout": "--layout",
        "output": "-o",
        "backbone": "--backbone",
        "tap": "--tap",
        "top": "--top",
        "classes": "--class",
    }
)
_SPEC_FIELD = re.compile(r"specs\[(\d+)\](?:\.layers\[(\d+)\])?(?:\.(\w+))?")
# Phrases of the SDK's messages about keywords that the command names differently or does not have.
_REPLACEMENTS = (
    ('. Where the network itself is encrypted, send metadata=[("authorization", "Bearer ...")] instead', ""),
    ("max_message_bytes=", "--max-message-bytes"),
    ("math.inf", "inf"),
    ("tls=TLS(certificate=..., key=...)", f"{CERTIFICATE_VARIABLE} and {KEY_VARIABLE}"),
    ("does tls= hold a client certificate", f"do {CERTIFICATE_VARIABLE} and {KEY_VARIABLE} name a client certificate"),
    ("the client certificate in tls=", f"the client certificate in {CERTIFICATE_VARIABLE}"),
    ("tls= and its environment variables", f"{CA_VARIABLE}, {CERTIFICATE_VARIABLE} and {KEY_VARIABLE}"),
    ("tls=", CA_VARIABLE),
    ('layout="HWC"', "--layout HWC"),
    ('layout="CHW"', "--layout CHW"),
)


def describe(error: PoolError) -> str:
    """Return the message for an error, with the option's name if the error is about one.

    If the server sent the error, the message ends with the request id, under which the server's log has the call.
    """
    if isinstance(error, InvalidRequest) and error.field:
        # classes[0] is the first --class, whose value is in the reason.
        field = "classes" if error.field.startswith("classes[") else error.field
        option = _SETTINGS.get(field) or _OPTIONS.get(field, field)
        return f"{option}: {reason(error)}"
    text = translate(str(error))
    if isinstance(error, Unauthenticated) and TOKEN_VARIABLE not in text:
        text += f"; put the token in the environment variable {TOKEN_VARIABLE}"
    return _with_request_id(text, error)


def describe_os_error(error: OSError) -> str:
    """Return the message for an error of the operating system, with the file's name if the error has one."""
    reason = error.strerror or str(error)
    return f"{os.fsdecode(error.filename)}: {reason}" if isinstance(error.filename, str | bytes) else reason


def reason(error: InvalidRequest) -> str:
    """Return what is wrong, without the name of the field, and the request id if the server sent the error."""
    return _with_request_id(translate(error.reason), error)


def _with_request_id(text: str, error: PoolError) -> str:
    return f"{text} (request id {error.request_id})" if error.request_id else text


def translate(text: str) -> str:
    """Replace the SDK's keywords in a message by the command's options."""
    for phrase, replacement in _REPLACEMENTS:
        text = text.replace(phrase, replacement)
    return text


def is_usage_error(error: PoolError) -> bool:
    """Return True if the command line is wrong, rather than the input or the service."""
    return isinstance(error, InvalidRequest) and error.field in _SETTINGS


@contextmanager
def translated_errors(operators: Sequence[Operator], input_name: str, output: object = None) -> Iterator[None]:
    """Translate the errors that the SDK or the service raises in this block.

    Args:
        operators: the operators of the request.
        input_name: the input as the user wrote it, such as the file's name.
        output: where the result was to go.

    Raises:
        CommandError: a request was refused for anything but a setting of the client.
    """
    try:
        yield
    except InvalidRequest as error:
        if is_usage_error(error):
            raise
        if spec_field := _SPEC_FIELD.fullmatch(error.field):
            number, layer, parameter = spec_field.groups()
            operator = operators[int(number)]
            if layer is not None:
                operator = operator.layers[int(layer)]
            # The number of dimensions is a part of the operator's name.
            source = operator.source_of(None if parameter == "spatial_dims" else parameter)
            raise CommandError(f"{source}: {reason(error)}") from None
        if error.field.partition(".")[0] == "x":
            raise CommandError(f"{input_name}: {reason(error)}") from None
        if error.field == "output" and output is not None:
            raise CommandError(f"-o {output}: {reason(error)}") from None
        raise
