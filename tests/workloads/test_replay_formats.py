"""Every published format of a trace gives its times and lengths, and a broken row spoils no other one."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_locust.errors import UsageError
from vllm_locust.workloads.trace_formats import EXPECTED, Trace, read_trace

MOONCAKE = """\
{"timestamp": 27000, "input_length": 1100, "output_length": 52, "hash_ids": [0, 1, 7]}
{"timestamp": 27482, "input_length": 512, "output_length": 1, "hash_ids": [18446744073709551615]}

{"timestamp": 30535.5, "input_length": 513, "output_length": 26, "hash_ids": [0, 9]}
{"timestamp": 31000, "input_length": 90, "output_length": 3}
"""
BURSTGPT = """\
Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,Conversation log
45,ChatGPT,1087,230,1317,Conversation log
106,ChatGPT,0,0,0,Conversation log
118,GPT-4,417,276,693,API log
"""
BURSTGPT_2 = """\
Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type
5.5,,1.25,ChatGPT,472.0,18.0,490,API log
5.5,12,0.1,GPT-4,30,0,30,Conversation log
6.0,12,3.5,GPT-4,1,276,277,Conversation log
"""
AZURE = """\
TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:17:03.9799600,4808,10
2023-11-16 18:17:04.0319600,3180,8
2023-11-17 18:17:04.0781490,110,27
"""
AZURE_2024 = """\
TIMESTAMP,ContextTokens,GeneratedTokens
2024-05-10 00:00:00.009930+00:00,2162,5
2024-05-10 00:00:00.017335+00:00,2399,6
"""


BAILIAN = """\
{"chat_id": 159, "parent_chat_id": 55, "timestamp": 61.114, "input_length": 33, "output_length": 132, "type": "text", "turn": 2, "hash_ids": [1089, 1090, 6326]}
{"chat_id": 160, "parent_chat_id": -1, "timestamp": 62.5, "input_length": 16, "output_length": 80, "type": "text", "turn": 1, "hash_ids": [1089]}
{"chat_id": 161, "parent_chat_id": -1, "timestamp": 70.614, "input_length": 20, "output_length": 8, "type": "file", "turn": 1, "hash_ids": [7, 8]}
"""  # noqa: E501


def read(folder: Path, content: str | bytes, block: int | None = None, unit: str | None = None) -> Trace:
    path = folder / f"{hashlib.sha256(repr(content).encode()).hexdigest()[:16]}.trace"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_trace(path, block, unit)


def rows_of(trace: Trace) -> list[tuple[float, int, int]]:
    return list(zip(trace.times_s, trace.input_tokens, trace.output_tokens, strict=True))


@pytest.mark.parametrize(
    ("content", "expected", "failed"),
    [
        (MOONCAKE, [(0, 1100, 52), (0.482, 512, 1), (3.5355, 513, 26), (4, 90, 3)], 0),
        (BURSTGPT, [(0, 472, 18), (40, 1087, 230), (113, 417, 276)], 1),
        (BURSTGPT_2, [(0, 472, 18), (0.5, 1, 276)], 1),
        (AZURE, [(0, 4808, 10), (0.052, 3180, 8), (86400.098189, 110, 27)], 0),
        (AZURE_2024, [(0, 2162, 5), (0.007405, 2399, 6)], 0),
        (AZURE.replace("\n", "\r\n").rstrip(), [(0, 4808, 10), (0.052, 3180, 8), (86400.098189, 110, 27)], 0),
        ("\ufeff\n" + AZURE_2024, [(0, 2162, 5), (0.007405, 2399, 6)], 0),
        ('"Response tokens" , "TIMESTAMP","Request tokens"\n"3","1.5",7\n', [(0, 7, 3)], 0),
    ],
)
def test_the_formats(tmp_path, content, expected, failed):
    trace = read(tmp_path, content)
    assert [row[1:] for row in rows_of(trace)] == [row[1:] for row in expected]
    assert list(trace.times_s) == pytest.approx([row[0] for row in expected], abs=1e-9)
    assert (trace.failed, trace.broken, trace.rows) == (failed, 0, len(expected) + failed)
    assert (trace.size, trace.sha256) == (len(content.encode()), hashlib.sha256(content.encode()).hexdigest())


def test_the_format_tells_unit_and_block(tmp_path):
    contents = {"Bailian": BAILIAN, "Mooncake": MOONCAKE, "BurstGPT": BURSTGPT, "Azure": AZURE}
    told = {name: read(tmp_path, content) for name, content in contents.items()}
    assert {name: (trace.unit, trace.block, round(trace.times_s[-1], 3)) for name, trace in told.items()} == {
        "Bailian": ("s", 16, 9.5),
        "Mooncake": ("ms", 512, 4.0),
        "BurstGPT": ("s", 512, 113.0),
        "Azure": ("date-times", 512, 86400.098),
    }


def test_a_doubtful_unit_is_asked_for(tmp_path):
    """Twenty requests in 9.5 s, by the keys of Mooncake's, and nothing that tells whose they are."""
    rows = [{"timestamp": n / 2, "input_length": 5, "output_length": 5} for n in range(20)]
    content = "\n".join(map(json.dumps, rows))
    sentence = (
        r"trace does not tell the unit of its times: in ms they are 2000 requests/s on average, in s 2; "
        r"say which with --set unit=ms or --set unit=s\.$"
    )
    with pytest.raises(UsageError, match=sentence):
        read(tmp_path, content)
    assert read(tmp_path, content, unit="s").times_s[-1] == 9.5
    assert read(tmp_path, content, unit="ms").times_s[-1] == 0.0095


