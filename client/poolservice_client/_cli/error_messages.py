"""From the SDK's words to the command's: an error names the option, the file or the operator that was written."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType

from poolservice_client import InvalidRequest, PoolError
from poolservice_client._cli.errors import Failure
from poolservice_client._cli.operators import Operator
from poolservice_client._settings.credentials import CA_VARIABLE, CERTIFICATE_VARIABLE, KEY_VARIABLE
from poolservice_client._settings.settings import TOKEN_VARIABLE

# What a client is made with: wrong here, the command was written wrongly, whatever it is asked.
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
        "output": "-o",
    }
)
_OF_SPEC = re.compile(r"specs\[(\d+)\]\.(\w+)")
# What the SDK's sentences say of its keywords, which the command has by other names or not at all.
_WORDS = (
    ('. Where the network itself is encrypted, send metadata=[("authorization", "Bearer ...")] instead', ""),
    ("max_message_bytes=", "--max-message-bytes"),
    ("math.inf", "inf"),
    ("tls=", CA_VARIABLE),
)


def sentence(error: PoolError) -> str:
    """What is said of an error where nothing more is known than that it came."""
    if isinstance(error, InvalidRequest) and error.field:
        where = _SETTINGS.get(error.field) or _OPTIONS.get(error.field, error.field)
        return f"{where}: {reason(error)}"
    return in_words(str(error))


def reason(error: InvalidRequest) -> str:
    """What is said of it beside the name of what it is about."""
    return in_words(error.reason)


def in_words(text: str) -> str:
    """The SDK's sentence with the command's names in it."""
    for sdk, command in _WORDS:
        text = text.replace(sdk, command)
    return text


def is_usage(error: PoolError) -> bool:
    """Whether it is the command that was written wrongly, rather than its input or the service that does not do."""
    return isinstance(error, InvalidRequest) and error.field in _SETTINGS


@contextmanager
def refusals(wanted: Sequence[Operator], given: str, output: object = None) -> Iterator[None]:
    """Tell what the SDK or the service refuses meanwhile in terms of what was written.

    Args:
        wanted: the operators that are asked for.
        given: what is pooled: the file's name, say.
        output: where the result was to go.

    Raises:
        Failure: something was refused that is no setting of the client.
    """
    try:
        yield
    except InvalidRequest as error:
        if is_usage(error):
            raise
        if of_spec := _OF_SPEC.fullmatch(error.field):
            raise Failure(f"{wanted[int(of_spec[1])].place_of(of_spec[2])}: {reason(error)}") from None
        if error.field.partition(".")[0] == "x":
            raise Failure(f"{given}: {reason(error)}") from None
        if error.field == "output" and output is not None:
            raise Failure(f"-o {output}: {reason(error)}") from None
        raise
