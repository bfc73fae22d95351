"""The GPUs of this machine, by a stand-in for NVIDIA's library."""

import sys
import threading
from types import ModuleType, SimpleNamespace

import pytest

from vllm_locust.core.server import GpuState
from vllm_locust.observe.gpu import GpuReader


class FakeNvml(ModuleType):
    """Two GPUs, of which the second does not tell its utilisation."""

    class NVMLError(Exception):
        pass

    def __init__(self, count: int = 2, *, driver: bool = True) -> None:
        super().__init__("pynvml")
        self.count = count
        self.driver = driver
        self.gone = False
        self.open = 0

    def nvmlInit(self):  # noqa: N802
        if not self.driver:
            raise self.NVMLError("Driver Not Loaded")
        self.open += 1

    def nvmlShutdown(self):  # noqa: N802
        self.open -= 1

    def nvmlDeviceGetCount(self):  # noqa: N802
        return self.count

    def nvmlDeviceGetHandleByIndex(self, index):  # noqa: N802
        return index

    def nvmlDeviceGetUtilizationRates(self, gpu):  # noqa: N802
        if gpu == 1 or self.gone:
            raise self.NVMLError("Not Supported")
        return SimpleNamespace(gpu=37, memory=5)

    def nvmlDeviceGetMemoryInfo(self, gpu):  # noqa: N802
        if self.gone:
            raise self.NVMLError("GPU is lost")
        return SimpleNamespace(used=10 * (gpu + 1), total=80, free=0)


@pytest.fixture
def nvml(monkeypatch):
    fake = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    return fake


def read(count: int, between=lambda: None) -> tuple[GpuReader, list]:
    samples: list = []
    enough = threading.Event()

    def deliver(sample) -> None:
        samples.append(sample)
        between()
        if len(samples) >= count:
            enough.set()

    reader = GpuReader(0.001, deliver)
    assert reader.present
    reader.start()
    assert enough.wait(60)
    reader.stop()
    return reader, samples


def test_utilisation_and_memory(nvml):
    reader, samples = read(2)
    assert reader.status.up
    assert reader.status.asked_s is not None
    assert samples[0].source == reader.name == "local"
    assert samples[0].gpus == (GpuState("0", 0.37, 10.0, 80.0), GpuState("1", None, 20.0, 80.0))
    assert samples[1].at_s > samples[0].at_s
    assert nvml.open == 0


def test_a_gpu_that_is_lost(nvml):
    _, samples = read(2, between=lambda: setattr(nvml, "gone", True))
    assert samples[1].gpus == (GpuState("0"), GpuState("1"))


@pytest.mark.parametrize("module", [None, FakeNvml(0), FakeNvml(driver=False)])
def test_without_package_gpu_or_driver_there_is_nothing(monkeypatch, module):
    monkeypatch.setitem(sys.modules, "pynvml", module)
    reader = GpuReader(0.001, pytest.fail)
    assert not reader.present
    reader.start()
    reader.scrape_soon()
    assert not reader.status.up
    assert reader.status.problem is None
    assert reader.status.asked_s is not None
    reader.stop()


def test_a_look_besides(nvml):
    came = threading.Event()
    reader = GpuReader(60, lambda _: came.set())
    reader.start()
    assert came.wait(60)
    came.clear()
    reader.scrape_soon()
    assert came.wait(60)
    reader.stop()
