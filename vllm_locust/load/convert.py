"""From the text of an option to what it means. ValueError ends a sentence that says what the text is not."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import orjson

from vllm_locust.core.slo import parse_goodput
from vllm_locust.core.times import parse_time
from vllm_locust.core.trace import UNITS
from vllm_locust.observe.addresses import parse_metrics_url
from vllm_locust.workloads.lengths import Lengths
from vllm_locust.workloads.variety import Adapter, Variation

OFF = "off"
"""In place of a value: do without."""

# Fields that a request's body gets from elsewhere.
_OWN_BODY_FIELDS = frozenset({"messages", "prompt", "stream", "stream_options", "max_tokens", "n"})


def whole(at_least: int) -> Callable[[Any], int]:
    def convert(value: Any) -> int:
        try:
            number = int(str(value))
        except ValueError:
            number = at_least - 1
        if number < at_least:
            raise ValueError(f"is not a whole number of at least {at_least}")
        return number

    return convert


def number(at_least: float) -> Callable[[Any], float]:
    def convert(value: Any) -> float:
        try:
            number = float(value)
        except ValueError:
            number = float("nan")
        if not at_least <= number < float("inf"):
            raise ValueError(f"is not a number of at least {at_least:g}")
        return number

    return convert


def trace_file(value: Any) -> tuple[Path | None, str | None]:
    """FILE, or FILE:UNIT for the unit of its times."""
    path, colon, unit = str(value).rpartition(":")
    return (Path(path), unit) if colon and unit in UNITS else (Path(value), None)


def burstiness(value: Any) -> float:
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if not number > 0:
        raise ValueError("is not a number greater than 0, or inf")
    return number


def one_of(choices: Sequence[str]) -> Callable[[Any], str]:
    def convert(value: Any) -> str:
        if value not in choices:
            raise ValueError(f"is none of {', '.join(choices)}")
        return str(value)

    return convert


def time(value: Any) -> float:
    return parse_time(str(value))


def path_of_url(text: str) -> str:
    """`/v1/chat/completions`, perhaps with a query behind it."""
    if not text.startswith("/") or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("is not a path like /v1/chat/completions")
    return text


def metrics_url_or_off(text: str) -> str:
    return OFF if text == OFF else parse_metrics_url(text)


def goodput(value: Any) -> dict[str, float]:
    parts = value.replace(",", " ").split() if isinstance(value, str) else value
    return parse_goodput(parts)


def json_object(value: Any) -> dict[str, Any]:
    return _body_fields(value, _OWN_BODY_FIELDS)


def _body_fields(text: str, taken: frozenset[str]) -> dict[str, Any]:
    """Fields for the body of a request."""
    try:
        decoded = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"is not JSON ({error})") from None
    if not isinstance(decoded, dict):
        raise ValueError('is not a JSON object like {"top_p": 0.9}')
    if own := taken & decoded.keys():
        raise ValueError(f"sets {', '.join(sorted(own))}, which the suite sets itself")
    return decoded


def lengths(value: Any) -> Lengths:
    return Lengths.parse(str(value))


def assignment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (equals and name.strip() and value.strip()):
        raise ValueError("is not of the form NAME=VALUE")
    return name.strip(), value.strip()


def adapter(text: str) -> Adapter:
    name, colon, weight = text.rpartition(":")
    if not colon:
        return Adapter(text)
    try:
        return Adapter(name, number(at_least=1e-9)(weight))
    except ValueError:
        return Adapter(text)  # a colon may be a part of a name


def variation(text: str) -> Variation:
    share, colon, fields = text.partition(":")
    percent = share.strip().endswith("%")
    try:
        part = float(share.strip().removesuffix("%")) / (100 if percent else 1)
    except ValueError:
        part = 0.0
    if not colon or not 0 < part <= 1:
        raise ValueError('is not of the form SHARE:JSON, such as 20%:{"temperature": 1.2}')
    decoded = _body_fields(fields, _OWN_BODY_FIELDS - {"max_tokens"})
    most = decoded.pop("max_tokens", None)
    return Variation(part, decoded, None if most is None else lengths(most))
