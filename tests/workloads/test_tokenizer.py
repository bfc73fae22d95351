"""A local tokenizer: found where it lies, with or without a chat template; and what is said if it is not."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import orjson
import pytest

from vllm_locust.errors import UsageError
from vllm_locust.workloads import tokenizer
from vllm_locust.workloads.tokenizer import local_counter

TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|> {{ message['content'] | trim }} {{ eos_token }} "
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


class FakeTokenizer:
    """Stands in for `tokenizers.Tokenizer`: each word is a token, and BOS is one if wanted."""

    @staticmethod
    def from_file(path: str) -> "FakeTokenizer":
        if Path(path).read_text() != "words":
            raise ValueError("expected value at line 1")
        return FakeTokenizer()

    def encode(self, text: str, add_special_tokens: bool = True) -> Any:
        return SimpleNamespace(ids=[0] * add_special_tokens + [1] * len(text.split()))


@pytest.fixture(autouse=True)
def package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module = ModuleType("tokenizers")
    module.Tokenizer = FakeTokenizer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tokenizers", module)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    local_counter.cache_clear()
    tokenizer._tokenizer.cache_clear()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "tokenizer.json").write_text("words")
    return folder


def configure(model: Path, **config: Any) -> None:
    (model / "tokenizer_config.json").write_bytes(orjson.dumps(config))


def test_a_file_and_its_folder_count_alike(model: Path) -> None:
    assert local_counter(str(model))("one two three") == 4
    assert local_counter(str(model / "tokenizer.json"))("one two three") == 4


def test_one_counter_for_one_tokenizer(model: Path) -> None:
    assert local_counter(str(model)) is local_counter(str(model))


def test_a_model_by_name_comes_from_the_cache_of_this_machine(tmp_path: Path, model: Path) -> None:
    snapshots = tmp_path / "home" / "hub" / "models--org--name" / "snapshots"
    snapshots.mkdir(parents=True)
    model.rename(snapshots / "0123")
    assert local_counter("org/name")("one two") == 3


@pytest.mark.parametrize(
    "config",
    [
        {"chat_template": TEMPLATE, "eos_token": "</s>"},
        {"chat_template": [{"name": "default", "template": TEMPLATE}], "eos_token": {"content": "</s>"}},
    ],
)
def test_the_chat_template_counts_and_brings_its_own_special_tokens(
    model: Path, config: dict[str, Any]
) -> None:
    configure(model, **config)
    assert local_counter(str(model), chat=True)("one two three") == 3 + 3


def test_a_template_of_its_own_file(model: Path) -> None:
    (model / "chat_template.jinja").write_text("[INST] {{ messages[0]['content'] }} [/INST]")
    assert local_counter(str(model), chat=True)("one two") == 4


@pytest.mark.parametrize("config", [{}, {"chat_template": [{"name": "rag", "template": "x"}]}])
def test_without_a_template_chat_prompts_are_not_counted(model: Path, config: dict[str, Any]) -> None:
    configure(model, **config)
    with pytest.raises(UsageError, match=r"holds no chat template .* use --endpoint-type completions"):
        local_counter(str(model), chat=True)


def test_a_template_may_refuse(model: Path) -> None:
    configure(model, chat_template="{{ raise_exception('system first') }}")
    with pytest.raises(UsageError, match="refuses a single message of a user: system first"):
        local_counter(str(model), chat=True)("one")


def test_broken_configurations_are_named(model: Path) -> None:
    (model / "tokenizer_config.json").write_text("{")
    with pytest.raises(UsageError, match=r"tokenizer_config\.json is no valid JSON"):
        local_counter(str(model), chat=True)


def test_a_missing_package_says_what_to_install(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(UsageError, match=r"pip install 'vllm-locust\[tokenizers\]'"):
        local_counter(str(model))


def test_a_missing_tokenizer_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no tokenizer at org/none: give a tokenizer\.json, a folder"):
        local_counter("org/none")
    with pytest.raises(UsageError, match=f"no tokenizer at {tmp_path}"):
        local_counter(str(tmp_path))


def test_a_file_that_is_no_tokenizer(model: Path) -> None:
    (model / "tokenizer.json").write_text("{}")
    with pytest.raises(UsageError, match=r"tokenizer\.json is no tokenizer .*expected value at line 1"):
        local_counter(str(model))
