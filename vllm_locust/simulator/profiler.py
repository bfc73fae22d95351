"""The profiler that the simulator has with --profiler-config: it notes when it ran, and what was done.

Rule: what a client of vLLM sees. Starting twice is refused, stopping once too often is not, and stopping
writes a trace in Chrome's format; here it has one event, from start to stop, with the counts of the engine.
"""

import time

import orjson

from vllm_locust.simulator.config import ProfilerConfig
from vllm_locust.simulator.protocol import ApiError
from vllm_locust.simulator.stats import EngineStats


class Profiler:
    """Runs between `start` and `stop`."""

    def __init__(self, config: ProfilerConfig, stats: EngineStats) -> None:
        self._folder = config.torch_profiler_dir
        self._stats = stats
        self._started_ns: int | None = None
        self._before = self._counts()

    def start(self) -> None:
        if self._started_ns is not None:
            raise ApiError(409, "A profiling session is already active.", "ConflictError")
        self._started_ns = time.time_ns()
        self._before = self._counts()

    def stop(self) -> None:
        """Write the trace, unless the profiler does not run."""
        if self._started_ns is None:
            return
        started_ns, self._started_ns = self._started_ns, None
        event = {
            "name": "profiled",
            "ph": "X",
            "ts": started_ns / 1000,
            "dur": (time.time_ns() - started_ns) / 1000,
            "pid": 0,
            "tid": 0,
            "args": {name: count - self._before[name] for name, count in self._counts().items()},
        }
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            trace = self._folder / f"simulator.{started_ns}.pt.trace.json"
            trace.write_bytes(orjson.dumps({"traceEvents": [event]}))

    def _counts(self) -> dict[str, int]:
        stats = self._stats
        return {
            "prompt_tokens": stats.prompt_tokens,
            "generation_tokens": stats.generation_tokens,
            "finished": sum(stats.finished.values()),
        }
