"""What do prefill and decode cost by themselves: one token or 512 after a prompt of 40 or 1000 words?

With one token of output there is no time per output token: such a phase measures the prompt alone.
"""

from vllm_locust.workloads.mix import Ordered
from vllm_locust.workloads.scenario import Context, Scenario
from vllm_locust.workloads.text import TextProfile

PROFILES = [
    TextProfile("ss", "short_short", repetitions=40, max_tokens=1),
    TextProfile("sl", "short_long", repetitions=40, max_tokens=512),
    TextProfile("ls", "long_short", repetitions=1000, max_tokens=1),
    TextProfile("ll", "long_long", repetitions=1000, max_tokens=512),
]


def build(context: Context) -> Scenario:
    return Ordered("huge", [profile.with_options(context) for profile in PROFILES])
