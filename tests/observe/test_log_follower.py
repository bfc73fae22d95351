"""Following a log that grows, is cut short, is replaced, or is not there."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from vllm_locust.observe.log_follower import LogFollower

OFTEN_S = 0.005


def line(running: int, engine: str = "000") -> str:
    return (
        f"INFO [loggers.py:1] Engine {engine}: Avg prompt throughput: 1.0 tokens/s, "
        f"Avg generation throughput: 2.0 tokens/s, Running: {running} reqs, Waiting: 0 reqs, "
        "GPU KV cache usage: 50.0%\n"
    )


class Heard:
    def __init__(self) -> None:
        self.samples: list = []
        self.sentences: list[str] = []
        self.now_s = 0.0
        self.follower: LogFollower
        self._news = threading.Condition()

    def hear(self, what) -> None:
        with self._news:
            (self.sentences if isinstance(what, str) else self.samples).append(what)
            self._news.notify_all()

    def wait(self, *, samples: int = 0, sentences: int = 0) -> None:
        with self._news:
            assert self._news.wait_for(
                lambda: len(self.samples) >= samples and len(self.sentences) >= sentences, timeout=60
            ), (self.samples, self.sentences)

    def wait_for_look(self) -> None:
        """Until a look that begins from now on is over."""
        self.now_s += 1
        self.follower.scrape_soon()
        done = threading.Event()
        while (self.follower.status.asked_s or 0) < self.now_s:
            assert not done.wait(0.002)

    @property
    def running(self) -> list[dict[str, float]]:
        return [{e.engine: e.gauges["running"] for e in sample.engines} for sample in self.samples]


@contextmanager
def following(path, interval_s: float = OFTEN_S) -> Iterator[Heard]:
    heard = Heard()
    heard.follower = LogFollower(path, heard.hear, heard.hear, lambda: heard.now_s, interval_s=interval_s)
    heard.follower.start()
    try:
        yield heard
    finally:
        heard.follower.stop()
        assert not any(t.name == f"look at {path.name}" for t in threading.enumerate())


def append(path, text: str | bytes) -> None:
    with path.open("ab") as file:
        file.write(text.encode() if isinstance(text, str) else text)


def test_it_begins_at_the_end_and_follows(tmp_path):
    path = tmp_path / "vllm.log"
    append(path, line(99))
    with following(path) as heard:
        heard.wait_for_look()
        append(path, "INFO something else\n" + line(1))
        heard.wait(samples=1)
        heard.wait_for_look()
        append(path, line(2)[:50])
        heard.wait_for_look()
        append(path, line(2)[50:])
        heard.wait(samples=2)
    assert heard.running == [{"0": 1}, {"0": 2}]
    assert heard.samples[0].source == "vllm.log"
    assert heard.samples[0].engines[0].gauges["kv_cache_usage"] == 0.5
    assert heard.samples[1].at_s > heard.samples[0].at_s
    assert heard.follower.status.up
    assert heard.sentences == []


def test_a_sample_holds_the_latest_of_every_engine_for_a_while(tmp_path):
    path = tmp_path / "vllm.log"
    path.touch()
    with following(path) as heard:
        heard.wait_for_look()
        append(path, line(1) + line(2, "010") + line(3, "002"))
        heard.wait(samples=1)
        heard.wait_for_look()
        append(path, line(4, "002"))
        heard.wait(samples=2)
        heard.now_s += 15
        heard.wait_for_look()
        append(path, line(5, "002"))
        heard.wait(samples=3)
    assert heard.running == [{"0": 1, "2": 3, "10": 2}, {"0": 1, "2": 4, "10": 2}, {"2": 5}]


def test_a_file_that_is_cut_short_is_read_from_its_beginning(tmp_path):
    path = tmp_path / "vllm.log"
    append(path, "x" * 1000 + "\n")
    with following(path) as heard:
        heard.wait_for_look()
        path.write_text(line(1))
        heard.wait(samples=1)
        heard.wait_for_look()
        append(path, line(2))
        heard.wait(samples=2)
    assert heard.running == [{"0": 1}, {"0": 2}]


def test_a_file_that_takes_its_place_is_followed(tmp_path):
    path = tmp_path / "vllm.log"
    append(path, line(99) + line(98)[:40])
    with following(path) as heard:
        heard.wait_for_look()
        fresh = tmp_path / "fresh"
        fresh.write_text(line(1))
        fresh.replace(path)
        heard.wait(samples=1)
        append(path, line(2))
        heard.wait(samples=2)
    assert heard.running == [{"0": 1}, {"0": 2}]


def test_a_file_that_is_not_there_yet_is_told_once_and_read_from_its_beginning(tmp_path):
    path = tmp_path / "vllm.log"
    with following(path) as heard:
        heard.wait(sentences=1)
        for _ in range(3):
            heard.wait_for_look()
        assert not heard.follower.status.up
        assert heard.follower.status.problem == "No such file or directory"
        path.write_text(line(7))
        heard.wait(samples=1)
        assert heard.follower.status.problem is None
    assert heard.running == [{"0": 7}]
    assert heard.sentences == [
        f"--server-log {path}: No such file or directory. It is followed as soon as it can be read."
    ]


def test_what_is_no_file(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (tmp_path, pipe):
        with following(path) as heard:
            heard.wait(sentences=1)
            assert "it is no file" in heard.sentences[0]


def test_a_line_without_end_takes_no_memory_and_is_passed_over(tmp_path):
    path = tmp_path / "vllm.log"
    path.touch()
    with following(path) as heard:
        heard.wait_for_look()
        for _ in range(4):
            append(path, b"\xff\x00" * 100_000)
            heard.wait_for_look()
        assert len(heard.follower._rest) <= 1 << 16
        append(path, "\n" + line(3))
        heard.wait(samples=1)
    assert heard.running == [{"0": 3}]


def test_a_follower_that_never_began_can_be_stopped(tmp_path):
    LogFollower(tmp_path / "x", lambda _: None, lambda _: None).stop()
