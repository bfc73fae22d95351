"""Cold and warm: what the simulator's cache knew of each request, in whole runs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest

from tests.locust_command import Outcome, assert_ended_well, assert_nothing_is_lost, run_locust, simulator

PREFIX = 256
BLOCK = 16
# One user, so that an earlier prompt is cached when the next one comes.
ALONE = ("-u", "1", "-r", "1")
SHARED = (
    "--num-prompts", "12", "--scenario", "prefix", "--set", f"prefix_len={PREFIX}", "--set", "prefixes=2",
    "--set", "input_len=40", "--set", "output_len=1",
)  # fmt: skip


@contextmanager
def cache(folder: Path, *server_options: str) -> Iterator[Callable[..., Outcome]]:
    """A server with an empty cache, for runs with these options one after the other."""
    with simulator(folder, "--enable-prompt-tokens-details", *server_options) as server:
        numbers = count()

        def run(*options: str) -> Outcome:
            results = folder / f"results-{next(numbers)}"
            users = () if "--ladder" in options else ALONE
            metrics = ("--server-metrics-url", server.url)
            asked = ("--headless", *users, *metrics, "--endpoint-type", "completions", *options)
            outcome = run_locust("--host", server.url, *asked, folder=results)
            assert_ended_well(outcome)
            assert_nothing_is_lost(outcome)
            return outcome

        yield run


def cached(outcome: Outcome, phase: int = 0) -> list[int]:
    """Cached tokens of each request of a phase, in the order of the plan; the server leaves a 0 out."""
    requests = sorted(outcome.requests, key=lambda request: request["index"])
    return [request["cached_tokens"] or 0 for request in requests if request["phase"] == phase]


def test_a_second_run_finds_what_the_first_has_left(tmp_path: Path) -> None:
    """All of it, as the seed is the same: prompts have 296 tokens, of which the last one is computed anew."""
    with cache(tmp_path) as run:
        run(*SHARED)
        assert set(cached(run(*SHARED))) == {(PREFIX + 40 - 1) // BLOCK * BLOCK}


@pytest.mark.parametrize("resets", [True, False], ids=["reset", "salted"])
def test_cold_begins_each_step_with_nothing_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resets: bool
) -> None:
    monkeypatch.setenv("VLLM_SERVER_DEV_MODE", "1" if resets else "0")
    with cache(tmp_path) as run:
        for _ in range(2):
            outcome = run(*SHARED, "--prefix-cache", "cold", "--ladder", "1,1", "--step-warmup", "0")
    for phase in (0, 1):
        known = cached(outcome, phase)
        assert known[0] == 0
        assert known.count(0) == 2
        assert known.count(PREFIX) == 10
    how = "reset" if resets else "salted"
    assert [phase["prefix_cache"] for phase in outcome.summary["phases"]] == [how, how]
    assert ("have a cache_salt of their own" in outcome.stderr) is not resets
    numbers = sorted(request["number"] for request in outcome.requests)
    assert numbers == list(range(24)), "the second step goes on where the first has ended"


def test_cold_is_cold_for_prompts_that_are_always_the_same(tmp_path: Path) -> None:
    """Those of a data set: where the cache is not emptied, only the server can keep them apart."""
    data = tmp_path / "prompts.jsonl"
    data.write_text("".join(f'{{"prompt": "{i} {"word " * 50}", "output_len": 1}}\n' for i in range(6)))
    options = ("--scenario", "prompts", "--dataset-path", str(data), "--num-prompts", "6")
    with cache(tmp_path) as run:
        run(*options)
        as_it_is, *cold = run(*options), *(run(*options, "--prefix-cache", "cold") for _ in range(2))
    assert min(cached(as_it_is)) > 0
    assert [set(cached(outcome)) for outcome in cold] == [{0}, {0}]
    sent = [{request["prompt_hash"] for request in outcome.requests} for outcome in (as_it_is, *cold)]
    assert sent[0] == sent[1] == sent[2]


def test_warm_begins_with_every_prefix_known(tmp_path: Path) -> None:
    with cache(tmp_path) as run:
        outcome = run(*SHARED, "--prefix-cache", "warm")
    assert cached(outcome) == [PREFIX] * 12
    assert "Warming the prefix cache with 2 requests" in outcome.stderr
    assert outcome.summary["requests"]["planned"] == 12
    assert outcome.summary["phases"][0]["prefix_cache"] == "warmed"


def test_what_warms_the_cache_between_two_steps_counts_in_neither(tmp_path: Path) -> None:
    with cache(tmp_path) as run:
        outcome = run(*SHARED, "--prefix-cache", "warm", "--ladder", "1,1", "--step-warmup", "0")
    for phase in outcome.summary["phases"]:
        assert phase["total_input_tokens"] == 12 * (PREFIX + 40)
        assert 0 < phase["server"]["prompt_tokens"] <= 12 * (PREFIX + 40)


@pytest.mark.parametrize(
    ("options", "state", "found"),
    [
        (["--no-enable-prefix-caching"], "not warmed", "found nothing of 592 prompt tokens"),
        (["--num-gpu-blocks-override", "24"], "partly warmed", "its prefix cache is too small for them"),
    ],
)
def test_a_cache_that_does_not_hold_everything_is_not_said_to_be_warm(
    tmp_path: Path, options: list[str], state: str, found: str
) -> None:
    """Two prompts of 296 tokens are 18 whole blocks each, of which 24 hold one and a part of the other."""
    with cache(tmp_path, *options) as run:
        outcome = run(*SHARED, "--prefix-cache", "warm")
    assert outcome.summary["phases"][0]["prefix_cache"] == state
    assert found in outcome.stderr
