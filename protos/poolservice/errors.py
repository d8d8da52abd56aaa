"""The errors that both sides of the wire raise.

PoolError                what every error of poolservice is
└── InvalidRequest       the request is wrong: says which field, and what would be right
"""


class PoolError(Exception):
    """What every error of poolservice is."""


class InvalidRequest(PoolError, ValueError):
    """The request is wrong, and sending it again cannot help.

    Attributes:
        field: the path of what is wrong, in the words of whom it is said to: of the contract in the server,
            ``specs[0].max_pool.kernel_size``, of the SDK's parameters in the SDK, ``specs[0].kernel_size``; empty where
            no single field is to blame.
        reason: what is wrong with it and what would be right, in one sentence.
    """

    def __init__(self, reason: str, *, field: str = "") -> None:
        super().__init__(f"{field}: {reason}" if field else reason)
        self.field = field
        self.reason = reason

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions are rebuilt from their positional arguments, which would lose the field.
        return _invalid_request, (self.reason, self.field)

    def within(self, prefix: str) -> "InvalidRequest":
        """The same error with its field seen from a message that holds it under `prefix`."""
        return InvalidRequest(self.reason, field=f"{prefix}.{self.field}" if self.field else prefix)


def _invalid_request(reason: str, field: str) -> InvalidRequest:
    return InvalidRequest(reason, field=field)
