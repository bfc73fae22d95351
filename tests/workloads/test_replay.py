"""A replayed trace has its times, its lengths, and prompts that share exactly what its hash ids say."""

import json
import logging
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_locust.errors import UsageError
from vllm_locust.simulator.text import encode
from vllm_locust.workloads import catalogue
from vllm_locust.workloads.lengths import Lengths
from vllm_locust.workloads.mix import Mix, Ordered
from vllm_locust.workloads.replay import SMALL_TRACE, Replay, replay
from vllm_locust.workloads.scenario import Context, sources_of

FIVE = [
    (1000, 700, 10, [1, 2]),
    (1500, 512, 20, [1]),
    (3000, 20, 30, [3]),
    (3000, 1100, 40, [1, 2, 4]),
    (5000, 300, 50, [1]),
]


def count_words(prompt: str) -> int:
    """A tokenizer of words, whose template has nine."""
    return 9 + len(prompt.split())


def write(folder: Path, rows: list[tuple[int, int, int, list[int] | None]] = FIVE) -> Path:
    path = folder / "trace.jsonl"
    lines = [
        {"timestamp": ms, "input_length": inputs, "output_length": outputs}
        | ({"hash_ids": ids} if ids else {})
        for ms, inputs, outputs, ids in rows
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def made(context: Context, **parameters: Any) -> Replay:
    defaults: dict[str, Any] = {
        "speed": 1.0,
        "start_s": 0.0,
        "seconds": 0.0,
        "loop": False,
        "block": 512,
        "unit": "",
    }
    return replay("replay", context, **defaults | parameters)


def ids_of(path: Path | None = None, **parameters: Any) -> Replay:
    """The replay with prompts of token ids."""
    return made(Context(dataset_path=path, endpoint_type="completions", encode=encode), **parameters)


def common(one: Any, other: Any) -> int:
    """Tokens that two prompts begin with alike."""
    same = np.array(one[: len(other)]) == np.array(other[: len(one)])
    return len(same) if same.all() else int(same.argmin())


# -- times and lengths ------------------------------------------------------------------------------------


def test_a_trace_is_sent_as_it_was(tmp_path):
    scenario = ids_of(write(tmp_path))
    assert scenario.requests == 5
    assert list(scenario.arrivals.times_s) == [0, 0.5, 2, 2, 4]
    assert scenario.arrivals.period_s is None
    planned = [scenario.request(1, i) for i in range(5)]
    assert [len(request.prompt) for request in planned] == [700, 512, 20, 1100, 300]
    assert [request.prompt_tokens for request in planned] == [700, 512, 20, 1100, 300]
    assert [request.max_tokens for request in planned] == [10, 20, 30, 40, 50]
    assert [request.index for request in planned] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("parameters", "times_s", "first"),
    [
        ({"speed": 2.0}, [0, 0.25, 1, 1, 2], 0),
        ({"speed": 0.1}, [0, 5, 20, 20, 40], 0),
        ({"start_s": 0.5}, [0, 1.5, 1.5, 3.5], 1),
        ({"start_s": 0.6, "speed": 4.0}, [0, 0, 0.5], 2),
        ({"start_s": 0.5, "seconds": 1.5}, [0], 1),
        ({"seconds": 4.0}, [0, 0.5, 2, 2], 0),
        ({"seconds": 4.1}, [0, 0.5, 2, 2, 4], 0),
    ],
)
def test_slices_are_of_the_traces_own_clock(tmp_path, parameters, times_s, first):
    path = write(tmp_path)
    scenario, whole = ids_of(path, **parameters), ids_of(path)
    assert list(scenario.arrivals.times_s) == pytest.approx(times_s, abs=1e-12)
    assert scenario.requests == len(times_s)
    for i in range(len(times_s)):
        assert scenario.request(1, i).max_tokens == whole.request(1, first + i).max_tokens
        assert len(scenario.request(1, i).prompt) == len(whole.request(1, first + i).prompt)


def test_a_loop_begins_again_after_a_mean_gap_with_other_words(tmp_path):
    scenario = ids_of(write(tmp_path), speed=2.0, loop=True)
    assert scenario.requests is None
    assert scenario.arrivals.period_s == pytest.approx(2.5), "2 s, and the mean of four gaps"
    first, again = scenario.request(1, 0), scenario.request(1, 5)
    assert (len(again.prompt), again.max_tokens, again.index) == (700, 10, 5)
    assert common(first.prompt, again.prompt) < 8
    assert common(again.prompt, scenario.request(1, 6).prompt) == 512, "inside of a turn they share as before"


