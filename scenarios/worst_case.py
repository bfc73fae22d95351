"""What is the longest that anybody waits, when every prompt is as long as can be and no cache helps?

Exactly so many prompt tokens, every prompt different from its first block on, answers between two bounds.
"""

from vllm_locust.workloads.lengths import Lengths
from vllm_locust.workloads.scenario import Context, Scenario
from vllm_locust.workloads.text import random_text


def build(
    context: Context,
    *,
    input_len: Lengths = Lengths.parse(3500),
    output_len: Lengths = Lengths.parse("490-500"),
) -> Scenario:
    return random_text("worst_case", context, input_len, output_len, exact=True)
