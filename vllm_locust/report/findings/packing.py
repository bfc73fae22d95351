"""Many reviews in one prompt or one in each: which classifies more of them per second.

Rule: requests are not compared, reviews are: a packed request answers n of them. n is the run's factor `n`,
else what the summary counts as `reviews` per request, else the tokens of an answer, since a packed prompt
asks for one token per review.
"""

from collections.abc import Iterator, Mapping, Sequence

from vllm_locust.report.evidence import (
    Mean,
    configuration,
    exceeds,
    factor,
    failed,
    grouped,
    larger,
    mean,
    means,
    number,
    numeric_factor,
    times,
    trusted,
)
from vllm_locust.report.findings.finding import Finding, by_chance, confirmed_if
from vllm_locust.report.words import digits, listed
from vllm_locust.results.rows import Row

_PACKED, _SINGLE = "packed", "single"

_Cells = Mapping[int, Sequence[Row]]
"""Rows by n."""


def packing(rows: Sequence[Row]) -> list[Finding]:
    """Packed against single, tokens per second, the best n, and what duplicates bring; per configuration."""
    known = [
        row for row in trusted(rows) if _kind(row) and not failed(row) and number(row, _RATE) is not None
    ]
    groups = grouped(known, configuration)
    if not groups:
        return [_against({}, [])]
    return [
        Finding(f"{found.name} ({run})" if len(groups) > 1 else found.name, found.verdict, found.sentence)
        for run, some in groups.items()
        for found in _of_group(some)
    ]


def _of_group(rows: Sequence[Row]) -> Iterator[Finding]:
    once = [row for row in rows if _copies(row) == 1]
    packed = _by_reviews([row for row in once if _kind(row) == _PACKED])
    single = [row for row in once if _kind(row) == _SINGLE]
    yield _against(packed, single)
    if len({numeric_factor(row, "n") for row in single}) < 2:  # else they are no repeats of one another
        yield from _tokens(packed, single)
        yield from _best(packed, single)
    yield from _duplicates(rows)


_RATE = "request_throughput"


def _kind(row: Row) -> str | None:
    """Packed or single, by the workload's or the profile's name, or the factor `packing`."""
    words = (str(factor(row, "packing") or ""), row.workload, row.profile or "")
    return next((kind for kind in (_PACKED, _SINGLE) if any(kind in word for word in words)), None)


def _copies(row: Row) -> float:
    return numeric_factor(row, "copies") or 1


def _by_reviews(rows: Sequence[Row]) -> _Cells:
    cells = grouped(rows, _reviews)
    return {n: cells[n] for n in sorted(cells) if n}


def _reviews(row: Row) -> int:
    """Reviews in a request; 0 when nothing tells."""
    n = numeric_factor(row, "n")
    completed = row.numbers.get("completed")
    for total in ("reviews", "total_output_tokens"):
        if n is None and completed and row.numbers.get(total):
            n = row.numbers[total] / completed
    return round(n or 0)


def _singles(single: Sequence[Row], n: int) -> Mean | None:
    """Reviews per second one by one: of the same n reviews where runs say which, else of all."""
    same = [row for row in single if numeric_factor(row, "n") == n]
    return mean(same or single, _RATE)


def _against(packed: _Cells, single: Sequence[Row]) -> Finding:
    name = "one review per prompt is quicker than packing"
    rates = means(packed, _RATE)
    pairs = [(n, rate.scaled(n), one) for n, rate in rates.items() if (one := _singles(single, n))]
    if not pairs:
        return Finding(
            name, "cannot tell", "There are no packed and single runs with a throughput to compare."
        )
    quicker = [exceeds(one, many) for _, many, one in pairs]
    slower = [exceeds(many, one) for _, many, one in pairs]
    unclear = None if None in (*quicker, *slower) else False
    truth = False if True in slower else True if True in quicker and None not in slower else unclear
    told = [f"{many.told()} packed, {one.told()} single at n = {n}" for n, many, one in pairs]
    behind = [value for _, many, one in pairs for value in (many, one)]
    return Finding(name, confirmed_if(truth, behind), f"Reviews per second: {listed(told)}.")


def _tokens(packed: _Cells, single: Sequence[Row]) -> Iterator[Finding]:
    tokens = {f"{n} per prompt": value for n, value in means(packed, "total_token_throughput").items()}
    if (ones := mean(single, "total_token_throughput")) is not None:
        tokens["one per prompt"] = ones
    if len(tokens) > 1:
        told = [f"{value.told()} with {name}" for name, value in tokens.items()]
        yield Finding("tokens per second", "note", f"Prompt and output tokens per second: {listed(told)}.")


def _best(packed: _Cells, single: Sequence[Row]) -> Iterator[Finding]:
    """The n with the most reviews per second."""
    rates = {n: rate.scaled(n) for n, rate in means(packed, _RATE).items()}
    if (ones := mean(single, _RATE)) is not None:
        rates[1] = ones
    if len(rates) > 1:
        first, second = sorted(rates, key=lambda n: -rates[n].value)[:2]
        told = [f"{digits(rates[n].value)} at {n}" for n in sorted(rates, reverse=True)]
        only = "" if larger(rates[first].value, rates[second].value) else f", hardly more than at {second}"
        yield Finding(
            "best reviews per prompt",
            "note",
            f"Most reviews per second came at n = {first}{only}: {listed(told)}{by_chance(rates.values())}.",
        )


def _duplicates(rows: Sequence[Row]) -> Iterator[Finding]:
    """What sending each request several times brings, by kind."""
    for kind in (_PACKED, _SINGLE):
        cells = grouped(
            [row for row in rows if _kind(row) == kind], lambda row: (_reviews(row), _copies(row))
        )
        rates = means(cells, _RATE)
        for (n, copies), rate in rates.items():
            once = rates.get((n, 1.0))
            if copies > 1 and once is not None:
                share = _cached(cells[n, copies])
                cached = (
                    "" if share is None else f"; {share:.0%} of the prompt tokens came from the prefix cache"
                )
                yield Finding(
                    f"duplicates, {kind}, n = {n}" if kind == _PACKED else f"duplicates, {kind}",
                    confirmed_if(exceeds(rate, once), (rate, once)),
                    f"Each request {copies:g} times: {rate.told()} req/s against {once.told()} "
                    f"({times(rate.value, once.value)}){cached}.",
                )


def _cached(rows: Sequence[Row]) -> float | None:
    cached, prompts = mean(rows, "total_cached_tokens"), mean(rows, "total_input_tokens")
    if cached is not None and prompts is not None and prompts.value:
        return cached.value / prompts.value
    hits = mean(rows, "server.prefix_cache_hit_rate")
    return None if hits is None else hits.value
