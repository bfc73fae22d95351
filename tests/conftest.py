"""What holds for all tests, and the simulator that many runs share as their server."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

# Before anything imports Locust: the tests run real threads and sockets beside gevent's loop.
os.environ["LOCUST_SKIP_MONKEY_PATCH"] = "1"

from tests.locust_command import Simulator, simulator

# Same sources, same examples: a test fails because of a change, not by chance nor on a slow machine.
settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=25)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    """A simulator with the model "tiny", about 5 ms a step."""
    with simulator(tmp_path_factory.mktemp("server"), "--served-model-name", "tiny") as running:
        yield running
