"""What was sent, in tables: a row per profile and one for all of them.

Rule: 110 columns at most. What is not known prints as `n/a`, never as 0, and why it is not known is said.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from textwrap import fill

from vllm_locust.report.sent import Conversations, Sent, SentByProfile, Spread

WIDTH = 110

_BLOCKS = " ▁▂▃▄▅▆▇█"
_TITLE_WIDTH = 22
"""Of the first column, so that the tables stand in line."""
_LONG_NAME_WIDTH = 80
"""Of models and hosts, which may be paths and URLs."""
_NOT_KNOWN = "n/a"
_ALL = "all"

_Cells = Callable[[Sent], Sequence[str]]


def render_sent(sent: SentByProfile, server_hit_rate: float | None = None) -> str:
    """The tables; ends with a newline. `server_hit_rate` is what the server's own metrics say, 0..1."""
    if not sent.total.planned:
        return "No requests were recorded.\n"
    rows = [*sent.profiles, *([sent.total] if len(sent.profiles) > 1 else ())]
    blocks = [
        _requests(rows, sent.total),
        _arrivals(rows),
        _lengths("prompt tokens", rows, sent.total.prompt_tokens, lambda one: one.prompt_tokens),
        chain(
            _lengths("output tokens", rows, sent.total.output_tokens, lambda one: one.output_tokens),
            _without_usage(sent.total),
        ),
        _spreads(rows, sent.total),
        _as_planned(rows, sent.total),
        _cached(rows, sent.total, server_hit_rate),
        _shares("models asked", sent.total.models),
        _shares("targets", sent.total.targets),
        _conversations(sent.conversations),
    ]
    return "\n\n".join("\n".join(lines) for block in blocks if (lines := list(block))) + "\n"


def _requests(rows: Sequence[Sent], total: Sent) -> Iterator[str]:
    def cells(one: Sent) -> Sequence[str]:
        prompts = one.prompts
        counts = (one.planned, one.dropped, one.sent, one.answered, one.sent - one.answered)
        repeats = (prompts.distinct, prompts.repeated, prompts.most_frequent) if prompts else (None,) * 3
        return [_whole(value) for value in (*counts, *repeats)]

    heads = ["planned", "dropped", "sent", "answered", "failed", "distinct", "repeats", "most"]
    yield from _table("requests", heads, rows, cells)
    if total.failures:
        yield from _note(f"Failed: {_counts(total.failures)}.")
    if total.prompts is None:
        yield from _note("Which prompts were the same was not recorded.")
    else:
        yield from _note(
            "distinct = different prompts, repeats = requests whose prompt an earlier one had, "
            "most = requests with the most frequent prompt."
        )


def _arrivals(rows: Sequence[Sent]) -> Iterator[str]:
    def cells(one: Sent) -> Sequence[str]:
        seen = one.arrivals
        late = (seen.mean_late_ms, seen.p50_late_ms, seen.p99_late_ms, seen.max_late_ms)
        return [_decimal(seen.rate, 2), *(_decimal(value, 2) for value in late)]

    heads = ["offered req/s", "late, ms: mean", "p50", "p99", "max"]
    yield from _table("arrivals", heads, rows, cells)
    yield from _note(
        "offered = as planned, dropped ones too (n/a: one, or all at one time); "
        "late = sent after the intended start."
    )


def _lengths(
    title: str, rows: Sequence[Sent], total: Spread | None, spread_of: Callable[[Sent], Spread | None]
) -> Iterator[str]:
    def cells(one: Sent) -> Sequence[str]:
        if (spread := spread_of(one)) is None:
            return ["0", *[_NOT_KNOWN] * 8]
        low, high = (spread.min, spread.p10, spread.p50), (spread.p90, spread.p99, spread.max, spread.total)
        low_cells, high_cells = ([f"{value:.0f}" for value in values] for values in (low, high))
        return [str(spread.n), *low_cells, f"{spread.mean:.1f}", *high_cells]

    if total is not None:
        heads = ["answers", "min", "p10", "p50", "mean", "p90", "p99", "max", "total"]
        yield from _table(title, heads, rows, cells)


