"""The experiments that come with the suite, by name."""

from difflib import get_close_matches
from pathlib import Path

from vllm_locust.errors import UsageError
from vllm_locust.experiment.document import read
from vllm_locust.experiment.names import shipped_folder


def names() -> list[str]:
    """All of them."""
    return sorted(path.stem for path in shipped_folder().glob("*.yaml"))


def path_of(name: str) -> Path:
    """The file of one of them."""
    if name not in names():
        close = get_close_matches(name, names(), n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise UsageError(f"there is no experiment {name!r}{hint}: ours are {', '.join(names())}")
    return shipped_folder() / f"{name}.yaml"


def find(file_or_name: str) -> Path:
    """The file that is meant."""
    path = Path(file_or_name)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        if not path.is_file():
            raise UsageError(f"there is no file {path}")
        return path
    return path_of(file_or_name)


def listing() -> str:
    """A line for each: its name and its question."""
    return "".join(
        f"{name:<18} {(read(path_of(name)).content or {}).get('question', '')}\n" for name in names()
    )
