"""Data sets on the Hugging Face hub: `hf:ORG/NAME[@REVISION][/PATH/IN/REPO]` becomes a file on this machine.

A file is downloaded once, into the cache that all programs of the hub share. Without a path the repository
must hold one data file only.
"""

import importlib
import re
from pathlib import Path
from typing import Any

from vllm_locust.errors import UsageError
from vllm_locust.workloads.datasets.formats import optional_package

_PREFIX = "hf:"
_SUFFIXES = (".parquet", ".jsonl", ".json", ".csv")
# What descriptions of a data set are called, beside its data.
_NO_DATA = ("dataset_info.json", "dataset_infos.json")
_ADDRESS = re.compile(
    r"(?P<repo>[\w.-]+/[\w.-]+)"
    # The revisions that the hub makes by itself are the only ones with a slash.
    r"(?:@(?P<revision>refs/convert/\w+|refs/pr/\d+|[^/@]+))?"
    r"(?:/(?P<file>.+))?"
)
_LISTED = 10


def local_file(path: Path) -> Path:
    """The file itself, or the one of the hub that `hf:...` stands for. UsageError where there is none."""
    address = str(path)
    if not address.startswith(_PREFIX):
        return path
    parts = _ADDRESS.fullmatch(address.removeprefix(_PREFIX))
    if parts is None:
        raise UsageError(f"{address} is no data set of the hub: write hf:ORG/NAME[@REVISION][/PATH/IN/REPO]")
    hub = optional_package("huggingface_hub", "a data set of the hub")
    where = {"repo_id": parts["repo"], "repo_type": "dataset", "revision": parts["revision"]}
    try:
        name = parts["file"] or _only_file(address, hub.list_repo_files(**where))
        return Path(hub.hf_hub_download(filename=name, **where))
    except UsageError:
        raise
    except Exception as error:  # of several libraries, by the version of the hub's
        raise UsageError(f"{address} {_reason(error, parts)}") from None


def _only_file(address: str, names: list[str]) -> str:
    data = [
        name for name in names if name.lower().endswith(_SUFFIXES) and name.rpartition("/")[2] not in _NO_DATA
    ]
    if len(data) == 1:
        return data[0]
    if not data:
        raise UsageError(f"{address} holds no data file ({', '.join(_SUFFIXES)})")
    more = f" and {len(data) - _LISTED} more" if len(data) > _LISTED else ""
    raise UsageError(
        f"{address} holds {len(data)} data files, say which one with {address}/FILE: "
        f"{', '.join(data[:_LISTED])}{more}"
    )


def _reason(error: Exception, parts: "re.Match[str]") -> str:
    errors: Any = importlib.import_module("huggingface_hub.errors")
    if isinstance(error, errors.GatedRepoError):
        return "is open only to those whom its owner lets in: ask there, and set HF_TOKEN"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"is not there: the hub has no data set {parts['repo']}, or it is private (then set HF_TOKEN)"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"is not there: {parts['repo']} has no revision {parts['revision']}"
    what = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
    if parts["file"] is None and not isinstance(error, errors.LocalEntryNotFoundError):
        return f"cannot be looked up ({what}): if it was downloaded before, its file's whole name will do"
    if isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
        return "cannot be downloaded (no way to the hub), and this machine's cache does not hold it"
    if isinstance(error, errors.EntryNotFoundError):
        return f"is not there: {parts['repo']} has no file {parts['file']}"
    return f"cannot be downloaded ({what})"
