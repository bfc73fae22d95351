"""What stands for vLLM in the tests: an `LLM` with the few methods that are used of it, and no model.

A token is a word of a text; an answer has as many tokens as asked for. Prompts are cached in blocks of 4.
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

BLOCK = 4
TEMPLATE_TOKENS = 3
"""`<user>`, `</user>` and `<assistant>` around a message."""


class Tokenizer:
    """One token a word; the beginning of a text is one too where special tokens are added."""

    def __init__(self, chat_template: bool = True) -> None:
        self._ids: dict[str, int] = {}
        self._chat_template = chat_template

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        words = [*(["<s>"] if add_special_tokens else []), *text.split()]
        return [self._ids.setdefault(word, len(self._ids)) for word in words]

    def apply_chat_template(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> str:
        if not self._chat_template:
            raise ValueError("tokenizer.chat_template is not set")
        assert options == {"tokenize": False, "add_generation_prompt": True}
        said = "".join(f"<{one['role']}> {one['content']} </{one['role']}> " for one in messages)
        return f"{said}<assistant>"


@dataclass
class SamplingParams:
    """Takes what vLLM's takes, as far as it is used."""

    max_tokens: int = 16
    ignore_eos: bool = False
    temperature: float = 1.0


@dataclass
class LLM:
    """Answers at once. `fails_at`: the call of `generate` in which it dies."""

    max_model_len: int = 4096
    with_metrics: bool = True
    chat_template: bool = True
    fails_at: int | None = None
    calls: list[tuple[list[list[int]], list[SamplingParams]]] = field(default_factory=list)
    resets: int = 0

    def __post_init__(self) -> None:
        self._tokenizer = Tokenizer(self.chat_template)
        self._known: set[tuple[int, ...]] = set()
        self.llm_engine = SimpleNamespace(model_config=SimpleNamespace(max_model_len=self.max_model_len))

    def get_tokenizer(self) -> Tokenizer:
        return self._tokenizer

    def reset_prefix_cache(self) -> bool:
        self.resets += 1
        self._known.clear()
        return True

    def generate(self, prompts: Any, sampling: Any, use_tqdm: bool) -> list[Any]:
        assert use_tqdm in (True, False)
        ids = [prompt["prompt_token_ids"] for prompt in prompts]
        self.calls.append((ids, sampling))
        if len(self.calls) == self.fails_at:
            raise RuntimeError("Engine core died")
        return [
            self._output(one, params, place)
            for place, (one, params) in enumerate(zip(ids, sampling, strict=True))
        ]

    def _output(self, ids: list[int], params: SamplingParams, place: int) -> Any:
        blocks = [tuple(ids[:end]) for end in range(BLOCK, len(ids) + 1, BLOCK)]
        cached = BLOCK * sum(block in self._known for block in blocks)
        self._known.update(blocks)
        metrics = SimpleNamespace(
            arrival_time=time.time(),
            first_token_latency=0.010 * (place + 1),
            first_token_ts=100.0,
            last_token_ts=100.0 + 0.002 * (params.max_tokens - 1),
        )
        return SimpleNamespace(
            prompt_token_ids=ids,
            outputs=[SimpleNamespace(token_ids=[7] * params.max_tokens, finish_reason="length")],
            num_cached_tokens=cached,
            metrics=metrics if self.with_metrics else None,
        )


def modules(llm: type | None = None) -> dict[str, ModuleType]:
    """The modules of a vLLM, for `sys.modules`."""
    vllm, arg_utils, argparse_utils = (ModuleType(name) for name in ("vllm", "arg_utils", "argparse_utils"))

    @dataclass
    class EngineArgs:
        model: str
        max_num_seqs: int = 256

        @staticmethod
        def add_cli_args(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
            parser.add_argument("--model")
            parser.add_argument("--max-num-seqs", type=int, default=256)
            return parser

        @classmethod
        def from_cli_args(cls, args: argparse.Namespace) -> "EngineArgs":
            return cls(**vars(args))

    def start(model: str, max_num_seqs: int) -> LLM:
        if model == "missing":
            raise OSError("missing is no model")
        started = LLM()
        started.started_with = (model, max_num_seqs)  # type: ignore[attr-defined]
        return started

    vllm.LLM = llm or start  # type: ignore[attr-defined]
    vllm.SamplingParams = SamplingParams  # type: ignore[attr-defined]
    vllm.__version__ = "0.10.0"  # type: ignore[attr-defined]
    arg_utils.EngineArgs = EngineArgs  # type: ignore[attr-defined]
    argparse_utils.FlexibleArgumentParser = argparse.ArgumentParser  # type: ignore[attr-defined]
    return {
        "vllm": vllm,
        "vllm.engine": ModuleType("engine"),
        "vllm.engine.arg_utils": arg_utils,
        "vllm.utils": ModuleType("utils"),
        "vllm.utils.argparse_utils": argparse_utils,
    }
