"""The pytest fixture `pool_service`; use it with ``pytest_plugins = ["poolservice_server.testing.plugin"]``."""

from collections.abc import Iterator

import pytest

from poolservice_server.testing import Service, serve


@pytest.fixture(scope="session")
def pool_service() -> Iterator[Service]:
    """Return a real service with default settings for the whole test run; clients use `pool_service.address`."""
    with serve() as service:
        yield service
