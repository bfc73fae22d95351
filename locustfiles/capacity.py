"""What is the largest load that meets your objectives?

Run it like this:

    locust -f locustfiles/capacity.py --headless --host http://localhost:8000 \
        --slo "p99_ttft_ms<500" --slo "p99_tpot_ms<50"

`--levels rate` searches requests per second instead of users; `-u 64` (or `--request-rate 64`) tries no more
than that. With users of your own, import them here in place of `ChatUser`.
"""

from chat import ChatUser

from vllm_locust import CapacityShape

__all__ = ["CapacityShape", "ChatUser"]
