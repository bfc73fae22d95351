"""What does the server's prefix cache save when requests begin with one of a few long system prompts?

--prefix-cache warm puts all of the prefixes into it before the run.
"""

from vllm_locust.workloads.lengths import Lengths
from vllm_locust.workloads.prefix import shared_prefix
from vllm_locust.workloads.scenario import Context, Scenario


def build(
    context: Context,
    *,
    prefix_len: int = 512,
    input_len: Lengths = Lengths.parse(128),
    output_len: Lengths = Lengths.parse(64),
    prefixes: int = 8,
    popularity: str = "zipf:1.0",
) -> Scenario:
    return shared_prefix(
        "prefix",
        context,
        prefix_len=prefix_len,
        input_len=input_len,
        output_len=output_len,
        prefixes=prefixes,
        popularity=popularity,
    )
