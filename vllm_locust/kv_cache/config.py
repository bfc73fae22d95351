"""A model's config.json, of which only the part about text counts.

Rule: what is not there is None, and what is there must be what it should be: UsageError says which key of
which file is wrong. Published configs leave out what their family has by default; those few that cannot be
understood without are completed from `_LEFT_OUT`.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_locust.errors import UsageError

_TEXT_PARTS = ("text_config", "llm_config", "language_config", "thinker_config")
_GEMMA_3 = {
    "vocab_size": 262208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "sliding_window": 4096,
}
_LLAMA = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
}
_LEFT_OUT: Mapping[str, Mapping[str, Any]] = {
    "gemma3_text": _GEMMA_3,
    "llama": _LLAMA,
    "mistral": {**_LLAMA, "intermediate_size": 14336, "num_key_value_heads": 8},
}
"""Of text parts inside another model's config, by `model_type`: the defaults of transformers' classes."""


@dataclass(frozen=True, slots=True)
class Config:
    """A model's config.json; `text` is the part of the language model."""

    path: Path
    whole: Mapping[str, Any]
    text: Mapping[str, Any]

    @property
    def folder(self) -> Path:
        return self.path.parent

    @property
    def model_type(self) -> str:
        return str(self.text.get("model_type") or self.whole.get("model_type") or "")

    @property
    def quantization(self) -> Mapping[str, Any]:
        """How the weights are quantised; empty when they are not, or nobody says."""
        for part in (self.whole, self.text):
            for key in ("quantization_config", "compression_config"):
                if isinstance(known := part.get(key), Mapping):
                    return known
        return {}

    @property
    def dtype(self) -> str:
        """The type of numbers that the checkpoint was made with: `bfloat16`; float32 unless it says."""
        for part in (self.text, self.whole):
            name = part.get("dtype") or part.get("torch_dtype")
            if isinstance(name, str):
                return name.removeprefix("torch.")
        return "float32"

    def number(self, *names: str) -> int | None:
        """The first of these keys that is there: a whole number of at least 1. A dot goes inside: `a.b`."""
        for name in names:
            value: Any = self.text
            for part in name.split("."):
                value = value.get(part) if isinstance(value, Mapping) else None
            if value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UsageError(
                    f"{self.path}: {name} is {json.dumps(value)}, it must be a whole number of at least 1"
                )
            return value
        return None

    def need(self, what: str, *names: str) -> int:
        """The same, of a key that must be there."""
        found = self.number(*names)
        if found is None:
            raise UsageError(f"{self.path} does not say {what}: it has no {' or '.join(names)}")
        return found


def read_config(model: str) -> Config:
    """The config of a folder, a config.json, or a model by name in this machine's Hugging Face cache.

    UsageError when there is none, or when it is none.
    """
    path = _find(model)
    try:
        whole = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:  # of JSON, or of UTF-8
        raise UsageError(f"{path} is no JSON: {error}") from None
    if not isinstance(whole, dict):
        raise UsageError(f"{path} is no config of a model: it must be a JSON object")
    return Config(path, whole, _text_part(whole))


def _find(model: str) -> Path:
    path = Path(model).expanduser()
    for file in (path, path / "config.json", *_cached(model)):
        if file.is_file():
            return file
    raise UsageError(
        f"no config.json at {model}: give the file, a folder that holds one, or the name of a model in this "
        "machine's Hugging Face cache"
    )


def _cached(name: str) -> Iterator[Path]:
    """The newest first."""
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    hub = Path(os.environ.get("HF_HUB_CACHE", home / "hub"))
    found = hub.glob(f"models--{name.replace('/', '--')}/snapshots/*/config.json")
    yield from sorted(found, key=lambda file: file.stat().st_mtime, reverse=True)


def _text_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    inner = next((part for key in _TEXT_PARTS if isinstance(part := config.get(key), Mapping)), None)
    if inner is None:
        return config
    return _text_part({**_LEFT_OUT.get(str(inner.get("model_type")), {}), **inner})
