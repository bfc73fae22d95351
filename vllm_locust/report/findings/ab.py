"""Two configurations beside each other, number by number; whether a difference is real is for `compare`."""

from collections.abc import Callable, Iterator, Sequence

from vllm_locust.report.evidence import (
    configuration,
    grouped,
    mean,
    steady,
    trusted,
    work,
    work_word,
)
from vllm_locust.report.findings.finding import Finding
from vllm_locust.report.words import digits, ms
from vllm_locust.results.rows import Row

_NUMBERS: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("failed requests", "error_rate", lambda share: f"{share:.2%}"),
    ("TTFT P50", "p50_ttft_ms", ms),
    ("TTFT P99", "p99_ttft_ms", ms),
    ("TPOT mean", "mean_tpot_ms", ms),
    ("E2EL P50", "p50_e2el_ms", ms),
    ("requests per second", "request_throughput", digits),
    ("output tokens per second", "output_throughput", digits),
)


def ab(rows: Sequence[Row]) -> list[Finding]:
    """A note for each number, the first configuration being the base; per workload and load."""
    groups = grouped(steady(trusted(rows)), work)
    found = []
    for some in groups.values():
        sides = grouped(some, configuration)
        if len(sides) == 2:
            where = f" ({work_word(some[0])})" if len(groups) > 1 else ""
            found += list(_of_sides(sides, where))
    why = "There are not two configurations that a client could measure under the same load."
    return found or [Finding("A/B", "cannot tell", why)]


def _of_sides(sides: dict[str, list[Row]], where: str) -> Iterator[Finding]:
    (base, base_rows), (new, new_rows) = sides.items()
    for name, key, word in _NUMBERS:
        one, other = mean(base_rows, key), mean(new_rows, key)
        if one is None or other is None:
            why = f"{base if one is None else new} has no {name} that its sample determines."
            yield Finding(f"{name}{where}", "cannot tell", why)
        else:
            change = f" ({other.value / one.value - 1:+.1%})" if one.value else ""
            yield Finding(
                f"{name}{where}", "note", f"{base} {one.told(word)}, {new} {other.told(word)}{change}."
            )
    yield Finding(
        f"significance{where}", "note", "Whether these differences are real: `vllm-locust compare` tells."
    )
