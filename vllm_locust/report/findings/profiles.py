"""Short and long prompts and answers under rising load: four hypotheses about TTFT and TPOT.

H1  TTFT grows with the length of the prompt while load is low
H2  TPOT is decode's: hardly touched by the prompt's length, it worsens with concurrency
H3  at high load waiting is most of TTFT; short prompts with long answers have the largest
H4  answers of one token have no TPOT
"""

from collections.abc import Iterator, Mapping, Sequence

from vllm_locust.report.evidence import (
    Mean,
    complete,
    configuration,
    every,
    exceeds,
    failed,
    grouped,
    larger,
    mean,
    means,
    times,
    trend,
    trusted,
)
from vllm_locust.report.findings.finding import Finding, confirmed_if
from vllm_locust.report.words import counted, listed, ms
from vllm_locust.results.rows import Row

_SAME_ANSWER = (("short_short", "long_short"), ("short_long", "long_long"))
_LARGEST = "short_long"
_MOST = 0.5

_Cells = Mapping[tuple[str, float], Sequence[Row]]
"""Rows by profile and level."""


def profiles(rows: Sequence[Row]) -> list[Finding]:
    """H1 to H4, for each group of profiles such as `tiny` and `huge`, of each configuration."""
    of_profiles = [row for row in trusted(rows) if row.profile is not None or _one_token(row)]
    several = len({configuration(row) for row in of_profiles}) > 1
    groups = grouped(of_profiles, lambda row: _group(row) + (f", {configuration(row)}" if several else ""))
    if not groups:
        why = "No row of a client that could measure is about a profile."
        return [Finding(name, "cannot tell", why) for name in ("H1", "H2", "H3", "H4")]
    return [
        Finding(
            f"{finding.name} ({group})" if len(groups) > 1 else finding.name,
            finding.verdict,
            finding.sentence,
        )
        for group, some in groups.items()
        for finding in _of_group(some)
    ]


def _group(row: Row) -> str:
    return row.workload.split(".")[0]


def _of_group(rows: Sequence[Row]) -> Iterator[Finding]:
    known = [row for row in rows if row.profile is not None and complete(row) and not failed(row)]
    at_levels = [row for row in known if row.level is not None]
    cells = grouped(at_levels, lambda row: (str(row.profile), float(row.level or 0)))
    yield _h1(cells)
    yield _h2(cells)
    yield _h3(cells)
    yield _h3_largest(cells)
    yield _h4(rows)


def _h1(cells: _Cells) -> Finding:
    ttft = means(cells, "mean_ttft_ms")
    pairs = _prompt_pairs(ttft)
    if not pairs:
        return Finding(
            "H1", "cannot tell", "No two profiles differ in the prompt alone with TTFTs to compare."
        )
    grows = every(exceeds(long, short) for _, _, short, long in pairs)
    behind = [value for _, _, short, long in pairs for value in (short, long)]
    sentence = f"TTFT {_WORDS[grows]} with the prompt: {_told(cells, pairs)}."
    return Finding("H1", confirmed_if(grows, behind), sentence)


_WORDS = {True: "grows", False: "does not always grow", None: "may grow"}

_Pair = tuple[str, float, Mean, Mean]
"""The answer's length, the level, the number of the short prompt and of the long one."""


def _prompt_pairs(values: Mapping[tuple[str, float], Mean]) -> list[_Pair]:
    """Of profiles with the same answers, at the lowest level that both have."""
    pairs = []
    for short, long in _SAME_ANSWER:
        levels = _levels(values, short) & _levels(values, long)
        if levels:
            level = min(levels)
            pairs.append((short.split("_")[1], level, values[short, level], values[long, level]))
    return pairs


def _levels(values: Mapping[tuple[str, float], object], profile: str) -> set[float]:
    return {level for name, level in values if name == profile}


def _told(cells: _Cells, pairs: Sequence[_Pair]) -> str:
    return listed(
        [
            f"with {answer} answers at {_load(cells, level)} {long.told(ms)} for long prompts against "
            f"{short.told(ms)} for short ones ({times(long.value, short.value)})"
            for answer, level, short, long in pairs
        ]
    )


def _h2(cells: _Cells) -> Finding:
    tpot = means(cells, "mean_tpot_ms")
    parts, worse = [], []
    for profile in dict.fromkeys(name for name, _ in tpot):
        levels = sorted(_levels(tpot, profile))
        if len(levels) > 1:
            values = [tpot[profile, level] for level in levels]
            along = trend(values)
            worse.append(every([along.goes(up=True), exceeds(values[-1], values[0])]))
            parts.append(
                f"{profile} from {values[0].told(ms)} at {levels[0]:g} to {values[-1].told(ms)} at "
                f"{_load(cells, levels[-1])} ({along.told(up=True)})"
            )
    if not parts:
        return Finding("H2", "cannot tell", "No profile has a TPOT at two levels.")
    worsens = every(worse)
    word = {True: "worsens", False: "does not always worsen", None: "may worsen"}[worsens]
    decodes, of_prompts = _decodes(cells, tpot)
    sentence = f"TPOT {word} with concurrency: {listed(parts)}.{of_prompts}"
    return Finding("H2", confirmed_if(every([worsens, decodes]), tpot.values()), sentence)


