"""A YAML file as plain data that knows where everything stands, for the sentences about what is wrong.

Rule: keys are text as it was written (`on` stays `on`, `64` stays `64`), and no key may come twice.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from vllm_locust.errors import UsageError

Place = tuple[str | int, ...]
"""The keys and positions that lead to a value."""


@dataclass(slots=True)
class Document:
    """The content of a file, and the mistakes that were found in it so far."""

    file: str
    content: Any = None
    problems: list[str] = field(default_factory=list)
    _lines: dict[Place, int] = field(default_factory=dict)
    _texts: dict[Place, str] = field(default_factory=dict)

    def complain(self, place: Place, sentence: str) -> None:
        """Note a mistake: where it is, and what is allowed."""
        line = next(
            self._lines[place[:end]] for end in range(len(place), -1, -1) if place[:end] in self._lines
        )
        self.problems.append(f"{self.file}, line {line}{', ' if place else ''}{_path(place)}: {sentence}.")

    def mapping(self, value: Any, place: Place) -> Mapping[str, Any]:
        """`value`, which must be a mapping; nothing at all counts as an empty one."""
        if value is None:
            return {}
        if not isinstance(value, dict):
            self.complain(place, f"is {_kind(value)}, it must be a mapping of names to values")
            return {}
        return value

    def known(self, value: Any, place: Place, keys: Sequence[str]) -> Mapping[str, Any]:
        """A mapping that has none but these keys."""
        found = self.mapping(value, place)
        for key in found:
            if key not in keys:
                close = get_close_matches(key, keys, n=1)
                hint = f" (did you mean {close[0]}?)" if close else ""
                self.complain((*place, key), f"there is no such key{hint}: allowed are {', '.join(keys)}")
        return found

    def items(self, value: Any, place: Place) -> Iterator[tuple[Any, Place]]:
        """The items of a list, each with its place."""
        if value is not None and not isinstance(value, list):
            self.complain(place, f"is {_kind(value)}, it must be a list")
        elif value is not None:
            yield from ((item, (*place, number)) for number, item in enumerate(value))

    def text(self, value: Any, place: Place) -> str | None:
        """A scalar as it was written: `on` and `64` are names as good as any."""
        if value is None or isinstance(value, dict | list):
            self.complain(place, "must be text" if value is None else f"is {_kind(value)}, it must be text")
            return None
        return self._texts[place]

    def add(self, node: yaml.Node, place: Place, loader: yaml.SafeLoader) -> Any:
        """The value of a node, whose parts are noted."""
        self._lines[place] = node.start_mark.line + 1
        if isinstance(node, yaml.SequenceNode):
            return [self.add(item, (*place, number), loader) for number, item in enumerate(node.value)]
        if not isinstance(node, yaml.MappingNode):
            self._texts[place] = str(node.value)
            return loader.construct_object(node, deep=True)
        seen: set[str] = set()
        for key, _ in node.value:
            at = (*place, str(key.value))
            self._lines[at] = key.start_mark.line + 1
            if key.value in seen:
                self.complain(at, "comes twice")
            seen.add(str(key.value))
        loader.flatten_mapping(node)
        return {
            str(key.value): self.add(value, (*place, str(key.value)), loader) for key, value in node.value
        }


def parse(text: str, file: str) -> Document:
    """The document in `text`; UsageError when it is no YAML, or no mapping."""
    loader = yaml.SafeLoader(text)
    document = Document(file)
    try:
        node = loader.get_single_node()
        document.content = None if node is None else document.add(node, (), loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        raise UsageError(f"{file}{where}: is no YAML, {getattr(error, 'problem', None) or error}") from None
    finally:
        loader.dispose()
    if not isinstance(document.content, dict):
        raise UsageError(f"{file}: is no experiment, it must be a mapping with server, workloads and more")
    return document


def read(path: Path) -> Document:
    """The document in a file."""
    try:
        return parse(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} is no text in UTF-8") from None


def _path(place: Place) -> str:
    words = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    return words.removeprefix(".")


def _kind(value: Any) -> str:
    return "a mapping" if isinstance(value, dict) else "a list" if isinstance(value, list) else repr(value)
