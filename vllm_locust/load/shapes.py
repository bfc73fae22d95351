"""Load shapes: how many of Locust's users there are while a ladder is climbed or a capacity searched.

Locust asks a shape once a second; what it answers is what the conductor of the run wants. A locustfile that
imports one of them runs it:

    from vllm_locust import CapacityShape, VllmUser
"""

from locust import LoadTestShape
from locust.env import Environment

from vllm_locust.load.crew import AT_LEAST_PER_S
from vllm_locust.load.run import Run
from vllm_locust.load.settings import Settings


class SteppedShape(LoadTestShape):
    """Follows the conductor of the run."""

    abstract = True
    use_common_options = True
    kind: str | None = None
    """What the locustfile asks for by having this shape; None when an option has asked."""

    def tick(self) -> tuple[int, float] | None:
        """Users and users per second; None ends the run."""
        assert self.runner is not None
        run: Run | None = getattr(self.runner.environment, "vllm_run", None)
        if run is None or run.load_is_over:
            users = 1  # asked before the run begins, and then asked again
        elif run.conductor.over:
            return None
        else:
            users = run.conductor.users_wanted or 1  # of whom an open loop needs none but to begin
        return users, max(users, AT_LEAST_PER_S)


class LadderShape(SteppedShape):
    """One step for each level of `--ladder`, which is 1,2,4,8,16,32 unless given."""

    abstract = False
    kind: str | None = "ladder"


class CapacityShape(SteppedShape):
    """Probes levels until it knows the largest one that meets every `--slo`."""

    abstract = False
    kind = "capacity"


def kind_of(shape: LoadTestShape | None) -> str | None:
    """What kind of shape the locustfile has: one of ours, `other`, or None."""
    return shape.kind if isinstance(shape, SteppedShape) else None if shape is None else "other"


def choose_shape(environment: Environment, settings: Settings) -> None:
    """`--ladder` needs no shape in the locustfile: then one comes with the option, and goes with it."""
    ours = isinstance(environment.shape_class, LadderShape) and environment.shape_class.kind is None
    if environment.shape_class is None and settings.ladder:
        shape: SteppedShape = LadderShape()  # type: ignore[no-untyped-call]
        shape.kind = None
        shape.runner = environment.runner
        environment.shape_class = shape
    elif ours and not settings.ladder:
        environment.shape_class = None
