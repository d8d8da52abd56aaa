"""The count of the responses that callers have not read."""

from collections import Counter

import pytest

from poolservice_server.core.unsent_responses import UnsentResponses
from poolservice_server.error_status import UnreadResponses


def test_a_computed_response_is_never_refused() -> None:
    counted: list[int] = []
    unsent = UnsentResponses(max_bytes=100, max_caller_bytes=100, count=counted.append, refusals=Counter())
    for _ in range(8):
        unsent.check("caller", 60)
    held = [unsent.add("caller", 60) for _ in range(8)]
    assert unsent.exceed_limit
    for one in held:
        one.release()
    assert sum(counted) == 0
    assert not unsent.exceed_limit


def test_a_caller_with_unread_responses_is_refused_before_its_next_request_is_admitted() -> None:
    unsent = UnsentResponses(max_bytes=1000, max_caller_bytes=100, count=lambda _: None, refusals=Counter())
    held = unsent.add("caller", 60)
    with pytest.raises(UnreadResponses):
        unsent.check("caller", 60)
    unsent.check("another", 60)
    held.release()
    unsent.check("caller", 60)
