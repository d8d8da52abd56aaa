"""The errors that both client and server raise.

PoolError                the base class of all poolservice errors
└── InvalidRequest       the request is wrong; the error names the field and states what is valid
"""


class PoolError(Exception):
    """The base class of all poolservice errors.

    Attributes:
        request_id: the id under which the server's log has the call; None if no server responded.
    """

    request_id: str | None = None


class InvalidRequest(PoolError, ValueError):
    """The request is wrong, and sending it again cannot succeed.

    Attributes:
        field: the path of the wrong field. The server names fields of the contract,
            ``specs[0].max_pool.kernel_size``; the SDK names its own parameters, ``specs[0].kernel_size``. Empty if the
            error does not concern a single field.
        reason: what is wrong and what is valid, in one sentence.
    """

    def __init__(self, reason: str, *, field: str = "") -> None:
        super().__init__(f"{field}: {reason}" if field else reason)
        self.field = field
        self.reason = reason

    def __reduce__(self) -> tuple[object, ...]:
        # pickle and copy rebuild an exception from its positional arguments, which would lose the field.
        return _invalid_request, (self.reason, self.field), self.__dict__

    def within(self, prefix: str) -> "InvalidRequest":
        """Return the same error with its field path prefixed by `prefix`, the field of the enclosing message."""
        return InvalidRequest(self.reason, field=f"{prefix}.{self.field}" if self.field else prefix)


def _invalid_request(reason: str, field: str) -> InvalidRequest:
    return InvalidRequest(reason, field=field)
