"""vllm-locust: load tests for vLLM in Locust, with latencies one can trust.

`from vllm_locust import VllmUser` in a locustfile is what brings Locust and the suite together. Until then
nothing of Locust or gevent is loaded, so that analysis never pays for them.
"""

from typing import TYPE_CHECKING, Any

from vllm_locust.core.record import RequestRecord

if TYPE_CHECKING:
    from vllm_locust.load.shapes import CapacityShape, LadderShape
    from vllm_locust.load.users import VllmUser

__version__ = "0.1.0"
__all__ = ["CapacityShape", "LadderShape", "RequestRecord", "VllmUser", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "VllmUser":
        from vllm_locust.load.users import VllmUser

        return VllmUser
    if name in ("CapacityShape", "LadderShape"):
        from vllm_locust.load import shapes

        return getattr(shapes, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
