"""The CSV, read back by pandas: the numbers of the summary, to the last digit."""

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tests.core.made_records import an_ok
from tests.report.findings.made_rows import CHUNKED_PREFILL, a_row
from vllm_locust.core.recording import Recording
from vllm_locust.core.summary import summarize
from vllm_locust.report.table_csv import table_csv
from vllm_locust.results.rows import Row

DOCUMENT = Path(__file__).parents[2] / "docs" / "findings.md"


def read(rows: list[Row]) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(table_csv(rows)))


def a_summary() -> dict[str, Any]:
    random = np.random.default_rng(3)
    recording = Recording()
    for index in range(400):
        sent_s = index * 0.05
        recording.add(an_ok(sent_s, arrivals_s=(sent_s + np.cumsum(random.gamma(2, 0.1, 3))).tolist()))
    return json.loads(json.dumps(summarize(recording)))


def test_numbers_are_those_of_the_summary() -> None:
    summary = a_summary()
    (line,) = read([Row("r", "chat", summary, level=2.5, unit="requests/s")]).to_dict("records")
    for key in ("completed", "duration", "mean_ttft_ms", "p99_ttft_ms", "max_e2el_ms", "request_throughput"):
        assert line[key] == summary[key], key
    assert [line["p90_ttft_ms_low"], line["p90_ttft_ms_high"]] == summary["intervals"]["p90_ttft_ms"]
    assert (line["run"], line["workload"], line["level"], line["unit"]) == ("r", "chat", 2.5, "requests/s")


def test_odd_answers_are_counted() -> None:
    rows = [
        a_row(
            answers={
                "in_one_piece": 4,
                "shorter_than_asked": 0,
                "of_several_choices": 2,
                "sentences": ["4 of 10"],
            }
        ),
        a_row(),
    ]
    known, unknown = read(rows).to_dict("records")
    assert (known["answers_in_one_piece"], known["answers_shorter_than_asked"]) == (4, 0)
    assert known["answers_of_several_choices"] == 2
    assert np.isnan(known["answers_usage_above_asked"])
    assert np.isnan(unknown["answers_in_one_piece"])


def test_factors_are_columns() -> None:
    table = read(CHUNKED_PREFILL)
    assert list(table["max-num-batched-tokens"])[:3] == [64, 128, 256]
    assert table["enable-chunked-prefill"].dtype == bool
    failing = table[table["failed"] > 0]
    assert list(failing["run"]) == ["off-256", "off-512"]
    assert table.set_index("run").loc["on-512", "p99_itl_ms"] == 712.21


def test_what_is_not_known_is_empty_and_a_zero_is_a_zero() -> None:
    (line,) = read([a_row(mean_tpot_ms=None, failed=0, intervals={"p99_ttft_ms": [1.5, None]})]).to_dict(
        "records"
    )
    assert np.isnan(line["mean_tpot_ms"])
    assert np.isnan(line["phase"])
    assert line["failed"] == 0
    assert line["p99_ttft_ms_low"] == 1.5
    assert np.isnan(line["p99_ttft_ms_high"])


def test_a_factor_called_like_a_column_does_not_take_its_place() -> None:
    (line,) = read([a_row(workload="sharegpt", factors={"workload": "chats", "load": "x"})]).to_dict(
        "records"
    )
    assert (line["workload"], line["factor_workload"], line["load"]) == ("sharegpt", "chats", "x")


def test_rows_may_have_different_factors() -> None:
    table = read([a_row("a", factors={"x": 1}), a_row("b", factors={"y": 2})])
    assert table["x"].tolist()[0] == 1
    assert np.isnan(table["x"].tolist()[1])
    assert table["y"].tolist()[1] == 2


def test_names_with_commas_quotes_and_line_ends_come_back() -> None:
    name = 'a,"b"\nc | d'
    assert read([a_row(name)])["run"].tolist() == [name]


def test_what_the_server_said_and_what_the_measurement_is_worth() -> None:
    row = a_row(server={"kv_cache_usage_peak": 0.25, "preemptions": 0}, client={"verdict": "degraded"})
    (line,) = read([row]).to_dict("records")
    assert (line["server_kv_cache_usage_peak"], line["server_preemptions"]) == (0.25, 0)
    assert line["measurement"] == "degraded"


def test_no_rows_are_a_heading() -> None:
    assert len(table_csv([]).splitlines()) == 1


def test_the_documentation_names_every_column() -> None:
    told = DOCUMENT.read_text(encoding="utf-8")
    latencies = re.compile(r"(mean|std|p\d+|max)_(ttft|tpot|itl|e2el)_ms(_low|_high)?")
    columns = [one for one in table_csv([]).strip().split(",") if not latencies.fullmatch(one)]
    assert [column for column in columns if f"`{column}`" not in told] == []
