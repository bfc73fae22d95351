"""A trace is replayed as a user does it: sent when it says, and with the shared prefixes that it says."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.locust_command import (
    assert_ended_well,
    assert_nothing_is_lost,
    column,
    in_processes,
    read_json,
    run_locust,
    simulator,
    started,
    wait_until,
)
from vllm_locust.workloads.replay import SMALL_TRACE

BLOCK = 64
SERVERS_BLOCK = 16
REPLAY = ("--headless", "-u", "1", "-r", "1", "--endpoint-type", "completions")


def trace() -> list[dict[str, Any]]:
    """40 requests, a tenth of a second apart, that begin like others by up to four blocks of 64 tokens."""
    rows = []
    for i in range(40):
        ids = [i % 2, 10 + i % 4, 20 + i % 8, 30 + i % 3, 100 + i][: 1 + i % 5]
        tokens = BLOCK * (len(ids) - 1) + 1 + 21 * i % BLOCK
        rows.append({"timestamp": 100 * i, "input_length": tokens, "output_length": 2, "hash_ids": ids})
    return rows


def shared_tokens(one: Mapping[str, Any], other: Mapping[str, Any]) -> int:
    """How many tokens two prompts of a trace begin with alike."""
    blocks = 0
    for mine, its in zip(one["hash_ids"], other["hash_ids"], strict=False):
        if mine != its:
            break
        blocks += 1
    return min(blocks * BLOCK, one["input_length"], other["input_length"])


def cached_tokens(rows: Sequence[Mapping[str, Any]], i: int) -> int:
    """What a server has of prompt `i` when it has seen all before: full blocks, and never its last token."""
    longest = max((shared_tokens(rows[i], earlier) for earlier in rows[:i]), default=0)
    return min(longest, rows[i]["input_length"] - 1) // SERVERS_BLOCK * SERVERS_BLOCK


def test_a_trace_is_sent_when_it_says_and_finds_in_the_cache_what_it_says(tmp_path: Path) -> None:
    rows = trace()
    path = tmp_path / "trace.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    slice_of = ("--set", "start=1", "--set", f"block={BLOCK}")
    with simulator(tmp_path, "--enable-prompt-tokens-details") as server:
        outcome = run_locust(
            *REPLAY, "--host", server.url, "--dataset-path", str(path), *slice_of,
            folder=tmp_path / "results", locustfile="replay.py",
        )  # fmt: skip
    assert_ended_well(outcome)
    assert_nothing_is_lost(outcome)
    rows = rows[10:]
    sent = sorted(outcome.requests, key=lambda request: request["index"])
    assert [request["prompt_tokens"] for request in sent] == [row["input_length"] for row in rows]
    assert [request["output_tokens"] for request in sent] == [2] * 30

    due_s = np.array([row["timestamp"] for row in rows]) / 1000
    intended_s, sent_s = np.array(column(sent, "intended_s")), np.array(column(sent, "sent_s"))
    assert np.diff(intended_s) == pytest.approx(np.diff(due_s), abs=2e-6)
    assert (sent_s - intended_s).min() >= 0

    # A stall of the machine may send a request before the one before it is in the cache.
    in_turn = [i for i in range(30) if all(before["first_token_s"] < sent_s[i] for before in sent[:i])]
    found = {i: sent[i]["cached_tokens"] for i in in_turn}
    assert found == {i: cached_tokens(rows, i) for i in in_turn}
    assert sum(tokens >= BLOCK for tokens in found.values()) >= 1, "there was something to be found"

    (source,) = read_json(outcome.folder / "run.json")["datasets"]
    assert (source["rows"], source["kept"], source["filtered"]) == (40, 30, 10)


@pytest.mark.parametrize("processes", [1, 3])
def test_a_looped_slice_goes_on_until_it_is_stopped(tmp_path: Path, processes: int) -> None:
    """The small trace's first 12 s are 38 requests, 5 of which come before 4 s; ten times as fast."""
    rows = [json.loads(line) for line in SMALL_TRACE.read_text().splitlines()]
    due_s = np.array([row["timestamp"] for row in rows if row["timestamp"] < 12_000]) / 10_000
    turn_s = due_s[-1] * len(due_s) / (len(due_s) - 1)
    with (
        simulator(tmp_path) as server,
        started(
            *REPLAY, *in_processes(processes), "--host", server.url, "--max-tokens", "2",
            "--set", "seconds=12", "--set", "speed=10", "--set", "loop=yes",
            folder=tmp_path / "results", locustfile="replay.py",
        ) as run,
    ):  # fmt: skip
        wait_until(lambda: len(run.requests) > 2 * len(due_s), "a second turn")
        outcome = run.stop()
    assert_ended_well(outcome)
    assert_nothing_is_lost(outcome)
    for request in outcome.requests:
        turn, position = divmod(request["index"], len(due_s))
        if request["outcome"] == "ok":  # one that came too late has no usage
            assert request["prompt_tokens"] == rows[position]["input_length"]
        request["due_s"] = turn * turn_s + due_s[position]
    for worker in range(processes):  # each has a clock of its own
        sent = [request for request in outcome.requests if request["worker"] == worker]
        begin_s = np.array(column(sent, "intended_s")) - column(sent, "due_s")
        assert begin_s == pytest.approx(np.full(len(begin_s), begin_s[0]), abs=5e-6)
