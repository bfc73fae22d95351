"""What do people's conversations suffer when other kinds of requests come between them?

70 % conversations, 20 % short questions whose answers vary by half, 10 % long and deterministic jobs.
"""

from vllm_locust.workloads.lengths import Lengths
from vllm_locust.workloads.mix import Mix
from vllm_locust.workloads.scenario import Context, Scenario
from vllm_locust.workloads.sharegpt import sharegpt
from vllm_locust.workloads.text import TextProfile


def build(context: Context) -> Scenario:
    quick = TextProfile("quick", "short_short", repetitions=40, max_tokens=Lengths.parse("32~0.5"))
    batch = TextProfile("batch", "long_long", repetitions=400, max_tokens=512, extra={"temperature": 0.0})
    return Mix(
        "mix",
        [
            (70, sharegpt("sharegpt", context)),
            (20, quick.with_options(context)),
            (10, batch.with_options(context)),
        ],
    )
