"""What an offline run leaves behind: run.json, requests.jsonl and summary.json, as an online run does."""

import os
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import orjson

from vllm_locust.core.record import RequestRecord, to_json_line
from vllm_locust.errors import UsageError
from vllm_locust.results.folder import REQUESTS, RUN, SUMMARY, holds_run

_JSON = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
_PACKAGES = ("vllm-locust", "vllm", "torch", "transformers", "numpy")
# Of vLLM's engine arguments; what they say is never written.
_SECRET = "--hf-token"


def make_folders(folders: Iterable[Path]) -> None:
    """Make folders for new runs. UsageError for each that holds a run already, or cannot be made."""
    problems = []
    for folder in folders:
        if holds_run(folder):
            problems.append(f"--results-dir {folder} holds another run: choose a new folder")
            continue
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            problems.append(f"--results-dir {folder} cannot be made: {error.strerror}")
    if problems:
        raise UsageError(*problems)


def versions() -> dict[str, str | None]:
    """Of the packages that matter to the numbers."""
    return {name: _version(name) for name in _PACKAGES} | {"python": platform.python_version()}


def machine() -> dict[str, Any]:
    system = os.uname()
    return {"platform": f"{system.sysname} {system.release} {system.machine}", "cpus": os.cpu_count()}


def command_line(arguments: Sequence[str] | None = None) -> list[str]:
    """The command without the value of a secret."""
    shown: list[str] = []
    for argument in sys.argv if arguments is None else arguments:
        name, separator, _ = argument.replace("_", "-").partition("=")
        hidden = bool(shown) and shown[-1].replace("_", "-") == _SECRET
        shown.append("***" if hidden else f"{_SECRET}=***" if separator and name == _SECRET else argument)
    return shown


def write(
    folder: Path, run: Mapping[str, Any], records: Iterable[RequestRecord], summary: Mapping[str, Any]
) -> None:
    """Write a run's files into a folder that `make_folders` has made. UsageError when that fails."""
    try:
        (folder / RUN).write_bytes(orjson.dumps(run, option=_JSON))
        (folder / REQUESTS).write_bytes(b"".join(to_json_line(record, 0.0) for record in records))
        (folder / SUMMARY).write_bytes(orjson.dumps(summary, option=_JSON))
    except OSError as error:
        raise UsageError(f"--results-dir {folder} cannot be written: {error.strerror}") from None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
