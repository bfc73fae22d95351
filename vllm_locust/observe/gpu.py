"""The GPUs of this machine, as NVIDIA's library (NVML) tells them, through the package nvidia-ml-py.

Rule: without that package, a driver or a GPU there is nothing to tell, and nothing is said.
"""

import importlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from time import perf_counter
from typing import Any

from vllm_locust.core.server import GpuState, ServerSample
from vllm_locust.observe.sources import Rounds, SourceStatus

SOURCE = "local"


class GpuReader:
    """Reads utilisation and memory every `interval_s`; `deliver` is called in the reader's own thread."""

    name = SOURCE

    def __init__(
        self,
        interval_s: float,
        deliver: Callable[[ServerSample], None],
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        self.status = SourceStatus()
        self._interval_s = interval_s
        self._deliver = deliver
        self._clock = clock
        self._nvml, self._gpus = _open()
        self._rounds = Rounds(SOURCE, self._look, self._close)

    @property
    def present(self) -> bool:
        """Whether there is a GPU to read."""
        return bool(self._gpus)

    def start(self) -> None:
        """Read now, and from then on regularly; nothing without a GPU."""
        if self.present:
            self._rounds.start()

    def scrape_soon(self) -> None:
        """Read now, besides."""
        if self.present:
            self._rounds.soon()
        else:
            self.status = SourceStatus(asked_s=self._clock())

    def stop(self) -> None:
        """Read no more."""
        self._rounds.stop()

    # ------------------------------------------------------------------------------------------------------

    def _look(self) -> float:
        began_s = self._clock()
        states = tuple(self._read(i, gpu) for i, gpu in enumerate(self._gpus))
        now_s = self._clock()
        self.status = replace(self.status, up=True, scrape_s=now_s - began_s)
        self._deliver(ServerSample(SOURCE, (began_s + now_s) / 2, gpus=states))
        self.status = replace(self.status, asked_s=began_s)
        return self._interval_s

    def _read(self, number: int, gpu: Any) -> GpuState:
        utilization = self._ask("nvmlDeviceGetUtilizationRates", gpu)
        memory = self._ask("nvmlDeviceGetMemoryInfo", gpu)
        return GpuState(
            str(number),
            None if utilization is None else utilization.gpu / 100,
            None if memory is None else float(memory.used),
            None if memory is None else float(memory.total),
        )

    def _ask(self, function: str, gpu: Any) -> Any:
        """None where the GPU does not tell (a part of one has no utilisation) or is gone."""
        try:
            return getattr(self._nvml, function)(gpu)
        except self._nvml.NVMLError:
            return None

    def _close(self) -> None:
        with suppress(self._nvml.NVMLError):
            self._nvml.nvmlShutdown()


def _open() -> tuple[Any, Sequence[Any]]:
    """The library and its GPUs; none where it cannot be had."""
    try:
        nvml: Any = importlib.import_module("pynvml")
    except ImportError:
        return None, ()
    try:
        nvml.nvmlInit()
        return nvml, [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
    except nvml.NVMLError:
        return None, ()
