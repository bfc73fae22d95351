"""How long does a prompt take to be read when that is nearly all the work: long prompt, short answer?"""

from vllm_locust.workloads.scenario import Context, Scenario
from vllm_locust.workloads.text import TextProfile


def build(context: Context) -> Scenario:
    return TextProfile("ls", "long_short", repetitions=400, max_tokens=8).with_options(context)
