"""The simulator's configuration: a preset, and what the user says otherwise."""

from dataclasses import dataclass, replace
from pathlib import Path

from vllm_locust.errors import UsageError
from vllm_locust.simulator.cost import DEFAULT_PRESET, PRESETS, CostModel
from vllm_locust.simulator.limits import EngineLimits

PROFILERS = ("torch", "cuda", "proton")


@dataclass(frozen=True, slots=True)
class ProfilerConfig:
    """What of vLLM's --profiler-config matters here."""

    profiler: str
    torch_profiler_dir: Path | None = None
    """Where traces go, of the torch profiler only."""


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Everything one server needs; `configure` makes it from a preset."""

    preset: str
    model: str
    cost: CostModel
    limits: EngineLimits
    host: str = "127.0.0.1"
    port: int = 8000
    max_num_queued_reqs: int | None = None
    stream_interval: int = 1
    sse_keep_alive_interval_s: float | None = None
    api_key: str | None = None
    enable_prompt_tokens_details: bool = False
    images_per_prompt: int | None = None
    """None: the model reads text only."""
    dev_mode: bool = False
    """Whether the endpoints for development are there."""
    profiler: ProfilerConfig | None = None
    """None: no endpoints for a profiler."""
    send_log: Path | None = None
    exit_with_parent: bool = False


@dataclass(frozen=True, slots=True)
class LimitOverrides:
    """The limits a user gave; None means the preset's."""

    max_model_len: int | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    num_gpu_blocks: int | None = None
    block_size: int | None = None
    enable_chunked_prefill: bool | None = None
    enable_prefix_caching: bool | None = None


def configure(
    preset: str = DEFAULT_PRESET,
    overrides: LimitOverrides | None = None,
    *,
    served_model_name: str | None = None,
    **options: object,
) -> ServerConfig:
    """The configuration of a preset with overrides; UsageError names every impossible combination.

    `options` are the remaining fields of `ServerConfig`. Limits that were not given follow those that were:
    the batch never has more slots than token budget, and the context length never exceeds the KV cache.
    """
    if preset not in PRESETS:
        raise UsageError(f"--preset {preset}: unknown, it is one of {', '.join(PRESETS)}.")
    given = overrides or LimitOverrides()
    limits = _resolve(PRESETS[preset].limits, given)
    config = ServerConfig(
        preset=preset,
        model=served_model_name or PRESETS[preset].model,
        cost=PRESETS[preset].cost,
        limits=limits,
    )
    config = replace(config, **options)  # type: ignore[arg-type]
    problems = _problems(config, given)
    if problems:
        raise UsageError(*problems)
    return config


def _resolve(preset: EngineLimits, given: LimitOverrides) -> EngineLimits:
    names = LimitOverrides.__slots__
    limits = replace(preset, **{name: value for name in names if (value := getattr(given, name)) is not None})
    if given.max_num_batched_tokens is None:
        at_least = limits.max_num_seqs if limits.enable_chunked_prefill else limits.max_model_len
        limits = replace(limits, max_num_batched_tokens=max(limits.max_num_batched_tokens, at_least))
    if given.max_num_seqs is None:
        limits = replace(limits, max_num_seqs=min(limits.max_num_seqs, limits.max_num_batched_tokens))
    if given.max_model_len is None:
        limits = replace(limits, max_model_len=min(limits.max_model_len, limits.kv_tokens))
    return limits


def _problems(config: ServerConfig, given: LimitOverrides) -> list[str]:
    limits = config.limits
    problems = [
        f"{option} {value}: must be at least {least}."
        for option, value, least in (
            ("--max-model-len", limits.max_model_len, 2),
            ("--max-num-seqs", limits.max_num_seqs, 1),
            ("--max-num-batched-tokens", limits.max_num_batched_tokens, 2),
            ("--num-gpu-blocks-override", limits.num_gpu_blocks, 2),
            ("--block-size", limits.block_size, 1),
            ("--stream-interval", config.stream_interval, 1),
        )
        if value < least
    ]
    if limits.max_num_batched_tokens < limits.max_num_seqs:
        problems.append(
            f"--max-num-batched-tokens {limits.max_num_batched_tokens}: must be at least --max-num-seqs "
            f"({limits.max_num_seqs})."
        )
    too_long = not limits.enable_chunked_prefill and limits.max_model_len > limits.max_num_batched_tokens
    if given.max_model_len is not None and too_long:
        problems.append(
            f"--max-num-batched-tokens {limits.max_num_batched_tokens}: is smaller than --max-model-len "
            f"({limits.max_model_len}), and without chunked prefill a prompt must fit into one step."
        )
    if given.max_model_len is not None and limits.max_model_len > limits.kv_tokens:
        problems.append(
            f"--max-model-len {limits.max_model_len}: needs more KV cache than there is, at most "
            f"{limits.kv_tokens} tokens ({limits.usable_blocks} usable blocks of {limits.block_size})."
        )
    return problems
