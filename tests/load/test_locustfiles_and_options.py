"""Which options go with which of the locustfiles that we ship: each is obeyed, or refused in one sentence."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.locust_command import ROOT
from tests.zygote import output_of
from vllm_locust.workloads.sharegpt import SMALL_DATASET

PLAN = (
    "for requests of a scenario only, and no code of this locustfile's users names ask_next(), which asks "
    "for them."
)
LEVELS = "the levels of a ladder say how many"
ALWAYS = {"capacity": ("--slo", "p99_ttft_ms<500")}
"""What a locustfile cannot do without."""

PLAIN = ("chat", "conversation", "replay")
STEPPED = ("ladder", "capacity")


def for_all(names: Sequence[str], said: str) -> Mapping[str, str]:
    return dict.fromkeys(names, said)


# Options, and what is said where they are refused; "own" is custom_user.py.
TABLE: Sequence[tuple[Sequence[str], Mapping[str, str]]] = [
    ([], {}),
    (["--scenario", "ss"], {"own": PLAN}),
    (["--dataset-path", "{sharegpt}"], {"own": PLAN, "replay": "is no trace"}),
    (["--num-prompts", "5"], {"own": PLAN}),
    (["--max-tokens", "5"], {"own": PLAN}),
    (["--tokenizer", "here"], {"own": PLAN}),
    (["--vary", '5%:{"priority": 1}'], {"own": PLAN}),
    (["--lora-modules", "law"], {"own": PLAN}),
    (["--prefix-cache", "cold"], {"own": PLAN}),
    (["--lora-assignment", "round-robin"], {"own": PLAN, **for_all((*PLAIN, *STEPPED), "nothing to assign")}),
    (["--endpoint-type", "completions"], {"own": PLAN, "conversation": "needs --endpoint-type chat"}),
    (["--request-rate", "5"], {"own": PLAN, **for_all(STEPPED, "take --levels rate")}),
    (
        ["--request-rate", "5", "--levels", "rate"],
        {"own": PLAN, "ladder": "leave --request-rate", **for_all(PLAIN, "for one rate")},
    ),
    (["--levels", "rate"], {"own": PLAN, **for_all(PLAIN, "for one rate")}),
    (["--burstiness", "2"], {"own": PLAN, **for_all((*PLAIN, *STEPPED), "--burstiness")}),
    (["--levels", "rate", "--max-concurrency", "2"], {"own": PLAN, **for_all(PLAIN, "for one rate")}),
    (["--arrivals", "{times}"], {"own": PLAN, **for_all(STEPPED, "exclude levels of users")}),
    (
        ["--arrivals", "{times}", "--burstiness", "2"],
        {"own": PLAN, **for_all((*PLAIN, *STEPPED), "both say what gaps there are")},
    ),
    (["--ladder", "1,2"], {"capacity": "the search chooses its levels itself"}),
    (["--ladder", "1,2", "--levels", "rate"], {"own": PLAN, "capacity": "the search chooses"}),
    (["--ladder", "1,2", "--step-overlap"], {"capacity": "needs a --ladder"}),
    (["--step-time", "5s"], for_all((*PLAIN, "own"), "a run has --run-time")),
    (["--warmup", "5s"], for_all(STEPPED, "has --step-warmup")),
    (["--users", "0"], {"ladder": LEVELS, "capacity": "leaves a capacity search no user to try"}),
    (["--run-time", "5s"], for_all(STEPPED, "has --step-time")),
    (["--users", "4", "--spawn-rate", "4"], {"ladder": LEVELS}),
    (["--spawn-rate", "4"], for_all(STEPPED, "come at once")),
    (["--spawn-rate", "4", "--ladder", "1,4"], {"capacity": "chooses its levels itself"}),
    (["--users", "4", "--spawn-rate", "2"], {"ladder": LEVELS, "capacity": "come at once"}),
    (
        ["--users", "4", "--ladder", "1,2"],
        {"capacity": "chooses its levels itself", **for_all((*PLAIN, "ladder", "own"), LEVELS)},
    ),
    (
        ["--users", "4", "--levels", "rate"],
        {"own": PLAN, "ladder": LEVELS, "capacity": "--request-rate is", **for_all(PLAIN, "for one rate")},
    ),
    (["--set", "n=2"], {"own": PLAN, **for_all((*PLAIN, *STEPPED), "--set n=2: scenario")}),
    (["--input-len", "9"], {"own": PLAN, **for_all((*PLAIN, *STEPPED), "--input-len")}),
    *(
        (options, {})
        for options in (
            ["--seed", "3"],
            ["--model", "tiny", "--temperature", "0", "--extra-body", '{"top_p": 0.9}', "--no-ignore-eos"],
            ["--continuous-usage-stats", "--request-timeout", "9", "--routing", "round-robin", "--insecure"],
            ["--api-key", "k", "--header", "A=b"],
            ["--results-dir", "r", "--no-report", "--slo", "failed==0", "--goodput", "ttft:5"],
            ["--profiler", "--server-metrics-url", "off", "--server-metrics-interval", "2"],
            ["--server-log", "vllm.log", "--exporter-port", "off"],
        )
    ),
]
LOCUSTFILES = {name: name for name in ("chat", "conversation", "replay", "ladder", "capacity")}
LOCUSTFILES["own"] = "custom_user"


@pytest.mark.parametrize("name", LOCUSTFILES)
def test_every_option_is_obeyed_or_refused(tmp_path: Path, name: str) -> None:
    times = tmp_path / "times"
    times.write_text("0\n1\n")
    places = {"{times}": str(times), "{sharegpt}": str(SMALL_DATASET)}
    given = ("--headless", *ALWAYS.get(name, ()))
    lines = [[*given, *(places.get(word, word) for word in options)] for options, _ in TABLE]
    path = ROOT / "locustfiles" / f"{LOCUSTFILES[name]}.py"
    command = ("vllm_locust.load.command_lines", str(path))
    told = json.loads(output_of(*command, given=json.dumps(lines)))
    for (options, refused), problems in zip(TABLE, told, strict=True):
        if name not in refused:
            assert problems == [], options
        else:
            assert any(refused[name] in problem for problem in problems), (options, problems)
        if refused.get(name) is PLAN:
            assert len(problems) == 1, "no other option would mend that"
