"""Several probes of one load as one."""

import math

import pytest

from tests.core.made_recordings import a_recording, spread
from vllm_locust.core.evidence import conclude, pool
from vllm_locust.core.finding import Evidence, Finding
from vllm_locust.core.group import Group
from vllm_locust.core.share import share_interval
from vllm_locust.core.slo import Slo, parse_slo
from vllm_locust.core.summary import summarize


def test_pooled_probes_count_together():
    slos = [parse_slo("p95_ttft_ms<500"), parse_slo("max_ttft_ms<950"), parse_slo("mean_ttft_ms<500")]

    def probe(count, outside):
        recording = a_recording(spread(count, outside))
        return conclude(slos, recording.phase(0), summarize(recording))

    first, second = probe(60, 3), probe(180, 3)
    pooled = pool([first, second])
    share, most, mean = pooled.findings
    assert first.close
    assert (share.trials, share.inside) == (240, 234)
    assert share.worth == first.findings[0].worth + second.findings[0].worth
    assert (share.low, share.high) == share_interval(234 / 240 * share.worth, share.worth, 0.95)
    assert (share.outcome, share.close) == ("met", True)
    assert most.value == pytest.approx(900)
    assert (most.outcome, most.close) == ("met", False)
    assert (share.value, mean.value) == (None, None), "that of all 240 does not follow from the two"
    assert mean.values == tuple(probe.findings[2].value for probe in (first, second))
    assert mean.sentence == "mean_ttft_ms<500: 16.0326 to 47.0542 ms in 2 probes"
    low, high = sorted(f"{probe.findings[0].value:.6g}" for probe in (first, second))
    assert share.sentence == (
        f"p95_ttft_ms<500: {low} to {high} ms in 2 probes, 97.5 % of requests inside, 95 % needed"
    )
    assert pool([first]) == first


@pytest.mark.parametrize(
    ("text", "failed", "sentence", "outcome"),
    [
        ("failed==0", (3, 21), "24 of 124 requests failed", "missed"),
        ("failed<5", (4, 4), "8 of 108 requests failed", "met"),  # in each of the two
        ("failed<5", (4, 6), "10 of 110 requests failed", "missed"),
        ("error_rate<0.1", (1, 21), "22 of 122 requests failed", "missed"),
    ],
)
def test_pooled_failures_are_those_of_all_probes(text, failed, sentence, outcome):
    slos = [parse_slo(text)]
    recordings = [a_recording([100] * 50, count) for count in failed]
    (pooled,) = pool([conclude(slos, one.phase(0), summarize(one)) for one in recordings]).findings
    assert (pooled.sentence, pooled.outcome) == (f"{pooled.slo}: {sentence}", outcome)
    assert pooled.value in (None, pytest.approx(22 / 122))


def test_values_that_disagree_are_what_most_of_them_are_and_in_doubt_missed():
    def pooled(*values: float) -> Finding:
        slo = Slo("dropped", "==", 0.0)
        findings = [Finding(slo, "met" if value == 0 else "missed", value, 50) for value in values]
        return pool([Evidence((one,)) for one in findings]).findings[0]

    assert (pooled(0, 0, 21).outcome, pooled(0, 0, 21).close) == ("met", True)
    assert (pooled(0, 21).outcome, pooled(3, 21).close) == ("missed", False)
    assert pooled(3, 21).sentence == "dropped==0: 3 to 21 in 2 probes"
    assert pooled(3, 3).sentence == "dropped==0: 3"
    assert pooled(3, 21).excess == math.inf


def test_pooling_can_decide_what_no_probe_could():
    slo = parse_slo("p99_ttft_ms<500")
    ends = [conclude([slo], a_recording(spread(300)).phase(0), {}) for _ in range(3)]
    assert all(end.close for end in ends)
    pooled = pool(ends)
    assert (pooled.outcome, pooled.close) == ("met", False)


def test_a_broken_maximum_stays_broken_in_the_pool():
    slos = [parse_slo("max_ttft_ms<500")]
    good = conclude(slos, a_recording([100] * 50).phase(0), {})
    bad = conclude(slos, a_recording([100] * 50 + [900]).phase(0), {})
    assert pool([good, bad, good]).final


def test_only_the_same_objectives_can_be_pooled():
    one = conclude([parse_slo("max_ttft_ms<500")], Group(), {})
    other = conclude([parse_slo("max_ttft_ms<501")], Group(), {})
    with pytest.raises(ValueError, match="different objectives"):
        pool([one, other])
