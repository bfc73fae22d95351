"""Every format of a trace gives its times, and what is wrong with one is said in one sentence."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_locust.core.trace import read_trace, rescale
from vllm_locust.errors import UsageError

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:17:03.9799600,4808,10
2023-11-16 18:17:04.0319600,3180,8
2023-11-17 18:17:04.0781490,110,27
"""
AZURE_S = (0.0, 0.052, 86400.098189)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("0\n0.5\n\n0.5\n1e1\n", (0, 0.5, 0.5, 10)),
        ("  100 \r\n101.5", (0, 1.5)),
        ("\n\n7\n", (0,)),
        ("-3\n-1\n", (0, 2)),
        ("2024-05-10T00:00:00Z\n2024-05-10 02:00:01+02:00\n2024-05-10 00:00:02", (0, 1, 2)),
        (AZURE, AZURE_S),
        (AZURE.replace("\n", "\r\n").rstrip(), AZURE_S),
        ("\ufeff" + AZURE, AZURE_S),
        ("Timestamp,Model,Log Type\n5,ChatGPT,API log\n45,GPT-4,\n", (0, 40)),
        ('id, arrival_time \n"a,b",1\n"c\nd",2.5\n', (0, 1.5)),
        ("time,Arrived_At\n9,1\n8,2\n", (0, 1)),
        ("\n\ntime\n1\n\n2\n", (0, 1)),
        ('{"timestamp": 1}\n\n{"x": [{}], "timestamp": 3.5}\n', (0, 2.5)),
        ('{"Time": "2024-05-10 00:00:00.25"}\n{"Time": "2024-05-10 00:00:01"}', (0, 0.75)),
        (' {"arrived_at": "1.5"}\n{"arrived_at": 2}', (0, 0.5)),
    ],
)
def test_traces(tmp_path, content, expected):
    path = tmp_path / "trace"
    path.write_text(content, encoding="utf-8", newline="")
    assert read_trace(path).times_s == pytest.approx(expected, abs=1e-9)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50).map(sorted))
def test_a_trace_that_was_written_reads_back(tmp_path_factory, trace):
    path = tmp_path_factory.mktemp("traces") / "trace"
    for content in (
        "\n".join(map(repr, trace)),
        "n,timestamp\n" + "\n".join(f"{n},{t!r}" for n, t in enumerate(trace)),
        "\n".join(f'{{"timestamp": {t!r}}}' for t in trace),
    ):
        path.write_text(content, encoding="utf-8")
        assert read_trace(path, "s").times_s == tuple(t - trace[0] for t in trace)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (
            b"",
            "holds no arrivals: expected is one time per line, or CSV or JSON lines with one of timestamp,",
        ),
        (b"\n  \n", "holds no arrivals"),
        (b"timestamp\n", "holds no arrivals"),
        (b"start,end\n1,2\n", "begins with 'start,end': expected is"),
        (b"1.0,5\n2.0,6\n", "begins with '1.0,5': expected is"),
        (b"[1, 2]", "begins with '[1, 2]': expected is"),
        (b"1\ntwo\n", "has 'two' in line 2, where a number of seconds is expected"),
        (b"1\n\nnan\n", "has 'nan' in line 3, where a number of seconds is expected"),
        (b"1\ninf\n", "has 'inf' in line 2"),
        (b"1\n2024-05-10\n", "has '2024-05-10' in line 2, where a number of seconds is expected"),
        (b"2024-05-10\n1\n", "has '1' in line 2, where a date-time is expected"),
        (b"a,time\n1,x\n", "has 'x' in line 2, where a number of seconds or an ISO date-time is expected"),
        (b'a,time\n"1\n1",2\n3\n', "has '' in line 4, where a number of seconds is expected"),
        (b"\n\ntime\n1\n\nx\n", "has 'x' in line 6"),
        (b'{"timestamp": 1}\n{"timestamp": true}\n', "has True in line 2, where a number of seconds"),
        (b'{"timestamp": null}\n', "has None in line 1, where a number of seconds or an ISO date-time"),
        (b'{"timestamp": 1}\n\n{"timestamp": 1\n', "has no JSON object in line 3 ("),
        (
            b'{"timestamp": 1}\n5\n',
            "has none of the keys timestamp, arrival_time, arrived_at, time in line 2",
        ),
        (b'{"start": 1}\n', "has none of the keys timestamp, arrival_time, arrived_at, time in line 1"),
        (b"1\n3\n2\n", "goes back in time in line 3, with '2': it must be sorted"),
        (b'{"timestamp": 2}\n{"timestamp": 1}\n', "goes back in time in line 2, with 1: it must be sorted"),
        (b"\xff\xfe1\x00", "cannot be read as text or CSV ("),
        (b"time\n" + b"1" * 200_000, "cannot be read as text or CSV ("),
    ],
)
def test_what_is_wrong_with_a_trace_is_said_in_one_sentence(tmp_path, content, why):
    path = tmp_path / "trace.csv"
    path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        read_trace(path)
    (problem,) = caught.value.problems
    assert problem.startswith(f"--arrivals '{path}' {why}")


