"""Runs a batch on the engine, and makes records of what came of it.

Rule: the time of a batch is the wall time of one call that is given all its requests, as `vllm bench
throughput` takes it; prompts were tokenised before. Nothing of what ran before is in the prefix cache, unless
it is to be.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from vllm_locust.core.record import OK, SERVER_ERROR_EVENT, RequestRecord
from vllm_locust.errors import UsageError
from vllm_locust.offline.batch import Batch, prompt_hash
from vllm_locust.offline.engine import Answer, Engine

_WARM_UP_TOKENS = 16
_PRIMER_TOKENS = 1
_AS_IT_WAS = "as it was"


@dataclass(frozen=True, slots=True)
class Measured:
    """One batch and what became of it."""

    batch: Batch
    began_s: float
    """`time.time` when the engine was given the batch."""
    elapsed_s: float
    answers: Sequence[Answer]
    """In the order of the batch; empty when the engine failed."""
    error: str | None = None
    cache: str = "cold"
    """What the prefix cache held at the begin: `cold`, `warm`, or `as it was` where it cannot be emptied."""


def warm_up(engine: Engine, batch: Batch) -> None:
    """Have a batch answered briefly that nobody measures: kernels are compiled, memory is touched.

    UsageError when the engine does not survive that: then there is nothing to be measured.
    """
    brief = [{**one, "max_tokens": min(one["max_tokens"], _WARM_UP_TOKENS)} for one in batch.sampling]
    try:
        engine.generate(batch.prompts, brief)
    except Exception as failure:
        raise UsageError(
            f"the engine failed in its warm-up, {type(failure).__name__}: {failure}"
        ) from failure


def measure(engine: Engine, batch: Batch, primers: Batch | None = None) -> Measured:
    """Run a batch with an empty prefix cache, or with one that holds what the `primers` put into it."""
    began_s, start_s = time.time(), time.perf_counter()
    answers: Sequence[Answer] = ()
    cache, error = _AS_IT_WAS, None
    try:
        cache = _fill_cache(engine, primers)
        began_s, start_s = time.time(), time.perf_counter()
        answers = engine.generate(batch.prompts, batch.sampling)
    except Exception as failure:  # the engine died: a result, and what was measured before stays one
        error = f"{type(failure).__name__}: {failure}"
    return Measured(batch, began_s, time.perf_counter() - start_s, answers, error, cache)


def _fill_cache(engine: Engine, primers: Batch | None) -> str:
    """Empty the prefix cache, and have the primers answered; what it holds then, see `Measured.cache`."""
    emptied = engine.forget()
    if primers is None:
        return "cold" if emptied else _AS_IT_WAS
    engine.generate(primers.prompts, [{**one, "max_tokens": _PRIMER_TOKENS} for one in primers.sampling])
    return "warm"


def records(measured: Measured, run_began_s: float, model: str, chat: bool) -> Iterator[RequestRecord]:
    """The requests of a batch on the run's axis, seconds since it began.

    Without times from vLLM a request was sent when the batch began and ended when the batch did, and has
    neither a first token nor a last one.
    """
    start_s = measured.began_s - run_began_s
    for position, request in enumerate(measured.batch.planned):
        record = RequestRecord(
            index=measured.batch.first_index + position,
            number=request.index,
            scenario=request.scenario,
            profile=request.profile,
            outcome=OK if measured.answers else SERVER_ERROR_EVENT,
            intended_s=start_s,
            sent_s=start_s,
            ended_s=start_s + measured.elapsed_s,
            error=measured.error,
            concurrency=len(measured.batch.planned),
            phase=measured.batch.phase,
            model=model,
            planned_prompt_tokens=request.prompt_tokens,
            max_tokens=request.max_tokens,
            prompt_hash=prompt_hash(request, chat),
        )
        yield _answered(record, measured.answers[position], run_began_s) if measured.answers else record


def _answered(record: RequestRecord, answer: Answer, run_began_s: float) -> RequestRecord:
    known = replace(
        record,
        prompt_tokens=answer.prompt_tokens,
        output_tokens=answer.output_tokens,
        cached_tokens=answer.cached_tokens,
        finish_reason=answer.finish_reason,
    )
    if (times := answer.times) is None:
        return known
    sent_s = times.arrival_s - run_began_s
    first_s = sent_s + times.ttft_s
    last_s = first_s + times.decode_s
    return replace(
        known, intended_s=sent_s, sent_s=sent_s, first_token_s=first_s, last_token_s=last_s, ended_s=last_s
    )