def test_milliseconds_in_columns_of_seconds_are_asked_about(tmp_path):
    """Forty requests in 0.78 s: in s they would be as many as in a calm part of BurstGPT's."""
    columns = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    content = columns + "".join(f"{20 * n},GPT-4,5,5,10,API log\n" for n in range(40))
    sentence = (
        r"in s they are 0\.05 requests/s on average, in ms 50; say which with --set unit=s or --set unit=ms"
    )
    with pytest.raises(UsageError, match=sentence):
        read(tmp_path, content)
    assert read(tmp_path, content, unit="ms").times_s[-1] == pytest.approx(0.78)


def test_hash_ids_belong_to_their_requests(tmp_path):
    trace = read(tmp_path, MOONCAKE)
    assert [list(trace.hash_ids_of(i)) for i in range(4)] == [[0, 1, 7], [2**64 - 1], [0, 9], []]
    assert list(read(tmp_path, BURSTGPT).hash_ids_of(0)) == []


def test_what_is_out_of_order_is_put_in_order_and_what_is_at_one_time_stays(tmp_path):
    rows = [(2000, 3, [5]), (1000, 600, [1, 2]), (2000, 4, [6]), (1000, 5, None), (1500, 6, [7])]
    lines = [
        json.dumps(
            {"timestamp": ms, "input_length": n, "output_length": 1} | ({"hash_ids": ids} if ids else {})
        )
        for ms, n, ids in rows
    ]
    trace = read(tmp_path, "\n".join(lines))
    assert rows_of(trace) == [(0, 600, 1), (0, 5, 1), (0.5, 6, 1), (1, 3, 1), (1, 4, 1)]
    assert [list(trace.hash_ids_of(i)) for i in range(5)] == [[1, 2], [], [7], [5], [6]]


def mooncake(**changed: Any) -> str:
    row = {"timestamp": 1, "input_length": 600, "output_length": 5, "hash_ids": [1, 2], **changed}
    return json.dumps({key: value for key, value in row.items() if value != "absent"})


BROKEN = [
    (mooncake()[:-1], "is no JSON ("),
    ("[1, 2]", "lacks timestamp, input_length or output_length"),
    (mooncake(timestamp="absent"), "lacks timestamp, input_length or output_length"),
    (mooncake(timestamp=True), "has no time in s or ms but True"),
    (mooncake(timestamp="2024-05-10"), "has no time in s or ms but '2024-05-10'"),
    (mooncake(input_length=-1), "has no number of tokens but -1"),
    (mooncake(input_length="600"), "has no number of tokens but '600'"),
    (mooncake(input_length=600.5), "has no number of tokens but 600.5"),
    (mooncake(input_length=1 << 40), "has no number of tokens but"),
    (mooncake(output_length=None), "has no number of tokens but None"),
    (mooncake(hash_ids=[1]), "has 1 hash ids for 600 tokens, where 2 blocks of 512 tokens are expected"),
    (mooncake(hash_ids=[1, 2, 3]), "has 3 hash ids for 600 tokens"),
    (mooncake(hash_ids=[]), "has 0 hash ids for 600 tokens"),
    (mooncake(hash_ids=12), "has no list of hash ids for 600 tokens"),
    (mooncake(hash_ids=[1, "2"]), "has hash ids that are no whole numbers from 0 on"),
    (mooncake(hash_ids=[1, -2]), "has hash ids that are no whole numbers from 0 on"),
    (mooncake(input_length=0, hash_ids=[]), "has an answer to no input tokens"),
]  # fmt: skip
BROKEN_CSV = [
    ("5,ChatGPT,472", "has 3 columns"),
    ("soon,GPT-4,1,1,2,API log", "has no time but 'soon'"),
    ("nan,GPT-4,1,1,2,API log", "has no time but 'nan'"),
    ("5,GPT-4,,1,2,API log", "has no number of tokens but ''"),
    ("5,GPT-4,1,nan,2,API log", "has no number of tokens but 'nan'"),
    ("5,GPT-4,1,inf,2,API log", "has no number of tokens but 'inf'"),
    ("2024-05-10,GPT-4,1,1,2,API log", "has a time of another kind than the first row"),
]


@pytest.mark.parametrize("broken", [line for line, _ in BROKEN])
def test_a_broken_row_of_mooncakes_is_skipped_and_counted(tmp_path, broken):
    trace = read(tmp_path, f"{mooncake()}\n{broken}\n{mooncake(timestamp=2001)}\n")
    assert (rows_of(trace), trace.broken) == ([(0, 600, 5), (2, 600, 5)], 1)
    assert list(trace.hash_ids_of(1)) == [1, 2]


