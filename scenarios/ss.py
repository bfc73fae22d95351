"""What does a request cost that hardly asks for anything: short prompt, short answer?"""

from vllm_locust.workloads.scenario import Context, Scenario
from vllm_locust.workloads.text import TextProfile


def build(context: Context) -> Scenario:
    return TextProfile("ss", "short_short", repetitions=40, max_tokens=8).with_options(context)
