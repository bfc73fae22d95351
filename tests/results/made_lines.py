"""Lines of requests.jsonl made by hand, and folders with them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from vllm_locust.core.record import RequestRecord, to_json_line

NEW_KEYS = ("target", "session", "turn", "planned_prompt_tokens", "max_tokens", "prompt_hash")
"""Those that older files do not have."""


def a_line(at_s: float = 0.0, late_s: float = 0.0, ttft_s: float = 0.1, **fields: Any) -> bytes:
    """An answered request that was to be sent at `at_s`; `fields` of the record say what else there is."""
    sent_s = at_s + late_s
    known = {
        "index": 0,
        "scenario": "s",
        "profile": "a",
        "outcome": "ok",
        "finish_reason": "length",
        "model": "base",
        "first_token_s": sent_s + ttft_s,
        "last_token_s": sent_s + ttft_s,
        "ended_s": sent_s + ttft_s,
    }
    return to_json_line(RequestRecord(intended_s=at_s, sent_s=sent_s, **known | fields), 0.0)


def a_failed(outcome: str, at_s: float = 0.0, **fields: Any) -> bytes:
    """A request without an answer; a dropped one was never sent."""
    sent_s = None if outcome == "dropped" else at_s
    known = {"index": 0, "scenario": "s", "profile": "a", "model": "base", "ended_s": at_s + 1}
    return to_json_line(RequestRecord(intended_s=at_s, sent_s=sent_s, outcome=outcome, **known | fields), 0.0)


def without(keys: tuple[str, ...], line: bytes) -> bytes:
    """The line as it was before there were such keys."""
    return orjson.dumps({key: value for key, value in orjson.loads(line).items() if key not in keys}) + b"\n"


RUN = {
    "start_time": "2026-11-26T07:23:22.667+00:00",
    "host": "http://gpu:8000",
    "model": "base",
    "server_version": "0.32.0",
    "scenario": "prompts",
    "seed": 11,
    "options": {"parameters": {"order": "random", "n": "40"}},
    "datasets": [
        {
            "path": "questions.jsonl",
            "bytes": 5120,
            "sha256": "0123456789abcdef" * 4,
            "rows": 50,
            "kept": 40,
            "filtered": 7,
            "skipped": 3,
        }
    ],
}


def a_folder(
    folder: Path, lines: bytes | None, run: Mapping[str, Any] | None = RUN, summary: Any = None
) -> Path:
    """A results folder with what is not None."""
    folder.mkdir()
    if lines is not None:
        (folder / "requests.jsonl").write_bytes(lines)
    for name, content in (("run.json", run), ("summary.json", summary)):
        if content is not None:
            (folder / name).write_bytes(content if isinstance(content, bytes) else orjson.dumps(content))
    return folder