def _decodes(cells: _Cells, tpot: Mapping[tuple[str, float], Mean]) -> tuple[bool | None, str]:
    """Whether the prompt's length touches TPOT less than TTFT, and a sentence; by long answers, if any."""
    ttft = means(cells, "mean_ttft_ms")
    of_tpot = _prompt_pairs({cell: value for cell, value in tpot.items() if cell in ttft})
    of_ttft = _prompt_pairs({cell: value for cell, value in ttft.items() if cell in tpot})
    if not of_tpot:
        return None, " No two profiles differ in the prompt alone: whether TPOT is decode's cannot be told."
    answer, level, short, long = of_tpot[-1]
    _, _, ttft_short, ttft_long = of_ttft[-1]
    of_decode, of_prefill = _change(long, short), _change(ttft_long, ttft_short)
    decodes = True if larger(of_prefill, of_decode) else False if larger(of_decode, of_prefill) else None
    return decodes, (
        f" {_DECODES[decodes]}: at {_load(cells, level)} a long prompt makes TPOT "
        f"{times(long.value, short.value)} and TTFT {times(ttft_long.value, ttft_short.value)} with {answer} "
        "answers."
    )


_DECODES = {
    True: "It is decode's",
    False: "It is not only decode's",
    None: "Whether it is decode's cannot be told",
}


def _change(one: Mean, other: Mean) -> float:
    """How many times as much the one is, or the other."""
    return max(one.value / other.value, other.value / one.value)


def _h3(cells: _Cells) -> Finding:
    """Whether requests waited for most of their TTFT, by the server's clock.

    Where it does not tell, what TTFT has grown by is no more than that: a fuller batch is slower, too.
    """
    top = max((level for _, level in cells), default=0.0)
    shares: list[float] = []
    behind: list[Mean] = []
    parts: list[str] = []
    told = True
    for profile, level in cells:
        waits = _waits(cells, profile, level) if level == top else None
        if waits is not None:
            shares.append(waits[0])
            behind += means({profile: cells[profile, level]}, "mean_ttft_ms").values()
            parts.append(f"{profile} {waits[0]:.0%} ({waits[1]})")
            told &= waits[2]
    if not shares:
        return Finding(
            "H3", "cannot tell", "No profile has a TTFT at two levels, or a queue time of the server."
        )
    if not told:
        grown = f"At {_load(cells, top)} TTFT has grown by these shares of it: {listed(parts)}"
        return Finding("H3", "cannot tell", f"{grown}. How much of that is waiting the server did not tell.")
    most = [share > _MOST for share in shares]
    word = "most" if all(most) else "not most" if not any(most) else "not always most"
    return Finding(
        "H3",
        confirmed_if(all(most), behind),
        f"At {_load(cells, top)} waiting is {word} of TTFT: {listed(parts)}.",
    )


def _waits(cells: _Cells, profile: str, level: float) -> tuple[float, str, bool] | None:
    """The share of TTFT, how it is known, and whether by the server's clock; None when it is not known."""
    rows, lowest = cells[profile, level], min(_levels(cells, profile))
    queue, servers = mean(rows, "server.mean_queue_ms"), mean(rows, "server.mean_ttft_ms")
    if queue is not None and servers is not None and servers.value:
        return queue.value / servers.value, f"queue {queue.told(ms)} of {servers.told(ms)}", True
    ttft, quiet = mean(rows, "mean_ttft_ms"), mean(cells[profile, lowest], "mean_ttft_ms")
    if ttft is None or quiet is None or lowest == level:
        return None
    how = f"all that {ttft.told(ms)} has more than the {quiet.told(ms)} at {_load(cells, lowest)}"
    return 1 - quiet.value / ttft.value, how, False


def _h3_largest(cells: _Cells) -> Finding:
    name = "H3, largest TTFT"
    top = max((level for _, level in cells), default=0.0)
    ttft = {
        profile: value for (profile, level), value in means(cells, "mean_ttft_ms").items() if level == top
    }
    if _LARGEST not in ttft or len(ttft) < 2:
        return Finding(name, "cannot tell", f"{_LARGEST} has no TTFT to compare at the highest level.")
    order = sorted(ttft, key=lambda profile: -ttft[profile].value)
    told = listed([f"{profile} {ttft[profile].told(ms)}" for profile in order])
    where = f"At {_load(cells, top)}"
    first, second = order[:2]
    rival = second if first == _LARGEST else _LARGEST
    if not exceeds(ttft[first], ttft[rival]):
        return Finding(
            name, "cannot tell", f"{where} {first} and {rival} do not differ in mean TTFT: {told}."
        )
    return Finding(
        name,
        confirmed_if(first == _LARGEST, ttft.values()),
        f"{where} {first} has the largest mean TTFT: {told}.",
    )


def _h4(rows: Sequence[Row]) -> Finding:
    ones = [row for row in rows if _one_token(row)]
    ones = [row for row in ones if row.profile is not None] or ones  # a run's own row has the same requests
    if not ones:
        return Finding("H4", "cannot tell", "No row has answers of one token only.")
    wrong = [row for row in ones if row.numbers.get("mean_tpot_ms") is not None]
    requests = sum(row.numbers["completed"] for row in ones)
    sentence = (
        f"{len(wrong)} of {len(ones)} rows with answers of one token have a TPOT, the first says "
        f"{ms(wrong[0].numbers['mean_tpot_ms'])}: there is no second token to take it from."
        if wrong
        else f"Answers of one token have no TPOT: null in {counted(len(ones), 'row')} of such answers "
        f"({counted(requests, 'request')})."
    )
    return Finding("H4", confirmed_if(not wrong), sentence)


def _one_token(row: Row) -> bool:
    completed = row.numbers.get("completed")
    return bool(completed) and row.numbers.get("total_output_tokens") == completed


def _load(cells: _Cells, level: float) -> str:
    unit = next((row.unit for (_, one), rows in cells.items() for row in rows if one == level), None)
    return f"1 {unit[:-1]}" if level == 1 and unit == "users" else f"{level:g} {unit or ''}".rstrip()
