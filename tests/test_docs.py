"""What a user can type is documented: commands, options, scenarios, locustfiles."""

import argparse
import re
from pathlib import Path

import pytest

from vllm_locust import cli
from vllm_locust.load.options import add_options

ROOT = Path(__file__).parents[1]
PAGES = [page for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")) if page.name != "CHANGELOG.md"]
TEXT = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)


def commands() -> list[str]:
    """The subcommands of `vllm-locust`."""
    (choices,) = (
        action.choices for action in cli._parser()._actions if isinstance(action, argparse._SubParsersAction)
    )
    return list(choices)


def options() -> list[str]:
    """The suite's options to Locust, the first name of each."""
    parser = argparse.ArgumentParser(add_help=False)
    add_options(parser)
    return [action.option_strings[0] for action in parser._actions]


def stems(folder: str) -> list[str]:
    return sorted(path.stem for path in (ROOT / folder).glob("*.py"))


def is_written(words: str) -> bool:
    """Whether the documents have these words, not as part of longer ones: `--slo` is not in `--slow`."""
    return re.search(rf"(?<![\w-]){re.escape(words)}(?![\w-])", TEXT) is not None


@pytest.mark.parametrize("command", commands())
def test_every_command_is_documented(command: str) -> None:
    assert is_written(f"vllm-locust {command}")


@pytest.mark.parametrize("option", options())
def test_every_option_is_documented(option: str) -> None:
    assert is_written(option)


@pytest.mark.parametrize("name", stems("scenarios"))
def test_every_scenario_is_documented(name: str) -> None:
    # Some names are English words: only as code do they stand for the scenario.
    assert any(is_written(form) for form in (f"`{name}`", f"--scenario {name}", f"scenarios/{name}.py"))


@pytest.mark.parametrize("name", stems("locustfiles"))
def test_every_locustfile_is_documented(name: str) -> None:
    assert is_written(f"locustfiles/{name}.py")


def test_longer_words_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "TEXT", "`--slow` and vllm-locust simulate-it")
    assert not is_written("--slo")
    assert not is_written("vllm-locust simulate")
    assert is_written("--slow")


def test_nothing_is_left_to_be_filled_in():
    for page in PAGES:
        assert not re.search(r"\b[A-Z]+_TABLE\b|TODO|<this |XXX", page.read_text(encoding="utf-8")), page.name
