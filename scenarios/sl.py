"""How fast do tokens come when decoding is nearly all the work: short prompt, long answer?"""

from vllm_locust.workloads.scenario import Context, Scenario
from vllm_locust.workloads.text import TextProfile


def build(context: Context) -> Scenario:
    return TextProfile("sl", "short_long", repetitions=40, max_tokens=512).with_options(context)
