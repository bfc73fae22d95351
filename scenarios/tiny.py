"""How do short and long prompts and answers differ, one kind after another?

Four phases, so that a profiler's time line and every table show them apart.
"""

from vllm_locust.workloads.catalogue import load
from vllm_locust.workloads.mix import Ordered
from vllm_locust.workloads.scenario import Context, Scenario


def build(context: Context) -> Scenario:
    return Ordered("tiny", [load(name, context) for name in ("ss", "sl", "ls", "ll")])
