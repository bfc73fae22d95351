"""Set before anything imports Locust: the tests run real threads and sockets beside gevent's loop."""

import os

os.environ["LOCUST_SKIP_MONKEY_PATCH"] = "1"
