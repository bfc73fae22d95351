"""How does the server do on your own prompts?

--dataset-path is a file of JSON lines, JSON, CSV or parquet, or hf:ORG/NAME[/FILE]. A row has its prompt in
the column `prompt` and may say in `output_len` how many tokens to ask for.
"""

from vllm_locust.workloads.lengths import Lengths
from vllm_locust.workloads.prompt_file import prompt_file
from vllm_locust.workloads.scenario import Context, Scenario


def build(
    context: Context, *, column: str = "prompt", output_len: Lengths = Lengths.parse(128), salt: bool = True
) -> Scenario:
    return prompt_file("prompts", context, column, output_len, salt=salt)
