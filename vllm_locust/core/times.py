"""Times as people write them on a command line."""

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def parse_time(text: str) -> float:
    """Seconds of `10`, `10s`, `1.5m`, `500ms` or `2h`; a ValueError reads as the end of a sentence."""
    text = text.strip().lower()
    digits = text.rstrip("mhs")
    unit = text[len(digits) :] or "s"
    try:
        number = float(digits)
        seconds = number * _UNITS_S[unit]
    except (ValueError, KeyError):
        number = seconds = -1.0
    if not 0 <= number < float("inf"):
        raise ValueError("is not a time like 10s, 500ms or 2m")
    return seconds
