"""The fixture `pool_service`, for pytest: ``pytest_plugins = ["poolservice_server.testing.plugin"]``."""

from collections.abc import Iterator

import pytest

from poolservice_server.testing import Service, serve


@pytest.fixture(scope="session")
def pool_service() -> Iterator[Service]:
    """A real service with default settings, which the whole test run shares; `pool_service.address` is for a client."""
    with serve() as service:
        yield service
