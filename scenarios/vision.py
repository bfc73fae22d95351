"""What do pictures in a prompt cost: how long until a model that sees begins to answer?

Every picture is another one, so that neither prefix cache nor processor cache knows it.
"""

from vllm_locust.workloads.chats import Pictures, chats
from vllm_locust.workloads.scenario import Context, Scenario


def build(context: Context, *, width: int = 224, height: int = 224, images: int = 1) -> Scenario:
    return chats(
        "vision",
        context,
        "Which colours do you see, and where?",
        max_tokens=64,
        pictures=Pictures(images, width, height),
    )
