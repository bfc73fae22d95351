"""Is it quicker to classify reviews many to a prompt, or each in a prompt of its own?

The same reviews in the same order, first packed and then single. Without --dataset-path a small data set that
comes with the package is used; any CSV file with the columns review and sentiment will do.
"""

from vllm_locust.workloads.imdb import packed_and_single
from vllm_locust.workloads.mix import Ordered
from vllm_locust.workloads.scenario import Context, Scenario


def build(context: Context, *, n: int = 40, copies: int = 1, reviews: int = 0) -> Scenario:
    return Ordered("imdb", packed_and_single("imdb", context, n=n, copies=copies, reviews=reviews))
