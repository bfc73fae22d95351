"""The summary of an offline run: the keys of an online one, and those of `vllm bench throughput` beside.

Rule: totals are over the requests that were answered, and every rate divides by the wall time of the engine's
call (`duration`), as `vllm bench throughput` does. Latencies are vLLM's own times, from the moment in which
the engine was given a request; where it tells none of them they are null. Between tokens nobody looked, so
there is no ITL. The duration of a run of several phases is the sum of theirs.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from vllm_locust.core.record import OK, RequestRecord
from vllm_locust.core.recording import Recording
from vllm_locust.core.summary import summarize, summarize_phase
from vllm_locust.offline.measure import Measured
from vllm_locust.offline.reviews import reviews_of, same_reviews


def summarize_run(
    phases: Sequence[tuple[Measured, Sequence[RequestRecord]]],
    identity: Mapping[str, Any],
    classification: Sequence[int] = (),
) -> dict[str, Any]:
    """All numbers of a run, fit for JSON; `identity` leads it. `classification`: phases made of reviews."""
    whole = Recording()
    parts = []
    for measured, records in phases:
        number = measured.batch.phase
        recording = _recording(records)
        whole.merge(recording)
        description = {"name": measured.batch.name, "prefix_cache": measured.cache}
        part = summarize_phase(recording, number, description=description)
        part |= _totals(records, measured.elapsed_s)
        if number in classification:
            count = len(reviews_of(measured.batch.planned))
            part["reviews"] = count
            part["reviews_per_second"] = _ratio(count, measured.elapsed_s) if measured.answers else None
        parts.append(part)
    everything = [record for _, records in phases for record in records]
    elapsed_s = sum(measured.elapsed_s for measured, _ in phases)
    summary = {**identity, **summarize(whole), **_totals(everything, elapsed_s), "phases": parts}
    for numbers in (summary, *parts):
        del numbers["error_bounds"]  # the times are the engine's own: nothing is known of their error
    if len(classification) == 2:
        one, other = (
            measured.batch.planned for measured, _ in phases if measured.batch.phase in classification
        )
        summary["same_reviews"] = same_reviews(one, other)
    return summary


def _recording(records: Sequence[RequestRecord]) -> Recording:
    """Of those that failed, or have times: all of the others would lack what a latency is made of."""
    recording = Recording()
    for record in records:
        if record.outcome != OK or record.first_token_s is not None:
            recording.add(record)
    return recording


def _totals(records: Sequence[RequestRecord], elapsed_s: float) -> dict[str, Any]:
    answered = [record for record in records if record.outcome == OK]
    failed = len(records) - len(answered)
    prompts = sum(record.prompt_tokens or 0 for record in answered)
    outputs = sum(record.output_tokens or 0 for record in answered)
    cached = [record.cached_tokens for record in answered if record.cached_tokens is not None]
    promised = [record for record in answered if record.planned_prompt_tokens is not None]
    return {
        "completed": len(answered),
        "failed": failed,
        "dropped": 0,
        "error_rate": _ratio(failed, len(records)),
        "completed_without_usage": 0,
        "duration": elapsed_s,
        "total_input_tokens": prompts,
        "total_output_tokens": outputs,
        "total_cached_tokens": sum(cached) if cached else None,
        "request_throughput": _ratio(len(answered), elapsed_s),
        "output_throughput": _ratio(outputs, elapsed_s),
        "total_token_throughput": _ratio(prompts + outputs, elapsed_s),
        "max_output_tokens_per_s": None,
        # As `vllm bench throughput --output-json` calls them.
        "elapsed_time": elapsed_s,
        "num_requests": len(answered),
        "total_num_tokens": prompts + outputs,
        "requests_per_second": _ratio(len(answered), elapsed_s),
        "tokens_per_second": _ratio(prompts + outputs, elapsed_s),
        "avg_prompt_throughput": _ratio(prompts, elapsed_s),
        "avg_generation_throughput": _ratio(outputs, elapsed_s),
        "requests": {
            "planned": len(records),
            "ok": len(answered),
            "failed": failed,
            "dropped": 0,
            "outside_window": 0,
        },
        "prompt_lengths": {
            "promised": len(promised),
            "exact": sum(record.prompt_tokens == record.planned_prompt_tokens for record in promised),
        },
    }


def _ratio(numerator: float, denominator: float) -> float | None:
    return numerator / denominator if denominator else None