def test_a_trace_that_cannot_be_read(tmp_path):
    with pytest.raises(UsageError, match=r"^--arrivals '.*missing' cannot be read \(No such file"):
        read_trace(tmp_path / "missing")
    with pytest.raises(UsageError, match=r"^--arrivals '.*' cannot be read \(Is a directory\)"):
        read_trace(tmp_path)


MOONCAKE = '{"timestamp": %d, "input_length": 1, "output_length": 1, "hash_ids": [1]}'
BAILIAN = '{"chat_id": 1, "parent_chat_id": -1, "timestamp": %s, "input_length": 1, "output_length": 1}'


@pytest.mark.parametrize(
    ("lines", "unit", "last_s"),
    [
        ([MOONCAKE % ms for ms in (0, 3000, 3_537_000)], "ms", 3537),
        ([BAILIAN % s for s in (61.114, 62.5, 70.614)], "s", 9.5),
        (["1764550000123", "1764550001623"], "ms", 1.5),
        (["1764550000", "1764550001.5"], "s", 1.5),
        # Dates of 2025 in seconds, of every format, and however seldom.
        ([str(1_760_000_000 + 1000 * n) for n in range(40)], "s", 39_000),
        ([MOONCAKE % (1_760_000_000 + 9 * n) for n in range(40)], "s", 351),
        ([BAILIAN % (1_760_000_000 + 1000 * n) for n in range(40)], "s", 39_000),
        (["timestamp,Request tokens,Response tokens", *(f"{4 * n},1,1" for n in range(50))], "s", 196),
        (["2024-05-10", "2024-05-11"], "date-times", 86400),
        (["0", "40"], "s", 40),
        ([str(1_700_000_000_000 + 200 * n) for n in range(40)], "ms", 7.8),
        ([str(1_700_000_000_000_000 + 200_000 * n) for n in range(40)], "us", 7.8),
        ([str(1_700_000_000_000_000_000 + 200_000_000 * n) for n in range(40)], "ns", 7.8),
        ([str(2 * n) for n in range(9)], "s", 16),
        ([str(n) for n in range(40)], "s", 39),
        ([str(2.5 * n) for n in range(40)], "s", 97.5),
    ],
)
def test_the_format_tells_the_unit(tmp_path, lines, unit, last_s):
    path = tmp_path / "trace"
    path.write_text("\n".join(lines))
    times = read_trace(path)
    assert (times.unit, times.times_s[-1]) == (unit, pytest.approx(last_s, abs=1e-6))


