"""Recorded traffic once more: the trace's own times and lengths, with prompts made for it.

A trace tells no texts. Where it tells hash ids, prompts share what the recorded ones did: each id is a block
of tokens, the same wherever it stands, and a last block that is not full is the beginning of it. Where it
tells none, every prompt is different from its first words on, and no prefix cache helps.
"""

import logging
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_locust.core.trace import UNITS
from vllm_locust.errors import UsageError
from vllm_locust.workloads.filler import Filler, Segment, filler
from vllm_locust.workloads.lengths import Lengths
from vllm_locust.workloads.scenario import Arrivals, Context, PlannedRequest, Scenario
from vllm_locust.workloads.trace_formats import Trace, read_trace

SMALL_TRACE = Path(__file__).parent / "data" / "trace_small.jsonl"

logger = logging.getLogger(__name__)

# A length that every way to fill a prompt takes, so that shorter requests can be asked about.
_LONG_ENOUGH = 1024


@dataclass(frozen=True, slots=True, eq=False)
class Replay:
    """The requests of a slice of a trace, in their order, and again in other words behind the last one."""

    name: str
    trace: Trace
    first: int
    """Where in the trace the slice begins."""
    arrivals: Arrivals
    filler: Filler
    max_tokens: Lengths | None
    source: Mapping[str, Any]

    @property
    def phases(self) -> Sequence[Scenario]:
        return (self,)

    @property
    def requests(self) -> int | None:
        """Those of the slice; None where it is sent again and again."""
        return len(self.arrivals.times_s) if self.arrivals.period_s is None else None

    def request(self, seed: int, index: int) -> PlannedRequest:
        turn, position = divmod(index, len(self.arrivals.times_s))
        position += self.first
        tokens = max(self.trace.input_tokens[position], self.filler.smallest_tokens)
        output = self.trace.output_tokens[position]
        if self.max_tokens is not None:
            output = self.max_tokens.at(self.name, seed, index, "max_tokens")
        return PlannedRequest(
            index=index,
            scenario=self.name,
            profile=self.name,
            prompt=self.filler.prompt(list(self._segments(seed, turn, position, tokens))),
            max_tokens=output,
            prompt_tokens=tokens if self.filler.exact else None,
        )

    def _segments(self, seed: int, turn: int, position: int, tokens: int) -> Iterator[Segment]:
        *full, last = self.trace.hash_ids_of(position) or (None,)
        for hash_id in full:
            yield Segment(self.trace.block, (self.name, "block", seed, turn, hash_id))
        key = ("request", seed, turn, position) if last is None else ("block", seed, turn, last)
        yield Segment(tokens - self.trace.block * len(full), (self.name, *key))


def replay(
    name: str,
    context: Context,
    *,
    speed: float,
    start_s: float,
    seconds: float,
    loop: bool,
    block: int,
    unit: str,
) -> Replay:
    """The trace at `context.dataset_path`, or the small one of the package, `speed` times as fast as it was.

    Of it the `seconds` from `start_s` on by its own clock, which begins at its first request; 0 seconds are
    all that follow. With `loop` it begins again, one mean gap behind its last request. What a hash
    id stands for (`block` tokens) and the `unit` of its times the format tells, where they are 0 and empty.
    """
    if context.input_len is not None:
        raise UsageError(
            f"--input-len does not go with scenario {name}, whose prompts are as long as the trace says: "
            "leave it out"
        )
    if speed == 0:
        raise UsageError(f"--set speed=0: the speed of scenario {name} is a number of more than 0")
    if unit and unit not in UNITS:
        raise UsageError(f"--set unit={unit}: the unit of scenario {name} is one of {', '.join(UNITS)}")
    path = context.dataset_path or SMALL_TRACE
    trace = read_trace(path, block or None, unit or None)
    first, behind = _slice(path, trace, start_s, seconds)
    start_s = trace.times_s[first]
    times_s = array("d", ((time_s - start_s) / speed for time_s in trace.times_s[first:behind]))
    lengths = trace.input_tokens[first:behind]
    filled = filler(context, Lengths.constant(max(_LONG_ENOUGH, *lengths)))
    _tell(path, trace, sum(tokens < filled.smallest_tokens for tokens in lengths), filled)
    return Replay(
        name=name,
        trace=trace,
        first=first,
        arrivals=Arrivals(times_s, _period_s(path, times_s) if loop else None, trace.unit),
        filler=filled,
        max_tokens=context.max_tokens,
        source={
            "path": str(path),
            "bytes": trace.size,
            "sha256": trace.sha256,
            "rows": trace.rows,
            "kept": len(times_s),
            "filtered": trace.failed + len(trace) - len(times_s),
            "skipped": trace.broken,
            "unit": trace.unit,
        },
    )


def _slice(path: Path, trace: Trace, start_s: float, seconds: float) -> tuple[int, int]:
    """The first request of a slice, and the one behind its last."""
    first = bisect_left(trace.times_s, start_s)
    behind = bisect_left(trace.times_s, start_s + seconds) if seconds else len(trace)
    if first == behind:
        wanted = f"from {start_s:g} s on" if not seconds else f"from {start_s:g} to {start_s + seconds:g} s"
        raise UsageError(
            f"{path} has no requests {wanted} (--set start and --set seconds): the trace goes from 0 to "
            f"{trace.times_s[-1]:g} s"
        )
    return first, behind


def _period_s(path: Path, times_s: Sequence[float]) -> float:
    """The time of the requests, and one mean gap more."""
    if not times_s[-1]:
        raise UsageError(
            f"{path} cannot be sent again and again, for all its requests come at the same time: "
            "leave --set loop out, or take a longer slice"
        )
    return times_s[-1] * len(times_s) / (len(times_s) - 1)


def _tell(path: Path, trace: Trace, too_short: int, filled: Filler) -> None:
    """Say what is sent otherwise than the file has it."""
    if trace.broken:
        logger.warning("%s: %d of %d rows are broken and left out", path, trace.broken, trace.rows)
    if too_short:
        logger.warning(
            "%s: %d requests of less than %d tokens are lengthened to that; "
            "--endpoint-type completions takes any length",
            path,
            too_short,
            filled.smallest_tokens,
        )
