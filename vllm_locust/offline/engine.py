"""vLLM's offline engine, as this package uses it: start, tokens of a prompt, generate, forget.

Rule: the only module that touches vLLM, and only when an engine is started. What it needs of vLLM's objects
is little and has stayed the same since 0.10: `LLM.generate` with token ids, `LLM.get_tokenizer`,
`LLM.reset_prefix_cache`, `SamplingParams`, and of an answer its token ids and, where there are any, metrics.
"""

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NoReturn

from vllm_locust.errors import UsageError

NOT_INSTALLED = (
    "vllm-locust offline runs vLLM itself, which is not installed: pip install 'vllm-locust[vllm]'"
)


@dataclass(frozen=True, slots=True)
class Times:
    """Of one request, as vLLM took them; in seconds."""

    arrival_s: float
    """`time.time` when the engine was given the request."""
    ttft_s: float
    """From there to the first token."""
    decode_s: float
    """From the first token to the last."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one prompt; None is not told by this vLLM."""

    prompt_tokens: int
    output_tokens: int
    cached_tokens: int | None = None
    finish_reason: str | None = None
    times: Times | None = None


class Engine:
    """One engine, for as many runs as are wanted."""

    def __init__(self, llm: Any, sampling_params: Callable[..., Any], version: str | None = None) -> None:
        """`llm` is a `vllm.LLM`, `sampling_params` the class of this name."""
        self._llm = llm
        self._sampling_params = sampling_params
        self._tokenizer = llm.get_tokenizer()
        self.version = version

    @property
    def max_model_len(self) -> int:
        """Tokens of prompt and answer together that the model takes."""
        length: int = self._llm.llm_engine.model_config.max_model_len
        return length

    def encode(self, text: str) -> list[int]:
        """Token ids of a bare text."""
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def encode_prompt(self, text: str) -> list[int]:
        """Token ids of a prompt as /v1/completions makes them, with what the tokenizer adds by itself."""
        return list(self._tokenizer.encode(text))

    def encode_chat(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """Token ids of a chat inside the model's template, up to where the answer begins."""
        try:
            text = self._tokenizer.apply_chat_template(
                [dict(message) for message in messages], tokenize=False, add_generation_prompt=True
            )
        except ValueError as error:
            raise UsageError(
                f"the tokenizer has no chat template for this ({error}): use --endpoint-type completions"
            ) from None
        return self.encode(text) if isinstance(text, str) else list(text)

    def count_prompt(self, text: str) -> int:
        """Tokens of a whole prompt of /v1/completions."""
        return len(self.encode_prompt(text))

    def count_chat(self, text: str) -> int:
        """Tokens of a chat with this one message."""
        return len(self.encode_chat([{"role": "user", "content": text}]))

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sequence[Mapping[str, Any]]
    ) -> list[Answer]:
        """Answers in the order of the prompts, each prompt with its own fields of SamplingParams."""
        outputs = self._llm.generate(
            [{"prompt_token_ids": list(prompt)} for prompt in prompts],
            [self._sampling_params(**fields) for fields in sampling],
            use_tqdm=sys.stderr.isatty(),
        )
        return [_answer(output) for output in outputs]

    def forget(self) -> bool:
        """Empty the prefix cache; False when this vLLM cannot."""
        reset = getattr(self._llm, "reset_prefix_cache", None)
        # Older ones do it and return nothing.
        return reset is not None and reset() is not False


def start_engine(model: str, arguments: Sequence[str]) -> Engine:
    """Load a model, with vLLM's own engine arguments (`--max-num-seqs 64`).

    UsageError when vLLM is not there, does not know an argument, or cannot start so.
    """
    try:
        vllm: Any = import_module("vllm")
        engine_args_class: Any = import_module("vllm.engine.arg_utils").EngineArgs
    except ModuleNotFoundError as error:
        raise UsageError(
            NOT_INSTALLED if error.name == "vllm" else f"vLLM cannot be loaded: {error}"
        ) from None
    parser = engine_args_class.add_cli_args(_parser_class()(prog="engine arguments"))
    parser.error = _refuse
    engine_args = engine_args_class.from_cli_args(parser.parse_args(["--model", model, *arguments]))
    try:
        if hasattr(vllm.LLM, "from_engine_args"):
            llm = vllm.LLM.from_engine_args(engine_args)
        else:
            llm = vllm.LLM(**dataclasses.asdict(engine_args))
    except (ValueError, OSError, RuntimeError) as error:  # of a model that is none, or memory that lacks
        raise UsageError(f"vLLM cannot start {model}: {error}") from error
    return Engine(llm, vllm.SamplingParams, getattr(vllm, "__version__", None))


def _parser_class() -> Any:
    for module in ("vllm.utils.argparse_utils", "vllm.utils"):
        try:
            return import_module(module).FlexibleArgumentParser
        except (ImportError, AttributeError):
            continue
    raise UsageError("this vLLM's way to read engine arguments is not known here: versions from 0.10 on are")


def _refuse(message: str) -> NoReturn:
    raise UsageError(f"engine arguments (behind --): {message}")


def _answer(output: Any) -> Answer:
    first = output.outputs[0]
    return Answer(
        prompt_tokens=len(output.prompt_token_ids or ()),
        output_tokens=sum(len(one.token_ids) for one in output.outputs),
        cached_tokens=getattr(output, "num_cached_tokens", None),
        finish_reason=first.finish_reason,
        times=_times(getattr(output, "metrics", None)),
    )


def _times(metrics: Any) -> Times | None:
    """None where this vLLM, or an engine without statistics, tells no times."""
    ttft_s = getattr(metrics, "first_token_latency", None)
    last_s, first_s = getattr(metrics, "last_token_ts", None), getattr(metrics, "first_token_ts", None)
    if not ttft_s or last_s is None or first_s is None:
        return None
    return Times(metrics.arrival_time, ttft_s, last_s - first_s)
