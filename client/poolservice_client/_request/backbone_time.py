"""How long a backbone runs, which decides whether its requests may share a message."""

#: The longest run of a backbone, in microseconds, whose requests share messages. A message of its own costs client and
#: server about 1 ms of CPU time more than a share of one: a tenth of the time of an image with a run of 5 ms, and 1 %
#: with a run of 100 ms. The results of a message come together, so that the first ones would wait long for slow ones.
MAX_SHARED_MICROSECONDS = 20_000


class BackboneTime:
    """The time of the latest run of a query's backbone. Threads and clients may share one.

    Attributes:
        microseconds: the time; 0 before the first response, and without a backbone.
    """

    __slots__ = ("microseconds",)

    def __init__(self) -> None:
        self.microseconds = 0

    @property
    def is_short(self) -> bool:
        """Whether the backbone is known to run for so short a time that requests should share messages."""
        return 0 < self.microseconds <= MAX_SHARED_MICROSECONDS