def _without_usage(total: Sent) -> Iterator[str]:
    """What the two tables of lengths leave out."""
    if total.answered and total.prompt_tokens is None and total.output_tokens is None:
        yield from _note("Lengths of prompts and answers are not known: no answer had a usage.")
    elif total.without_usage:
        yield from _note(f"Answers without usage, whose lengths are not known: {total.without_usage}.")


def _spreads(rows: Sequence[Sent], total: Sent) -> Iterator[str]:
    def bars(spread: Spread | None) -> str:
        return f"|{_bars(spread.histogram.counts)}|" if spread else _NOT_KNOWN

    pairs = [(bars(one.prompt_tokens), bars(one.output_tokens)) for one in rows]
    heads = (_ends("prompt tokens", total.prompt_tokens), _ends("output tokens", total.output_tokens))
    if total.prompt_tokens is None and total.output_tokens is None:
        return
    width = max(len(left) for left, _ in [heads, *pairs]) + 3
    yield f"{'spread, log scale':<{_TITLE_WIDTH}}  {heads[0]:<{width}}{heads[1]}".rstrip()
    for one, (left, right) in zip(rows, pairs, strict=True):
        yield f"{_name(one):<{_TITLE_WIDTH}}  {left:<{width}}{right}".rstrip()
    yield from _note(
        "From the shortest to the longest of all; the highest bar of each line is its fullest bin."
    )


def _ends(title: str, spread: Spread | None) -> str:
    if spread is None:
        return title
    ends = str(spread.min) if spread.min == spread.max else f"{spread.min} .. {spread.max}"
    return f"{title}: {ends}"


