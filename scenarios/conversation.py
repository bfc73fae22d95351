"""What do people notice who talk with the model, one question behind the other, as their history grows?

Each turn sends the whole conversation again: with a prefix cache, most of it need not be read anew. Profiles
`turn_1`, `turn_2`, ... show what that comes to. Without --dataset-path a small data set that comes with the
package is used; any ShareGPT file will do.
"""

from vllm_locust.workloads.conversation import conversation
from vllm_locust.workloads.scenario import Context, Scenario


def build(
    context: Context,
    *,
    history: str = "server",
    turns: int = 8,
    think_s: float = 2.0,
    max_context: int = 0,
    salt: bool = True,
) -> Scenario:
    return conversation(
        "conversation",
        context,
        history=history,
        turns=turns,
        think_s=think_s,
        max_context=max_context,
        salt=salt,
    )
