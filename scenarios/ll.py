"""What remains of latency when prompts are long to read and answers long to write?"""

from vllm_locust.workloads.scenario import Context, Scenario
from vllm_locust.workloads.text import TextProfile


def build(context: Context) -> Scenario:
    return TextProfile("ll", "long_long", repetitions=400, max_tokens=512).with_options(context)
