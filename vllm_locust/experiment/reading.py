"""From an experiment's file to its definition.

Rule: all that is wrong with the file is said at once, with its place.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from vllm_locust.core.times import parse_time
from vllm_locust.errors import UsageError
from vllm_locust.experiment.configurations import configurations_of
from vllm_locust.experiment.definition import Experiment, Load, Timing, Values, Workload
from vllm_locust.experiment.document import Document, Place, read
from vllm_locust.experiment.names import DEFAULT_LOCUSTFILE, check_names, locustfile_folder
from vllm_locust.experiment.plan import ORDERS
from vllm_locust.report.findings import FINDINGS

KEYS = (
    *("question", "server", "configurations", "matrix", "exclude", "workloads", "loads", "warmup"),
    *("locustfile", "options", "repeats", "order", "seed", "conclusions"),
)
SERVER_KEYS = ("start", "url", "arguments", "environment", "ready", "stop")
DEFAULT_WARMUP = {"num-prompts": 8, "users": 4}

# Set by the engine, or of no use to it.
_OURS = frozenset(
    [
        "locustfile",
        "host",
        "headless",
        "results-dir",
        "exporter-port",
        "seed",
        "autostart",
        "autoquit",
        "json",
        "config",
        "master",
        "worker",
        "web-host",
        "web-port",
        "class-picker",
    ]
)

T = TypeVar("T")


def read_experiment_file(
    path: Path, *, drawn_seed: int, start: str | None = None, repeats: int | None = None
) -> Experiment:
    """The experiment in a file; UsageError with every mistake in it.

    `start` takes the place of the file's `server.start`, `repeats` that of its `repeats`, and `drawn_seed`
    that of a seed which the file does not have.
    """
    document = read(path)
    content = document.known(document.content, (), KEYS)
    server = document.known(content.get("server"), ("server",), SERVER_KEYS)
    if start is not None:
        server = {**server, "start": start}
    configurations = configurations_of(document, server, content, replaced=start is not None)
    _check_commands(document, [one.start for one in configurations])
    workloads = _workloads(document, content, path.parent)
    loads = _loads(document, content, path.parent)
    _check_pairs(document, workloads, [load.name for load in loads])
    experiment = Experiment(
        name=path.stem,
        question=(document.text(content["question"], ("question",)) or "") if "question" in content else "",
        configurations=configurations,
        workloads=workloads,
        loads=loads,
        locustfile=_locustfile(document, content, (), path.parent)
        or locustfile_folder() / DEFAULT_LOCUSTFILE,
        options=_options(document, content.get("options"), ("options",)),
        warmup=_warmup(document, content),
        timing=_timing(
            document, server, simulated=all(one.start[4:5] == ["simulate"] for one in configurations)
        ),
        repeats=repeats or _take(document, content, ("repeats",), _whole(1), 1),
        order=_take(document, content, ("order",), _order, ORDERS[0]),
        seed=_take(document, content, ("seed",), _whole(0), drawn_seed),
        seed_is_drawn=content.get("seed") is None,
        conclusions=_take(document, content, ("conclusions",), _conclusions, None),
    )
    if document.problems:
        raise UsageError(*document.problems)
    return experiment


def _check_commands(document: Document, commands: Sequence[Sequence[str]]) -> None:
    for command in sorted({words[0] for words in commands if words}):
        if shutil.which(command) is None:
            document.complain(("server",), f"there is no command {command} on this machine, start needs it")


def _workloads(document: Document, content: Mapping[str, Any], folder: Path) -> Sequence[Workload]:
    found = []
    for item, place in document.items(content.get("workloads"), ("workloads",)):
        if isinstance(item, str):
            found.append(Workload(item, {"scenario": item}))
            continue
        known = document.known(item, place, ("name", "options", "locustfile", "loads"))
        loads = None
        if known.get("loads") is not None:
            names = [document.text(one, at) for one, at in document.items(known["loads"], (*place, "loads"))]
            loads = [name for name in names if name]
        found.append(
            Workload(
                _name(document, known, place),
                _options(document, known.get("options"), (*place, "options")),
                _locustfile(document, known, place, folder),
                loads,
            )
        )
    if not found and not document.problems:
        document.complain(
            ("workloads",), "at least one is needed, such as [{name: chats, options: {scenario: sharegpt}}]"
        )
    check_names(document, [one.name for one in found], ("workloads",))
    return found


def _loads(document: Document, content: Mapping[str, Any], folder: Path) -> Sequence[Load]:
    found = []
    for item, place in document.items(content.get("loads"), ("loads",)):
        known = document.known(item, place, ("name", "options", "locustfile"))
        found.append(
            Load(
                _name(document, known, place),
                _options(document, known.get("options"), (*place, "options")),
                _locustfile(document, known, place, folder),
            )
        )
    check_names(document, [one.name for one in found], ("loads",))
    return found or [Load("load", {})]


def _check_pairs(document: Document, workloads: Sequence[Workload], loads: Sequence[str]) -> None:
    """Loads that a workload names exist, and no two pairs would share a folder."""
    folders = []
    for number, workload in enumerate(workloads):
        for name in workload.loads or ():
            if name not in loads:
                place = ("workloads", number, "loads")
                document.complain(
                    place, f"there is no load {name}: there are {', '.join(dict.fromkeys(loads))}"
                )
        folders += [f"{workload.name}-{load}" for load in workload.loads or loads]
    for double in sorted({folder for folder in folders if folders.count(folder) > 1}):
        document.complain(
            ("workloads",), f"two pairs of a workload and a load are both called {double}: rename one"
        )


def _name(document: Document, known: Mapping[str, Any], place: Place) -> str:
    if "name" not in known:
        document.complain(place, "a name is missing")
        return ""
    return document.text(known["name"], (*place, "name")) or ""


def _options(document: Document, value: Any, place: Place) -> Values:
    """Locust's options, by their names without dashes."""
    options = {name.lstrip("-"): option for name, option in document.mapping(value, place).items()}
    for name, option in options.items():
        at = (*place, name)
        if name == "api-key":
            document.complain(at, "a file is no place for it: put it into the environment, as OPENAI_API_KEY")
        elif name in _OURS:
            hint = ": it stands at the top of the file" if name in KEYS else ""
            document.complain(at, f"is set by the experiment itself{hint}")
        elif isinstance(option, dict) and list(option.values()) == [None]:
            document.complain(
                at, f'YAML takes this for a mapping, write it in quotes: "{{{next(iter(option))}}}"'
            )
    return options


