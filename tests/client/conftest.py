"""What tests of the client are given."""

from collections.abc import Callable, Iterator

import pytest

from tests.client.asking import Asker
from tests.scripted_server import (
    Step,
    scripted_server,
)


@pytest.fixture
def asker() -> Iterator[Callable[..., Asker]]:
    open_things: list[object] = []

    def start(*scripts: list[Step], **options: object) -> Asker:
        context = scripted_server(*scripts)
        made = Asker(context.__enter__(), **options)
        open_things.append((made, context))
        return made

    yield start
    for made, context in open_things:  # type: ignore[misc]
        made.close()
        context.__exit__(None, None, None)
