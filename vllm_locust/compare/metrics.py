"""The metrics that runs are compared by: keys of a summary, and which direction is better.

Rule: a ratio is compared as a ratio (by logarithms), a share by its difference.
"""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from vllm_locust.core import comparison_blocks
from vllm_locust.core.summary import FAMILIES, FROM_PLAN, STATISTICS
from vllm_locust.errors import UsageError

DEFAULT = (
    "error_rate",
    "drop_rate",
    "p50_ttft_ms",
    "p99_ttft_ms",
    "mean_tpot_ms",
    "p99_tpot_ms",
    "p99_itl_ms",
    "p50_e2el_ms",
    "p99_e2el_ms",
    "request_throughput",
    "output_throughput",
    "request_goodput",
)
_RATES = {
    "request_throughput": "ok",
    "output_throughput": "output_tokens",
    "request_goodput": "good",
    "total_token_throughput": "tokens",
}
DROP_RATE = "drop_rate"
"""The one that is no key of a summary: requests that were never sent, of those planned."""
SHARES = ("error_rate", DROP_RATE)
SHARE_TOLERANCE = 0.01
"""The most by which a share may rise or fall and count as the same: one percentage point."""

_LATENCY = re.compile(rf"(?:p(?P<q>\d+(?:\.\d+)?)|(?P<word>{'|'.join(STATISTICS)}))_(?P<family>.+)_ms")
_OF_REQUESTS = ("ttft", "tpot", "e2el")


@dataclass(frozen=True, slots=True)
class Metric:
    """One key of a summary."""

    key: str
    better: Literal["lower", "higher"]

    @property
    def is_share(self) -> bool:
        """Whether the change is a difference and no ratio."""
        return self.key in SHARES

    @property
    def rests_on(self) -> tuple[str, ...]:
        """What must have been measured validly, as the `client` of a summary names it."""
        if self.key == "request_goodput":
            return ("load", "ttft", "tpot", "e2el")
        match = _LATENCY.fullmatch(self.key)
        if match is None:
            return ("load",) if self.key in _RATES else ()
        family = match["family"].removesuffix("_from_plan").removesuffix("_per_token")
        return (family, "load") if match["family"] in FROM_PLAN else (family,)

    def of_blocks(self) -> comparison_blocks.Metric | None:
        """How it is made from requests; None where it cannot be."""
        if self.key == "error_rate":
            return comparison_blocks.Metric("failed", "mean", log=False)
        if self.key in _RATES:
            return comparison_blocks.Metric(_RATES[self.key], "rate", log=True)
        match = _LATENCY.fullmatch(self.key)
        if match is None or match["family"] not in _OF_REQUESTS or match["word"] in ("std", "max"):
            return None
        how = "mean" if match["word"] == "mean" else float(match["q"] or 50)
        return comparison_blocks.Metric(match["family"], how, log=True)


def parse(keys: Sequence[str] | None) -> list[Metric]:
    """The metrics that are asked for, or the usual ones; UsageError for all that do not exist."""
    chosen = list(dict.fromkeys(keys or DEFAULT))
    if problems := [_unknown(key) for key in chosen if not _exists(key)]:
        raise UsageError(*problems)
    return [Metric(key, "higher" if key in _RATES else "lower") for key in chosen]


def _exists(key: str) -> bool:
    match = _LATENCY.fullmatch(key)
    if match is not None:
        return match["family"] in FAMILIES and (match["q"] is None or 0 < float(match["q"]) < 100)
    return key in SHARES or key in _RATES


def _unknown(key: str) -> str:
    families = [f"{word}_{family}_ms" for family in FAMILIES for word in ("mean", "p50", "p90", "p95", "p99")]
    known = [*SHARES, *_RATES, *families]
    close = difflib.get_close_matches(key, known)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    return (
        f"--metric knows no key {key!r}: {hint}keys are {', '.join((*SHARES, *_RATES))}, and mean_, median_, "
        f"max_, std_ or pXX_ with {', '.join(FAMILIES)} and _ms"
    )
