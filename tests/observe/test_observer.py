"""All that the observer's process does, against a real simulator and without the process."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any
from urllib.request import Request, urlopen

import pytest

from tests.balancer import balancer
from tests.locust_command import Simulator, counters, simulator, wait_until
from tests.observe.made_runs import delta_of
from vllm_locust.observe.live import Identity
from vllm_locust.observe.observer import Observer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    with simulator(tmp_path_factory.mktemp("server"), "--served-model-name", "tiny") as running:
        yield running


class Told:
    """What the observer has said."""

    def __init__(self) -> None:
        self.messages: list[Mapping[str, Any]] = []

    def __call__(self, message: Mapping[str, Any]) -> None:
        self.messages.append(message)

    def of(self, kind: str) -> list[Mapping[str, Any]]:
        return [message for message in self.messages if message["say"] == kind]

    @property
    def view(self) -> Any:
        return json.loads(self.of("view")[-1]["body"])


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def observer(told: Told) -> Iterator[Observer]:
    observer = Observer(told)
    yield observer
    observer.close()


def watch(observer: Observer, *urls: str, interval_s: float = 10.0) -> None:
    sources = [{"url": url, "headers": {}, "insecure": False} for url in urls]
    observer.watch(sources, [], gpu=False, interval_s=interval_s)


def ask_for_a_token(server: Simulator) -> None:
    body = json.dumps({"model": "tiny", "prompt": "x " * 20, "max_tokens": 3}).encode()
    question = Request(f"{server.url}/v1/completions", body, {"Content-Type": "application/json"})
    with urlopen(question, timeout=10) as answer:
        answer.read()


def scraped(observer: Observer, told: Told, token: int) -> None:
    observer.scrape(token)
    wait_until(lambda: token in [m["token"] for m in told.of("done")], "the scrape")


def test_a_scrape_that_was_asked_for_is_newer_than_its_question(
    observer: Observer, told: Told, server: Simulator
) -> None:
    watch(observer, f"{server.url}/metrics")
    for token in (1, 2, 3):
        asked_s = perf_counter()
        scraped(observer, told, token)
        assert told.of("sample")[-1]["sample"]["at_s"] > asked_s


def test_a_scrape_of_nobody_is_over_at_once_and_says_why(observer: Observer, told: Told) -> None:
    watch(observer, "http://127.0.0.1:9/metrics")
    scraped(observer, told, 1)
    (source,) = told.of("status")[-1]["sources"]
    assert (source["source"], source["up"]) == ("127.0.0.1:9", False)
    assert source["problem"]
    assert len(told.of("tell")) == 1


def test_counters_grow_from_the_begin_of_each_run(observer: Observer, told: Told, server: Simulator) -> None:
    watch(observer, f"{server.url}/metrics")
    for run in ("first", "second"):
        ask_for_a_token(server)
        observer.begin(Identity(run, "ss", "tiny", server.url, perf_counter()))
        scraped(observer, told, 1)
        told.messages.clear()
        scraped(observer, told, 2)
        observer.end()
        (row,) = told.view["server"]
        assert row["preemptions"] == 0
        assert told.view["run"]["id"] == run
        assert told.view["run"]["state"] == "done"


def test_what_was_counted_before_the_first_look_under_load_is_not_known(
    observer: Observer, told: Told, server: Simulator
) -> None:
    ask_for_a_token(server)
    observer.begin(Identity("late", "ss", "tiny", server.url, perf_counter()))
    observer.phase(number=0, title="ss", level=2, unit="users", at_s=0.0, of=1)
    watch(observer, f"{server.url}/metrics")
    scraped(observer, told, 1)
    observer.end()
    (row,) = told.view["server"]
    assert (row["running"], row["preemptions"], row["prefix_cache_hit_ratio"]) == (0, None, None)


def test_the_page_has_both_sides_and_the_last_run_only(
    observer: Observer, told: Told, server: Simulator
) -> None:
    ask_for_a_token(server)
    watch(observer, f"{server.url}/metrics")
    url = observer.listen(("127.0.0.1", 0)).removesuffix("/metrics")
    scraped(observer, told, 1)
    for run in ("first", "second"):
        observer.begin(Identity(run, "ss", "tiny", server.url, perf_counter()))
    observer.phase(number=0, title="ss", level=2, unit="users", at_s=0.0, of=1)
    observer.state(users=2, in_flight=1)
    page = urlopen(f"{url}/metrics", timeout=5).read().decode()
    assert 'run="second"' in page
    assert 'run="first"' not in page
    there, here = counters(server.url), counters(url)
    assert here["vllm_locust_server_generation_tokens_total"] == there["vllm:generation_tokens_total"]
    assert here["vllm_locust_server_ttft_seconds_count"] == there["vllm:time_to_first_token_seconds_count"]
    assert here["vllm_locust_users"] == 2
    wait_until(lambda: len(told.of("served")) == 2, "word of both fetches")


def test_servers_that_take_turns_are_told_and_show_nothing(
    observer: Observer, told: Told, server: Simulator, tmp_path: Path
) -> None:
    """Each connection goes to the other one, of which the one has made tokens, and the other none."""
    ask_for_a_token(server)
    with simulator(tmp_path, "--served-model-name", "tiny") as other, balancer(server.url, other.url) as url:
        watch(observer, f"{url}/metrics")
        page_url = observer.listen(("127.0.0.1", 0))
        for token in range(5):
            scraped(observer, told, token)
        observer.end()
        page = urlopen(page_url, timeout=5).read().decode()
    (row,) = told.view["server"]
    assert row["up"]
    assert row["problem"].startswith("several servers take turns behind this address")
    assert (row["engines"], row["running"], row["preemptions"]) == (0, None, None)
    assert "vllm_locust_server_up" in page
    assert "vllm_locust_server_generation_tokens" not in page
    (sentence,) = told.of("tell")
    assert "--server-metrics-url" in sentence["sentence"]


def test_what_was_watched_before_is_forgotten(observer: Observer, told: Told, server: Simulator) -> None:
    watch(observer, f"{server.url}/metrics", interval_s=0.2)
    wait_until(lambda: bool(told.of("sample")), "a sample")
    watch(observer, "http://127.0.0.1:9/metrics")
    scraped(observer, told, 1)
    told.messages.clear()
    scraped(observer, told, 2)
    assert not told.of("sample")
    assert [row["source"] for row in told.of("status")[-1]["sources"]] == ["127.0.0.1:9"]


def test_before_a_run_there_is_nothing_to_fold(observer: Observer, tmp_path: Path) -> None:
    observer.delta(delta_of())
    observer.phase(number=0, title="ss", level=None, unit="users", at_s=0.0, of=1)
    observer.state(users=1)
    observer.end()