def test_the_users_answers_replace_the_traces(tmp_path):
    context = Context(dataset_path=write(tmp_path), max_tokens=Lengths.parse("7-9"))
    lengths = {made(context).request(1, i).max_tokens for i in range(5)} | {
        made(context).request(2, i).max_tokens for i in range(5)
    }
    assert lengths == {7, 8, 9}


def test_what_the_run_file_says_of_a_trace(tmp_path):
    path = write(tmp_path, [*FIVE, (6000, 5, 0, [9]), (6001, 5, 1, [9, 10])])
    scenario = ids_of(path, start_s=0.4, seconds=2.0)
    (source,) = sources_of(scenario)
    assert source["path"] == str(path)
    assert source["bytes"] == path.stat().st_size
    assert (source["rows"], source["kept"], source["filtered"], source["skipped"]) == (7, 3, 3, 1)
    assert source["unit"] == "ms"


# -- what prompts share -----------------------------------------------------------------------------------


@st.composite
def two_requests(draw: Any) -> tuple[int, list[tuple[int, list[int]]]]:
    """A block size, and two requests of a trace: lengths and hash ids, which begin alike or not."""
    block = draw(st.sampled_from([16, 64, 512]))
    shared = draw(st.lists(st.integers(0, 5), max_size=4))
    requests = []
    for tail in (st.integers(10, 15), st.integers(20, 25)):
        ids = shared + draw(st.lists(tail, max_size=3))
        ids = ids or [draw(tail)]
        requests.append((block * (len(ids) - 1) + draw(st.integers(1, block)), ids))
    return block, requests


@settings(deadline=None)
@given(two_requests(), st.integers(0, 3))
def test_prompts_share_exactly_what_the_hash_ids_say(tmp_path_factory, requests, seed):
    block, ((tokens, ids), (other_tokens, other_ids)) = requests
    path = write(tmp_path_factory.mktemp("traces"), [(0, tokens, 1, ids), (1, other_tokens, 1, other_ids)])
    scenario = ids_of(path, block=block)
    one, other = (scenario.request(seed, i).prompt for i in (0, 1))
    alike = 0
    while alike < min(len(ids), len(other_ids)) and ids[alike] == other_ids[alike]:
        alike += 1
    expected = min(alike * block, tokens, other_tokens)
    # Blocks of other ids may begin with some equal words by chance, and differ in the first eight.
    differ = alike < min(len(ids), len(other_ids))
    assert expected <= common(one, other) < expected + (8 if differ else 1)


def test_a_partial_block_is_the_beginning_of_the_full_one(tmp_path):
    scenario = ids_of(write(tmp_path))
    long, full, _, longer, part = (scenario.request(1, i).prompt for i in range(5))
    assert long[:512] == full == longer[:512]
    assert full[:300] == part
    assert longer[512:700] == long[512:]


def test_without_hash_ids_nothing_is_shared(tmp_path):
    path = write(tmp_path, [(100 * i, 50, 1, None) for i in range(40)])
    scenario = ids_of(path)
    heads = {tuple(scenario.request(seed, i).prompt[:8]) for seed in (1, 2) for i in range(80)}
    assert len(heads) == 160


def test_seeds_members_and_turns_share_nothing(tmp_path):
    scenario = ids_of(write(tmp_path))
    group = Ordered("m", [scenario])
    prompts = [scenario.request(1, 0), scenario.request(2, 0), scenario.request(1, 5), group.request(1, 0)]
    with pytest.raises(UsageError, match="replay says when its requests are sent, it cannot be mixed"):
        Mix("m", [(1, scenario)])
    assert len({tuple(request.prompt[:8]) for request in prompts}) == 4


def test_words_share_as_token_ids_do(tmp_path):
    scenario = made(Context(dataset_path=write(tmp_path), count_tokens=count_words))
    long, full, _, longer, part = (scenario.request(1, i) for i in range(5))
    assert [count_words(r.prompt) for r in (long, full, longer, part)] == [700, 512, 1100, 300]
    assert long.prompt_tokens == 700
    assert long.prompt.startswith(full.prompt)
    assert longer.prompt.startswith(long.prompt)
    assert full.prompt.startswith(part.prompt)


