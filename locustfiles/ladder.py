"""One level of load after the other, with a summary for each: where does latency bend?

Run it like this:

    locust -f locustfiles/ladder.py --headless --ladder 1,2,4,8,16,32 --step-time 30s --host http://localhost:8000

`--levels rate` makes the levels requests per second. With users of your own, take `--ladder` and their
locustfile: this one is that option with a default.
"""

from chat import ChatUser

from vllm_locust import LadderShape

__all__ = ["ChatUser", "LadderShape"]
