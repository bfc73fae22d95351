"""Names of the parts of an experiment, which are names of folders too, and where files of the suite lie."""

import re
from collections.abc import Sequence
from pathlib import Path

from vllm_locust.experiment.document import Document, Place

DEFAULT_LOCUSTFILE = "chat.py"

_PACKAGE = Path(__file__).parents[1]
_NAME = re.compile(r"[\w+=][\w.+=-]*")


def check_names(document: Document, names: Sequence[str], place: Place) -> None:
    """Complain of what no folder should be called, and of two that are called alike."""
    for number, name in enumerate(names):
        if name and not _NAME.fullmatch(name):
            document.complain((*place, number), f"{name!r} is no name: take letters, digits and . _ - + =")
        if name and name in names[:number]:
            document.complain((*place, number), f"there are two called {name}")


def locustfile_folder() -> Path:
    """The suite's locustfiles: inside an installed package, beside it in a checkout."""
    installed = _PACKAGE / "locustfiles"
    return installed if installed.is_dir() else _PACKAGE.parent / "locustfiles"


def shipped_folder() -> Path:
    """The experiments that come with the suite."""
    return Path(__file__).parent / "shipped"