def _bars(counts: Sequence[int]) -> str:
    """A character per bin, the fullest as high as can be; one that is not empty is seen."""
    top = max(counts)
    return "".join(_BLOCKS[-(-count * (len(_BLOCKS) - 1) // top)] for count in counts)


def _as_planned(rows: Sequence[Sent], total: Sent) -> Iterator[str]:
    if not total.answered:
        return
    heads: list[str] = []
    notes: list[str] = []
    if total.promised is not None:
        heads += ["promised", "exact", "worst off"]
        notes.append(
            "promised = answered requests whose exact prompt length was planned, exact = the server counted "
            "just as many tokens, worst off = by so many more or less."
        )
    if total.answers.n:
        heads += ["answers", "as asked", "shorter", "longer"]
        notes.append("as asked = answers of just as many tokens as were asked for (max_tokens).")

    def cells(one: Sent) -> Sequence[str]:
        prompts = _promised_cells(one) if total.promised is not None else ()
        return [*prompts, *(_answers_cells(one) if total.answers.n else ())]

    yield from _table("as planned?", heads, rows, cells) if heads else ("as planned?",)
    if not heads:
        yield from _note("How long prompts and answers were to be was not recorded.")
    for note in [*notes, f"Answers ended by: {_counts(total.answers.finish_reasons)}."]:
        yield from _note(note)


def _promised_cells(one: Sent) -> Sequence[str]:
    if (seen := one.promised) is None:
        return ["0", _NOT_KNOWN, _NOT_KNOWN]
    return [str(seen.n), str(seen.exact), f"{seen.worst:+d}" if seen.worst else "0"]


def _answers_cells(one: Sent) -> Sequence[str]:
    seen = one.answers
    counts = (seen.as_asked, seen.shorter, seen.longer) if seen.n else (None,) * 3
    return [str(seen.n), *(_whole(value) for value in counts)]


def _cached(rows: Sequence[Sent], total: Sent, server_hit_rate: float | None) -> Iterator[str]:
    def cells(one: Sent) -> Sequence[str]:
        if (seen := one.cached) is None:
            return ["0", *[_NOT_KNOWN] * 4]
        counts = (seen.n, seen.hits, seen.cached_tokens, seen.prompt_tokens)
        return [*(str(value) for value in counts), _percent(seen.share)]

    if total.cached is not None:
        heads = ["answers", "with a hit", "cached tokens", "prompt tokens", "cached %"]
        yield from _table("prefix cache", heads, rows, cells)
        if total.cached.untold:
            yield from _note(
                f"Answers that did not tell: {total.cached.untold}. If nothing was cached there, the share "
                f"of all is {_percent(total.cached.least_share)} %."
            )
    elif total.answered:
        yield "prefix cache"
        yield from _note(
            "The answers do not tell cached tokens: start vLLM with --enable-prompt-tokens-details to know."
        )
    if server_hit_rate is not None:
        yield from _note(
            "The server's own prefix cache hit rate (from its metrics, over the measured window, "
            f"whoever asked): {_percent(server_hit_rate)} %."
        )


def _shares(title: str, counts: Mapping[str, int]) -> Iterator[str]:
    """Only where there is a choice."""
    if len(counts) < 2:
        return
    total = sum(counts.values())
    rows = [
        (_cut(f"  {name}", _LONG_NAME_WIDTH), [str(count), _percent(count / total)])
        for name, count in counts.items()
    ]
    yield from _aligned(title, ["requests", "%"], rows)


def _conversations(talks: Sequence[Conversations]) -> Iterator[str]:
    if not talks:
        return
    counts = [
        (_cut(f"  {talk.scenario}"), [str(talk.count), _decimal(talk.mean_turns, 1), str(talk.max_turns)])
        for talk in talks
    ]
    yield from _aligned("conversations", ["number", "turns: mean", "max"], counts)
    for talk in talks:
        yield ""
        yield from _turns(talk)


def _turns(talk: Conversations) -> Iterator[str]:
    rows = []
    for turn in talk.turns:
        name = "all from turn 2 on" if turn.turn == "2+" else f"turn {turn.turn}"
        means = (_decimal(turn.mean_ttft_ms, 1), _decimal(turn.mean_prompt_tokens, 1))
        rows.append((f"  {name}", [str(turn.requests), *means, _percent(turn.cached_share)]))
    heads = ["requests", "mean TTFT ms", "mean prompt tokens", "cached %"]
    yield from _aligned(_cut(talk.scenario), heads, rows)


def _table(title: str, heads: Sequence[str], rows: Sequence[Sent], cells: _Cells) -> Iterator[str]:
    return _aligned(title, heads, [(_name(one), cells(one)) for one in rows])


def _aligned(title: str, heads: Sequence[str], rows: Iterable[tuple[str, Sequence[str]]]) -> Iterator[str]:
    """Lines with a name and columns of numbers, as wide as what is in them, and two spaces apart."""
    lines = [(title, heads), *rows]
    names = max(_TITLE_WIDTH, *(len(name) for name, _ in lines))
    widths = [max(map(len, column)) for column in zip(*(cells for _, cells in lines), strict=True)]
    for name, cells in lines:
        numbers = "".join(f"  {cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        yield f"{name:<{names}}{numbers}"


def _name(one: Sent) -> str:
    return _cut(f"  {_ALL if one.profile is None else one.profile}")


def _cut(name: str, width: int = _TITLE_WIDTH) -> str:
    return name if len(name) <= width else name[: width - 1] + "~"


def _note(sentence: str) -> Iterator[str]:
    yield fill(sentence, WIDTH, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _whole(value: int | None) -> str:
    return _NOT_KNOWN if value is None else str(value)


def _decimal(value: float | None, decimals: int) -> str:
    return _NOT_KNOWN if value is None else f"{value:.{decimals}f}"


def _percent(share: float | None) -> str:
    return _NOT_KNOWN if share is None else f"{share * 100:.1f}"
