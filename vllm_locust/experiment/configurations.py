"""The server's configurations: named ones, or every combination of a matrix, each with what it inherits."""

import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from vllm_locust.core.urls import as_address
from vllm_locust.experiment.definition import Configuration
from vllm_locust.experiment.document import Document, Place
from vllm_locust.experiment.names import check_names
from vllm_locust.results.rows import Factor

KEYS = ("name", "start", "url", "arguments", "environment")
PORT, ARGUMENTS = "{port}", "{arguments}"

_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")
_SECRET = re.compile(r"(TOKEN|API_KEY|SECRET|PASSWORD)$")
_LISTEN = ("--host", "127.0.0.1", "--port", PORT, ARGUMENTS)


def configurations_of(
    document: Document, server: Mapping[str, Any], content: Mapping[str, Any], *, replaced: bool
) -> Sequence[Configuration]:
    """All of them; at least one. `replaced`: the command line says how the server is started."""
    named = list(document.items(content.get("configurations"), ("configurations",)))
    if content.get("matrix") is not None:
        if named:
            document.complain(("matrix",), "configurations and matrix exclude each other: take one of them")
        named = _combinations(document, content)
    elif content.get("exclude") is not None:
        document.complain(("exclude",), "is for a matrix, and there is none")
    if not named:
        named = [({"name": "server"}, ("server",))]
    owns = [_own(document, item, place) for item, place in named]
    check_names(document, [str(own.get("name", "")) for own in owns], ("configurations",))
    factors = list(dict.fromkeys(key for own in owns for part in _PARTS for key in own[part]))
    inherited = _own(
        document, {part: server.get(part) for part in _PARTS if part in server}, ("server",), named=False
    )
    return [
        _configuration(document, server, inherited, own, place, factors, replaced)
        for own, (_, place) in zip(owns, named, strict=True)
    ]


_PARTS = ("arguments", "environment")


def _own(document: Document, item: Any, place: Place, *, named: bool = True) -> dict[str, Any]:
    """What is said of one configuration, its arguments and environment checked."""
    known = dict(document.known(item, place, KEYS))
    if named and "name" in known and place != ("server",):
        known["name"] = (
            known["name"] if place[0] == "matrix" else document.text(known["name"], (*place, "name"))
        )
    elif named and place != ("server",):
        document.complain(place, "a name is missing")
    known["arguments"] = {
        name.lstrip("-"): value
        for name, value in document.mapping(known.get("arguments"), (*place, "arguments")).items()
    }
    if "api-key" in known["arguments"]:
        document.complain((*place, "arguments", "api-key"), f"{_NO_SECRETS} as VLLM_API_KEY")
    known["environment"] = _environment(document, known, place)
    return known


_NO_SECRETS = "a file is no place for it: put it into your own environment, which the server inherits,"


def _environment(document: Document, known: Mapping[str, Any], place: Place) -> dict[str, str]:
    environment = {}
    for name, value in document.mapping(known.get("environment"), (*place, "environment")).items():
        at = (*place, "environment", name)
        if _SECRET.search(name):
            document.complain(at, _NO_SECRETS.removesuffix(","))
        elif place[0] == "matrix":
            environment[name] = str(value)
        elif (text := document.text(value, at)) is not None:
            environment[name] = text
    return environment


def _combinations(document: Document, content: Mapping[str, Any]) -> list[tuple[Any, Place]]:
    """Every combination of the matrix that nothing excludes, as named configurations."""
    matrix: dict[str, list[Any]] = {}
    for key, values in document.mapping(content["matrix"], ("matrix",)).items():
        matrix[key.lstrip("-")] = [value for value, _ in document.items(values, ("matrix", key))]
        if not matrix[key.lstrip("-")]:
            document.complain(("matrix", key), "needs a list of values")
    excluded = []
    for item, place in document.items(content.get("exclude"), ("exclude",)):
        if pattern := document.known(item, place, list(matrix)):
            excluded.append(pattern)
    found: list[tuple[Any, Place]] = []
    for values in product(*matrix.values()):
        one = dict(zip(matrix, values, strict=True))
        if any(all(one.get(key) == value for key, value in pattern.items()) for pattern in excluded):
            continue
        is_variable = {key: bool(_VARIABLE.fullmatch(key)) for key in one}
        item = {
            "name": "_".join(f"{key}={_short(value)}" for key, value in one.items()),
            "arguments": {key: value for key, value in one.items() if not is_variable[key]},
            "environment": {key: value for key, value in one.items() if is_variable[key]},
        }
        found.append((item, ("matrix",)))
    if matrix and not found:
        document.complain(("exclude",), "leaves nothing of the matrix")
    return found


def _short(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return re.sub(r"[^\w.+-]", "-", str(value))


def _configuration(
    document: Document,
    server: Mapping[str, Any],
    inherited: Mapping[str, Any],
    own: Mapping[str, Any],
    place: Place,
    factors: Sequence[str],
    replaced: bool,
) -> Configuration:
    arguments = {**inherited["arguments"], **own["arguments"]}
    environment = {**inherited["environment"], **own["environment"]}
    url = own.get("url") or (None if own.get("start") or replaced else server.get("url"))
    start = server.get("start") if replaced else own.get("start") or server.get("start")
    if url and (own.get("start") or replaced):
        document.complain(place, "start and url exclude each other: a server with a url is there already")
    elif url and (arguments or environment):
        document.complain(
            place, "a server with a url is there already: arguments and environment come too late"
        )
    elif url and not str(url).startswith(("http://", "https://")):
        document.complain(place, f"url {as_address(str(url))!r} must begin with http:// or https://")
    elif not url and not start:
        document.complain(place, "say how the server is started (server.start), or where it is (url)")
    words = [] if url or not start else _words(document, str(start), bool(arguments), place)
    values = {**arguments, **environment}
    return Configuration(
        name=str(own.get("name") or ""),
        start=words,
        url=str(url).rstrip("/") if url else None,
        arguments=arguments,
        environment=environment,
        factors={key: _factor(values.get(key)) for key in factors},
    )


def _words(document: Document, start: str, has_arguments: bool, place: Place) -> list[str]:
    """The words of the command that starts a server."""
    try:
        words = shlex.split(start)
    except ValueError as error:
        document.complain(place, f"start: {start!r} cannot be taken apart into words ({error})")
        return []
    if words[:1] == ["simulate"]:
        return [sys.executable, "-P", "-m", "vllm_locust", *words, *_LISTEN]
    if PORT not in start:
        if len(words) > 1 and words[0].rpartition("/")[2] == "vllm" and words[1] == "serve":
            return [*words, *_LISTEN]
        document.complain(place, f"start: {start!r} must say where the port goes, with {PORT}")
    elif has_arguments and ARGUMENTS not in words:
        document.complain(
            place, f"start: {start!r} must say where the arguments go, with {ARGUMENTS} as a word"
        )
    return words


def _factor(value: Any) -> Factor:
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return ",".join(str(one) for one in value) if isinstance(value, list) else str(value)
