"""`run.json`: everything needed to repeat a run, and nothing secret."""

import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from vllm_locust.core.rate import Rate
from vllm_locust.core.slo import Slo
from vllm_locust.core.urls import HIDDEN, without_secrets
from vllm_locust.load.phases import plain_rate
from vllm_locust.load.prepare import Prepared
from vllm_locust.workloads.lengths import Lengths
from vllm_locust.workloads.scenario import sources_of
from vllm_locust.workloads.variety import Adapter, Variation

_PACKAGES = ("vllm-locust", "locust", "gevent", "httptools", "orjson", "numpy")
# Options whose values may be secret: their place on the command line is kept, what they say is not.
_SECRET_OPTIONS = ("--api-key", "--header", "--web-login")


def describe_run(
    prepared: Prepared, run_id: str, started: datetime, users: int | None = None
) -> dict[str, Any]:
    """The manifest of a run that starts at `started` (UTC) with so many of Locust's `users`."""
    settings = prepared.settings
    names = [field.name for field in fields(settings) if field.name != "headers"]
    options = {name: _plain(getattr(settings, name)) for name in names}
    return {
        "run": run_id,
        "start_time": started.isoformat(timespec="milliseconds"),
        "command": redact(sys.argv),
        "host": ",".join(target.url for target in prepared.targets),
        "model": prepared.model.name,
        "max_model_len": prepared.model.max_model_len,
        "server_version": prepared.model.server_version,
        "scenario": None if settings.scenario is None else prepared.scenario.name,
        "users": users,
        "phases": [phase.name for phase in prepared.scenario.phases],
        "seed": settings.seed,
        "datasets": sources_of(prepared.scenario),
        "options": {**options, "headers": sorted(settings.headers)},
        "versions": {name: _version(name) for name in _PACKAGES} | {"python": platform.python_version()},
        "machine": {"platform": _platform(), "cpus": os.cpu_count()},
    }


def identity_of(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a manifest that leads a summary, under the names that `vllm bench serve` gives it."""
    options = manifest["options"]
    return {
        "date": manifest["start_time"],
        "run": manifest["run"],
        "backend": "openai-chat" if options["endpoint_type"] == "chat" else "openai",
        "model_id": manifest["model"],
        "host": manifest["host"],
        "scenario": manifest["scenario"],
        "salted": _salted(manifest["datasets"]),
        "num_prompts": options["num_prompts"],
        "request_rate": None if (rate := options["request_rate"]) is None else plain_rate(rate),
        "burstiness": options["burstiness"],
        "max_concurrency": options["max_concurrency"],
    }


def _salted(datasets: Sequence[Mapping[str, Any]]) -> bool | None:
    """Whether prompts from data sets differ from run to run; None without any."""
    told = [one["salted"] for one in datasets if "salted" in one]
    return all(told) if told else None


def redact(arguments: list[str]) -> list[str]:
    """The command line without what options and URLs may hold of secrets."""
    shown: list[str] = []
    hide = False
    for argument in arguments:
        name, separator, value = argument.partition("=")
        secret = _is_secret(name)
        if hide:
            shown.append(HIDDEN)
        elif separator and secret:
            shown.append(f"{name}={HIDDEN}")
        elif separator and name.startswith("--"):
            shown.append(f"{name}={without_secrets(value)}")
        else:
            shown.append(without_secrets(argument))
        hide = not hide and secret and not separator
    return shown


def _is_secret(name: str) -> bool:
    """Whether `name` is a secret option, spelled out or abbreviated as argparse allows."""
    return len(name) > 2 and any(option.startswith(name) for option in _SECRET_OPTIONS)


def _plain(value: Any) -> Any:
    if isinstance(value, Lengths):
        return value.smallest if value.is_constant else str(value)
    if isinstance(value, Path | Rate):
        return str(value)
    if isinstance(value, Variation | Adapter):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [str(item) if isinstance(item, Slo) else _plain(item) for item in value]
    return without_secrets(value) if isinstance(value, str) else value


def _platform() -> str:
    """Without `platform.platform`, which starts a process to find out more."""
    system = os.uname()
    return f"{system.sysname} {system.release} {system.machine}"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