@pytest.mark.parametrize("broken", [line for line, _ in BROKEN_CSV])
def test_a_broken_row_of_csv_is_skipped_and_counted(tmp_path, broken):
    trace = read(tmp_path, BURSTGPT + broken + "\n120,GPT-4,1,1,2,API log\n")
    assert (len(trace), trace.failed, trace.broken, trace.rows) == (4, 1, 1, 6)


def test_a_quote_that_is_not_closed_swallows_no_other_row(tmp_path):
    trace = read(tmp_path, BURSTGPT + '119,"GPT-4,1,1,2,API log\n120,GPT-4,2,2,4,API log\n')
    assert rows_of(trace)[-2:] == [(114, 1, 1), (115, 2, 2)]


@pytest.mark.parametrize(("broken", "why"), BROKEN)
def test_why_the_first_of_them_is_broken_is_said(tmp_path, broken, why):
    with pytest.raises(UsageError) as caught:
        read(tmp_path, f"{mooncake()}\n\n" + 10 * f"{broken}\n")
    (problem,) = caught.value.problems
    assert f": 10 of 11 rows are broken, the first of them line 3, which {why}" in problem
    assert problem.endswith(f"; {EXPECTED}.")


@pytest.mark.parametrize(("broken", "why"), BROKEN_CSV)
def test_why_a_row_of_csv_is_broken_is_said(tmp_path, broken, why):
    with pytest.raises(UsageError) as caught:
        read(tmp_path, BURSTGPT + 3 * f"{broken}\n" + 4 * "119,GPT-4,1,1,2,API log\n")
    assert f": 3 of 11 rows are broken, the first of them line 6, which {why}" in str(caught.value)


@pytest.mark.parametrize(
    ("good", "broken", "refused"), [(9, 1, False), (9, 2, True), (1, 8, False), (19, 2, False)]
)
def test_one_broken_row_in_ten_is_allowed_from_ten_on(tmp_path, good, broken, refused):
    content = good * f"{mooncake()}\n" + broken * "{\n"
    if refused:
        with pytest.raises(UsageError, match=f": {broken} of {good + broken} rows are broken"):
            read(tmp_path, content)
    else:
        assert read(tmp_path, content).broken == broken


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "holds no requests"),
        (b"\n \n", "holds no requests"),
        (b"TIMESTAMP,ContextTokens,GeneratedTokens\n", "holds no requests"),
        (b"Timestamp,Request tokens,Response tokens\n1,5,0\n", "holds no requests"),
        (b'[{"conversations": []}]', r"begins with '\[\{\"conversations\": \[\]\}\]', which is no trace"),
        (b"TIMESTAMP,ContextTokens\n1,2\n", "begins with 'TIMESTAMP,ContextTokens', which is no trace"),
        (b"5\n6\n", "begins with '5', which is no trace"),
        (b"version https://git-lfs.github.com/spec/v1\n", "begins with 'version https://git-lfs"),
        (b"\x80\x00\x81\n", "which is no trace"),
        (b'{"conversations": []}\n', "1 of 1 rows are broken, .* line 1, which lacks timestamp"),
    ],
)  # fmt: skip
def test_what_is_no_trace_is_refused_with_what_is_known(tmp_path, content, why):
    with pytest.raises(UsageError, match=why) as caught:
        read(tmp_path, content)
    assert str(caught.value).endswith(f"; {EXPECTED}.")


def test_a_trace_that_cannot_be_read(tmp_path):
    with pytest.raises(UsageError, match=r"missing: .* cannot be read \(No such file or directory\)"):
        read_trace(tmp_path / "missing", 512)


@given(
    st.lists(
        st.tuples(st.integers(0, 10**7), st.integers(1, 3000), st.integers(0, 3000), st.booleans()),
        min_size=1,
        max_size=30,
    ),
    st.sampled_from([1, 16, 512]),
)
def test_a_trace_that_was_written_reads_back(tmp_path_factory, rows, block):
    rows = [*rows, (10**7, 1, 1, True)]
    lines = [
        {"timestamp": ms, "input_length": inputs, "output_length": outputs}
        | ({"hash_ids": [ms + i for i in range(-(-inputs // block))]} if hashed else {})
        for ms, inputs, outputs, hashed in rows
    ]
    trace = read(tmp_path_factory.mktemp("traces"), "\n".join(map(json.dumps, lines)), block)
    kept = sorted((line for line in lines if line["output_length"]), key=lambda line: line["timestamp"])
    first_ms = kept[0]["timestamp"]
    expected = [((r["timestamp"] - first_ms) / 1000, r["input_length"], r["output_length"]) for r in kept]
    assert [row[1:] for row in rows_of(trace)] == [row[1:] for row in expected]
    assert list(trace.times_s) == pytest.approx([row[0] for row in expected], abs=1e-9)
    assert [list(trace.hash_ids_of(i)) for i in range(len(kept))] == [r.get("hash_ids", []) for r in kept]
    assert (trace.rows, trace.broken) == (len(rows), 0)
