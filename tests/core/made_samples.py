"""Looks at servers that tests make by hand."""

from vllm_locust.core.server import EngineState, ServerSample
from vllm_locust.core.server_recording import ServerRecording


def engine(name="0", gauges=None, counters=None, started_s=None, **histograms):
    return EngineState(name, "m", gauges or {}, counters or {}, histograms, started_s)


def sample(at_s, *engines, source="a", gpus=()):
    return ServerSample(source, at_s, tuple(engines), tuple(gpus))


def counted(at_s, tokens, source="a"):
    """A look at a server that has generated so many tokens."""
    return sample(at_s, engine(counters={"generation_tokens": tokens}), source=source)


def told(at_s, tokens, started_s, source="a"):
    """A look at a server that tells when its process started, too."""
    return sample(at_s, engine(counters={"generation_tokens": tokens}, started_s=started_s), source=source)


def running(at_s, requests, source="a"):
    return sample(at_s, engine(gauges={"running": requests}), source=source)


def tokens(recording, phase=None):
    window = recording.total() if phase is None else recording.phase(phase)
    return None if window is None else window.counters.get("generation_tokens")


def of(*samples, begin_s=0.0, warmup_s=0.0):
    """A recording of one phase, number 1."""
    recording = ServerRecording()
    recording.begin_phase(1, begin_s, warmup_s)
    for each in samples:
        recording.add(each)
    return recording
