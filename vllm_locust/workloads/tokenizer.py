"""Counting tokens on this machine, with the model's own `tokenizer.json`; nothing is ever downloaded.

Needs the optional package `tokenizers`. For /v1/chat/completions the chat template counts as well: it is read
from beside the tokenizer (`chat_template.jinja`, or `tokenizer_config.json`) and rendered as vLLM does.
"""

import importlib
import os
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

import orjson

from vllm_locust.errors import UsageError
from vllm_locust.workloads.scenario import CountTokens, Encode


@lru_cache(maxsize=8)
def local_counter(path_or_name: str, chat: bool = False) -> CountTokens:
    """Tokens of a prompt: bare, as /v1/completions counts it, or inside the chat template.

    `path_or_name` is a tokenizer.json, a folder that holds one, or the name of a model that the Hugging Face
    cache of this machine holds (`org/model`).
    """
    file = _tokenizer_file(path_or_name)
    tokenizer = _tokenizer(file)
    if not chat:
        return lambda text: len(tokenizer.encode(text).ids)
    render = _chat_template(file.parent)
    # The template brings its own special tokens.
    return lambda text: len(tokenizer.encode(render(text), add_special_tokens=False).ids)


@lru_cache(maxsize=8)
def local_encoder(path_or_name: str) -> Encode:
    """The ids of a bare text; see `local_counter`."""
    tokenizer = _tokenizer(_tokenizer_file(path_or_name))
    return lambda text: list(tokenizer.encode(text, add_special_tokens=False).ids)


@lru_cache(maxsize=4)
def _tokenizer(file: Path) -> Any:
    try:
        tokenizers = importlib.import_module("tokenizers")
    except ImportError:
        raise UsageError(
            "a local tokenizer needs the package tokenizers: pip install 'vllm-locust[tokenizers]'"
        ) from None
    try:
        return tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the package raises nothing narrower
        raise UsageError(f"{file} is no tokenizer of the tokenizers package ({error})") from None


def _tokenizer_file(path_or_name: str) -> Path:
    path = Path(path_or_name).expanduser()
    for file in (path, path / "tokenizer.json", *_cached_files(path_or_name)):
        if file.is_file():
            return file
    raise UsageError(
        f"no tokenizer at {path_or_name}: give a tokenizer.json, a folder that holds one, "
        "or the name of a model in this machine's Hugging Face cache"
    )


def _cached_files(name: str) -> list[Path]:
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    hub = Path(os.environ.get("HF_HUB_CACHE", home / "hub"))
    snapshots = hub / f"models--{name.replace('/', '--')}" / "snapshots"
    return sorted(snapshots.glob("*/tokenizer.json"), key=lambda file: file.stat().st_mtime, reverse=True)


def _chat_template(folder: Path) -> Callable[[str], str]:
    config = _config(folder / "tokenizer_config.json")
    source = _template_source(folder / "chat_template.jinja", config)
    if source is None:
        raise UsageError(
            f"{folder} holds no chat template (chat_template.jinja, or in tokenizer_config.json), so that "
            "chat prompts cannot be counted: use --endpoint-type completions"
        )
    template = _environment().from_string(source)
    specials = {key: _text_of(value) for key, value in config.items() if key.endswith("_token")}

    def render(text: str) -> str:
        messages = [{"role": "user", "content": text}]
        rendered: str = template.render(messages=messages, add_generation_prompt=True, **specials)
        return rendered

    return render


def _environment() -> Any:
    sandbox = importlib.import_module("jinja2.sandbox")
    environment = sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


def _refuse(message: str) -> NoReturn:
    raise UsageError(f"the chat template refuses a single message of a user: {message}")


def _template_source(file: Path, config: dict[str, Any]) -> str | None:
    if file.is_file():
        return file.read_text(encoding="utf-8")
    source = config.get("chat_template")
    if isinstance(source, list):  # several, by name
        source = {entry["name"]: entry["template"] for entry in source}.get("default")
    return source


def _config(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        config: dict[str, Any] = orjson.loads(file.read_bytes())
    except orjson.JSONDecodeError as error:
        raise UsageError(f"{file} is no valid JSON ({error})") from None
    return config


def _text_of(token: Any) -> Any:
    """A special token is written as a text, or as an object that holds it."""
    return token.get("content") if isinstance(token, dict) else token
