"""How does the server do on prompts and answers whose lengths are drawn from distributions?"""

from vllm_locust.workloads.lengths import Lengths
from vllm_locust.workloads.scenario import Context, Scenario
from vllm_locust.workloads.text import random_text


def build(
    context: Context,
    *,
    input_len: Lengths = Lengths.parse("lognormal:512:0.8:32-3000"),
    output_len: Lengths = Lengths.parse("128~0.5"),
) -> Scenario:
    return random_text("random", context, input_len, output_len)