def test_numbers_that_are_hardly_seconds_are_asked_about(tmp_path):
    """12 000 arrivals in an hour, in milliseconds: as seconds they would last 41 days."""
    path = tmp_path / "trace.txt"
    path.write_text("\n".join(str(295 * n) for n in range(12_000)))
    with pytest.raises(UsageError) as caught:
        read_trace(path)
    assert caught.value.problems == [
        f"--arrivals '{path}' does not tell the unit of its times: in s they are 0.00339 requests/s on "
        f"average, in ms 3.39; say which with --arrivals {path}:s or --arrivals {path}:ms."
    ]
    assert read_trace(path, "ms").times_s[-1] == pytest.approx(3539.705)
    assert read_trace(path, "s").times_s[-1] == 295 * 11_999


def burstgpt(gap: int) -> list[str]:
    return ["Timestamp,Request tokens,Response tokens", *(f"{gap * n},1,1" for n in range(50))]


AZURE_IN_NUMBERS = ["TIMESTAMP,ContextTokens,GeneratedTokens", *(f"{10 * n},40,4" for n in range(40))]


@pytest.mark.parametrize(
    ("lines", "unit", "rate", "other", "other_rate"),
    [
        ([str(200_000 * n) for n in range(40)], "s", "5e-06", "us", "5"),
        ([str(200_000_000 * n) for n in range(40)], "s", "5e-09", "ns", "5"),
        ([str(250 * n) for n in range(9)], "s", "0.004", "ms", "4"),
        ([str(10 * n) for n in range(40)], "s", "0.1", "ms", "100"),
        (AZURE_IN_NUMBERS, "s", "0.1", "ms", "100"),
        ([str(25.5 * n) for n in range(40)], "s", "0.03922", "ms", "39.22"),
        ([MOONCAKE.replace("%d", f"{n / 5}") for n in range(9)], "ms", "5000", "s", "5"),
        ([MOONCAKE % (9 * n) for n in range(40)], "ms", "111.1", "s", "0.1111"),
        (burstgpt(40), "s", "0.025", "ms", "25"),
        (burstgpt(11), "s", "0.09091", "ms", "90.91"),
        (["timestamp", *(f"{10.5 * n}" for n in range(40))], "s", "0.09524", "ms", "95.24"),
        # Dates of 2001, were they not so far apart.
        ([str(10**12 + 2 * 10**8 * n) for n in range(40)], "ms", "5e-06", "ns", "5"),
    ],
)
def test_numbers_that_another_unit_fits_as_well_are_asked_about(
    tmp_path, lines, unit, rate, other, other_rate
):
    path = tmp_path / "trace"
    path.write_text("\n".join(lines))
    with pytest.raises(UsageError) as caught:
        read_trace(path)
    assert caught.value.problems == [
        f"--arrivals '{path}' does not tell the unit of its times: in {unit} they are {rate} requests/s on "
        f"average, in {other} {other_rate}; say which with --arrivals {path}:{unit} or "
        f"--arrivals {path}:{other}."
    ]
    for known, per_second in ((unit, rate), (other, other_rate)):
        times_s = read_trace(path, known).times_s
        assert (len(times_s) - 1) / times_s[-1] == pytest.approx(float(per_second), rel=1e-3)


@given(st.lists(st.floats(0, 1e5), min_size=2, max_size=50).map(sorted), st.floats(0.01, 1e4))
def test_a_rescaled_trace_has_the_rate(trace, rate):
    if trace[-1] - trace[0] < 1e-3:
        trace = [*trace, trace[-1] + 1]
    rescaled = rescale(trace, rate)
    assert rescaled[0] == 0
    assert (len(rescaled) - 1) / rescaled[-1] == pytest.approx(rate)
    shape, was = np.array(rescaled) / rescaled[-1], np.array(trace) - trace[0]
    assert shape == pytest.approx(was / was[-1])


@pytest.mark.parametrize("trace", [(0.0,), (0.0, 0.0)])
def test_a_trace_without_length_cannot_be_rescaled(trace):
    with pytest.raises(UsageError, match="--request-rate cannot stretch a trace"):
        rescale(trace, 5.0)
