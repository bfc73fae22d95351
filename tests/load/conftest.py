"""What the tests of the load share: one simulator as the server of all runs."""

from collections.abc import Iterator

import pytest

from tests.locust_command import Simulator, simulator


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    """A simulator with the model "tiny", about 5 ms a step."""
    with simulator(tmp_path_factory.mktemp("server"), "--served-model-name", "tiny") as running:
        yield running