def _locustfile(document: Document, known: Mapping[str, Any], place: Place, folder: Path) -> Path | None:
    """Beside the experiment's file, where one stands, or one of the suite's own."""
    if known.get("locustfile") is None:
        return None
    name = document.text(known["locustfile"], (*place, "locustfile"))
    if name is None:
        return None
    for candidate in (folder / name, Path(name), locustfile_folder() / name):
        if candidate.is_file():
            return candidate.resolve()
    ours = ", ".join(sorted(one.name for one in locustfile_folder().glob("*.py")))
    document.complain((*place, "locustfile"), f"there is no file {name}; the suite's own are {ours}")
    return None


def _warmup(document: Document, content: Mapping[str, Any]) -> Values | None:
    value = content.get("warmup", DEFAULT_WARMUP)
    if value is None or value is False:
        return None
    return {**DEFAULT_WARMUP, **_options(document, value, ("warmup",))}


def _timing(document: Document, server: Mapping[str, Any], simulated: bool) -> Timing:
    ready = document.known(server.get("ready"), ("server", "ready"), ("timeout", "path"))
    stop = document.known(server.get("stop"), ("server", "stop"), ("timeout", "pause"))
    path = document.text(ready["path"], ("server", "ready", "path")) if "path" in ready else "/health"
    return Timing(
        ready_timeout_s=_take(document, ready, ("server", "ready", "timeout"), _time, 600.0),
        ready_path=f"/{(path or '').lstrip('/')}",
        stop_timeout_s=_take(document, stop, ("server", "stop", "timeout"), _time, 60.0),
        pause_s=_take(document, stop, ("server", "stop", "pause"), _time, 0.0 if simulated else 5.0),
    )


def _take(
    document: Document, known: Mapping[str, Any], place: Place, convert: Callable[[str], T], default: T
) -> T:
    """The value at the end of `place`; a ValueError of `convert` is the end of a sentence."""
    value = known.get(str(place[-1]))
    if value is None or (text := document.text(value, place)) is None:
        return default
    try:
        return convert(text)
    except ValueError as error:
        document.complain(place, f"{text} {error}")
        return default


def _time(text: str) -> float:
    return parse_time(text)


def _whole(at_least: int) -> Callable[[str], int]:
    def convert(text: str) -> int:
        if not text.isdecimal() or int(text) < at_least:
            raise ValueError(f"is not a whole number of at least {at_least}")
        return int(text)

    return convert


def _conclusions(text: str) -> str | None:
    if text not in FINDINGS:
        raise ValueError(f"is none of {', '.join(FINDINGS)}")
    return text


def _order(text: str) -> str:
    if text not in ORDERS:
        raise ValueError(f"is none of {', '.join(ORDERS)}")
    return text
