"""How does the server do on conversations as people have them, with lengths all over the place?

Without --dataset-path a small data set that comes with the package is used; any ShareGPT file will do.
"""

from vllm_locust.workloads.scenario import Context, Scenario
from vllm_locust.workloads.sharegpt import sharegpt


def build(context: Context, *, salt: bool = True) -> Scenario:
    return sharegpt("sharegpt", context, salt=salt)
