"""How does the server do on recorded traffic, with its bursts, its lengths and its shared prefixes?

--dataset-path takes traces of Mooncake, Bailian, BurstGPT and Azure; without one, a small trace of our own is
sent.
"""

from vllm_locust.workloads.replay import replay
from vllm_locust.workloads.scenario import Context, Scenario


def build(
    context: Context,
    *,
    speed: float = 1.0,
    start: float = 0.0,
    seconds: float = 0.0,
    loop: bool = False,
    block: int = 0,
    unit: str = "",
) -> Scenario:
    return replay(
        "replay",
        context,
        speed=speed,
        start_s=start,
        seconds=seconds,
        loop=loop,
        block=block,
        unit=unit,
    )
