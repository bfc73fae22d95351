"""What holds for all tests."""

import os

from hypothesis import settings

# Before anything imports Locust: the tests run real threads and sockets beside gevent's loop.
os.environ["LOCUST_SKIP_MONKEY_PATCH"] = "1"

# Same sources, same examples: a test fails because of a change, not by chance nor on a slow machine.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")
