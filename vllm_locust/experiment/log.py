"""Of a long log, the few lines that tell why its process ended."""

import re
from itertools import takewhile
from pathlib import Path

_READ_BYTES = 1 << 16
_LONGEST = 600

_ESCAPE = re.compile(r"\x1b\[[0-9;]*m")
# What vLLM puts in front: (EngineCore_DP0 pid=71) ERROR 11-26 07:23:22 [core.py:700]
_PREFIX = re.compile(r"^(?:\([\w -]+pid=\d+\)\s*)?(?:[A-Z]+ \d\d-\d\d \d\d:\d\d:\d\d (?:\[[^\]]*\] ?)?)?")
_ERROR = re.compile(r"^[\w.]*(?:Error|Exception|Exit)\b(?:: |$)|^[\w./ -]+: error: |^error: ", re.IGNORECASE)
# They point at another error, which is the one to tell.
_POINTERS = ("Engine core initialization failed", "See stack trace above", "See root cause above")
# pydantic tells what is wrong in the lines below, and there alone; behind it stands how it was called.
_DETAIL = re.compile(r"^ {2}(?!For further information)(?:Value error, )?(\S.*?)(?: \[type=.*)?$")


def telling_lines(log: Path) -> str:
    """The last error with what belongs to it, or else the last line; empty when there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _READ_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return telling(text)


def telling(text: str) -> str:
    """The same of a text."""
    lines = [_PREFIX.sub("", _ESCAPE.sub("", line)).rstrip() for line in text.splitlines()]
    errors = [number for number, line in enumerate(lines) if _ERROR.match(line) and not _points(line)]
    if errors:
        return _with_details(lines[errors[-1] :])[:_LONGEST]
    return next((line.strip() for line in reversed(lines) if line.strip()), "")[:_LONGEST]


def _points(line: str) -> bool:
    return any(pointer in line for pointer in _POINTERS)


def _with_details(lines: list[str]) -> str:
    details = [found[1] for found in takewhile(bool, map(_DETAIL.match, lines[1:])) if found]
    return "; ".join(details) or lines[0].strip()
