"""HTML as text in which nothing that came from a file can be anything but text.

Rule: a string is text and gets escaped; only `Html`, which this module alone makes, stands as it is.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import orjson

NOT_KNOWN = "n/a"


@dataclass(frozen=True, slots=True)
class Html:
    """Finished HTML."""

    text: str


Part = Html | str | float | int | None


def tag(name: str, *parts: Part, **attributes: str) -> Html:
    """An element; `class_` is the attribute `class`. None is left out of the content."""
    words = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"' for key, value in attributes.items()
    )
    return Html(f"<{name}{words}>{join(parts).text}</{name}>")


def join(parts: Iterable[Part]) -> Html:
    """One after the other."""
    return Html("".join(_text(part) for part in parts if part is not None))


def _text(part: Part) -> str:
    return part.text if isinstance(part, Html) else escape(str(part))


def table(
    heads: Sequence[str], rows: Iterable[Sequence[Part]], caption: str | None = None, words: int = 1
) -> Html:
    """A table in a box that scrolls by itself; the first `words` columns are names, the others numbers."""

    def cells(row: Sequence[Part]) -> Iterable[Html]:
        for place, cell in enumerate(row):
            shown = NOT_KNOWN if cell is None else cell
            kind = "word" if place < words else "number"
            yield tag("th", shown, scope="row") if not place else tag("td", shown, class_=kind)

    head = [
        tag("th", name, scope="col", class_="word" if place < words else "number")
        for place, name in enumerate(heads)
    ]
    return tag(
        "div",
        tag(
            "table",
            tag("caption", caption) if caption else None,
            tag("thead", tag("tr", *head)),
            tag("tbody", *(tag("tr", *cells(row)) for row in rows)),
        ),
        class_="scroll",
        tabindex="0",
        role="region",
        aria_label=caption or heads[0] or "table",
    )


def facts(pairs: Iterable[tuple[str, Part]]) -> Html:
    """Names and what they are."""
    return tag(
        "dl",
        *(
            tag("div", tag("dt", name), tag("dd", NOT_KNOWN if value is None else value))
            for name, value in pairs
        ),
        class_="facts",
    )


def listing(items: Iterable[Part]) -> Html | None:
    """A list with bullets; None of nothing."""
    shown = [tag("li", item) for item in items]
    return tag("ul", *shown) if shown else None


def guarded(part: Callable[[], Html | None]) -> Html | None:
    """A part of the page, or the sentence that stands there when the summary it is made of is broken."""
    try:
        return part()
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        words = f"summary.json is not as this version writes it ({error!r}): this part is not shown."
        return tag("p", words, class_="soft")


def embedded_json(value: Any) -> str:
    """JSON that may stand inside a script element: no character of it can end that. NaN is null."""
    text = orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY).decode()
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def number(value: float | None, decimals: int | None = None) -> str:
    """Four digits that count, with thousands separated: `1,234`, `12.35`, `0.04210`; `n/a` of None."""
    if value is None or value != value:
        return NOT_KNOWN
    if isinstance(value, int):
        return f"{value:,}"
    if decimals is None:
        size = abs(value)
        decimals = 0 if size >= 1000 else 1 if size >= 100 else 2 if size >= 1 or not size else 4
    return f"{value:,.{decimals}f}"


def percent(share: float | None) -> str:
    """`12.5 %` of 0.125."""
    return NOT_KNOWN if share is None else f"{number(share * 100)} %"