def test_too_short_prompts_are_lengthened_where_a_chat_needs_it(tmp_path, caplog):
    path = write(tmp_path, [(0, 3, 1, [1]), (1, 5, 1, [2]), (2, 90, 1, [3])])
    with caplog.at_level(logging.WARNING):
        scenario = made(Context(dataset_path=path, count_tokens=count_words))
    planned = [scenario.request(1, i) for i in range(3)]
    smallest = scenario.filler.smallest_tokens
    assert smallest == 9 + 1 + 7, "the template, the lead, and seven words that make it unique"
    assert [request.prompt_tokens for request in planned] == [smallest, smallest, 90]
    assert [count_words(request.prompt) for request in planned] == [smallest, smallest, 90]
    assert planned[0].prompt != planned[1].prompt
    assert f"2 requests of less than {smallest} tokens are lengthened" in caplog.text
    caplog.clear()
    assert [len(ids_of(path).request(1, i).prompt) for i in range(3)] == [3, 5, 90]
    assert not caplog.text


def test_where_nobody_counts_no_length_is_promised(tmp_path):
    scenario = made(Context(dataset_path=write(tmp_path)))
    long, full, *_ = (scenario.request(1, i) for i in range(5))
    assert long.prompt_tokens is None
    assert long.prompt.startswith(full.prompt)


# -- the small trace, and what is refused -----------------------------------------------------------------


def test_the_small_trace_is_what_its_formula_gives():
    """40 users with five growing questions each, in four applications with instructions of one block."""
    rows = []
    for user in range(40):
        for turn in range(5):
            tokens = 20 + 37 * (7 * user % 11) + turn * (136 + 34 * (user % 5))
            pauses_ms = (1500 + 250 * ((3 * user + earlier) % 5) for earlier in range(turn))
            rows.append(
                {
                    "timestamp": 1150 * user + 370 * (5 * user % 7) + sum(pauses_ms),
                    "input_length": tokens,
                    "output_length": 4 + (13 * user + 29 * turn) % 97,
                    "hash_ids": [*(user % 4, 100 + user)[: tokens // 512], 1000 + 10 * user + turn],
                }
            )
    rows.sort(key=lambda row: row["timestamp"])
    assert SMALL_TRACE.read_text() == "".join(json.dumps(row) + "\n" for row in rows)


def test_the_small_trace_is_sent_when_there_is_no_other():
    scenario = catalogue.load("replay", Context(endpoint_type="completions", encode=encode))
    assert scenario.source["skipped"] == 0
    planned = [scenario.request(1, i) for i in range(scenario.requests)]
    lengths = [len(request.prompt) for request in planned]
    assert (len(planned), min(lengths), max(lengths)) == (200, 20, 1478)
    times_s = scenario.arrivals.times_s
    assert (times_s[0], times_s[-1]) == (0, 55.32)
    assert all(earlier <= later for earlier, later in pairwise(times_s))
    assert max(common(planned[0].prompt, other.prompt) for other in planned[1:]) < 8
    shared = [max(common(a.prompt, b.prompt) for b in planned[:i]) for i, a in enumerate(planned) if i]
    assert sum(tokens >= 1024 for tokens in shared) > 5, "second blocks"
    assert sum(512 <= tokens < 1024 for tokens in shared) > 50, "first ones"


def test_parameters_come_from_the_command_line(tmp_path):
    given_ = {"speed": "4", "start": "0.5", "seconds": "2", "loop": "true", "block": "512"}
    scenario = catalogue.load("replay", Context(dataset_path=write(tmp_path), parameters=given_))
    assert list(scenario.arrivals.times_s) == pytest.approx([0, 0.375, 0.375])
    assert scenario.arrivals.period_s == pytest.approx(0.375 * 3 / 2)


@pytest.mark.parametrize(
    ("context", "parameters", "why"),
    [
        ({}, {"speed": 0.0}, "--set speed=0: the speed of scenario replay is a number of more than 0"),
        ({"input_len": Lengths.constant(9)}, {}, "--input-len does not go with scenario replay"),
        ({}, {"start_s": 4.5}, r"has no requests from 4.5 s on \(--set start .*: the trace goes from 0 to 4"),
        ({}, {"start_s": 1.0, "seconds": 0.5}, "has no requests from 1 to 1.5 s"),
        ({}, {"loop": True, "start_s": 2.0, "seconds": 1.0}, "all its requests come at the same time"),
        ({}, {"loop": True, "start_s": 3.0}, "all its requests come at the same time"),
        ({}, {"block": 256}, r"2 hash ids for 700 tokens, where 3 blocks of 256 .* \(--set block=N"),
    ],
)  # fmt: skip
def test_what_is_refused(tmp_path, context, parameters, why):
    rows = [FIVE[0]] if "block" in parameters else FIVE
    with pytest.raises(UsageError, match=why):
        made(Context(dataset_path=write(tmp_path, rows), **context), **parameters)
