"""`vllm-locust simulate`: its options, under the names `vllm serve` gives them, and its life as a process."""

import argparse
import gc
import json
import os
import signal
from contextlib import suppress
from pathlib import Path

from vllm_locust.simulator.config import PROFILERS, LimitOverrides, ProfilerConfig, configure
from vllm_locust.simulator.cost import DEFAULT_PRESET, PRESETS

DESCRIPTION = """\
Serve what looks like vLLM to any client: its scheduler (continuous batching, chunked prefill, paged KV cache
with prefix caching, preemption) in simulated time, its API and its /metrics on a real socket. No GPU, no
weights, nothing to download. As with vLLM, VLLM_SERVER_DEV_MODE=1 in the environment adds
POST /reset_prefix_cache. Options with vLLM's names mean what they mean there; those that are not given come
from the preset:
""" + "\n".join(f"  {name:<10} {preset.summary}" for name, preset in PRESETS.items())

EXAMPLES = """\
examples:
  vllm-locust simulate                                             a quick server on port 8000
  vllm-locust simulate --preset a100-13b --max-num-seqs 64         what does a smaller batch cost?
  vllm-locust simulate --num-gpu-blocks-override 100               watch preemptions happen
  vllm-locust simulate --preset metronome --send-log sent.jsonl    the truth to judge a client against
"""

_DEV_MODE = "VLLM_SERVER_DEV_MODE"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    _add_serving(parser.add_argument_group("serving"))
    _add_engine(parser.add_argument_group("engine (default: the preset's)"))
    _add_own(parser.add_argument_group("simulator"))


def _add_serving(group: "argparse._ArgumentGroup") -> None:
    group.add_argument("--host", default="127.0.0.1", help="Address to listen on (default: %(default)s).")
    group.add_argument(
        "--port", type=int, default=8000, help="Port to listen on; 0 takes a free one (default: %(default)s)."
    )
    group.add_argument(
        "--served-model-name", metavar="NAME", help="Model name clients must use (default: the preset's)."
    )
    group.add_argument(
        "--api-key", metavar="KEY", help="Answer /v1 only to requests that bear this key (default: none)."
    )
    group.add_argument(
        "--max-num-queued-reqs",
        type=int,
        metavar="N",
        help="Refuse requests while this many are waiting or running (default: no limit).",
    )
    group.add_argument(
        "--stream-interval",
        type=int,
        default=1,
        metavar="N",
        help="Put this many tokens into one chunk of a stream (default: %(default)s).",
    )
    group.add_argument(
        "--sse-keep-alive-interval",
        type=float,
        metavar="SECONDS",
        help="Send a comment on streams that were silent for so long (default: never).",
    )
    group.add_argument(
        "--enable-prompt-tokens-details",
        action="store_true",
        help="Tell the cached prompt tokens in the usage (default: off).",
    )
    group.add_argument(
        "--limit-mm-per-prompt",
        dest="images_per_prompt",
        type=_images_per_prompt,
        metavar="JSON",
        help="""Read images, at most so many in a prompt: '{"image": 4}' (default: read text only).""",
    )
    group.add_argument(
        "--profiler-config",
        type=_profiler_config,
        metavar="JSON",
        help="""Offer /start_profile and /stop_profile, which leaves a trace with one event, in the folder of
        '{"profiler": "torch", "torch_profiler_dir": "/tmp/traces"}' (default: no profiler).""",
    )


def _images_per_prompt(text: str) -> int:
    with suppress(ValueError):
        limits = json.loads(text)
        if isinstance(limits, dict) and list(limits) == ["image"]:
            images = limits["image"]
            if type(images) is int and images >= 0:
                return images
    raise argparse.ArgumentTypeError(f"""{text} is no limit of images, write '{{"image": 4}}'""")


def _profiler_config(text: str) -> ProfilerConfig:
    with suppress(ValueError):
        config = json.loads(text)
        if isinstance(config, dict) and config.get("profiler") in PROFILERS:
            kind, folder = config["profiler"], config.get("torch_profiler_dir")
            if isinstance(folder, str) if kind == "torch" else folder is None:
                return ProfilerConfig(kind, Path(folder).absolute() if folder else None)
    example = """{"profiler": "torch", "torch_profiler_dir": "/tmp/traces"}"""
    raise argparse.ArgumentTypeError(f"{text} is no configuration of a profiler, write '{example}'")


def _add_engine(group: "argparse._ArgumentGroup") -> None:
    for option, text in (
        ("--max-model-len", "Longest prompt plus output, in tokens."),
        ("--max-num-seqs", "Most requests in one batch."),
        ("--max-num-batched-tokens", "Most tokens computed in one step."),
        ("--num-gpu-blocks-override", "Blocks of KV cache."),
        ("--block-size", "Tokens in a block."),
    ):
        group.add_argument(option, type=int, metavar="N", help=text)
    for option, text in (
        ("--enable-chunked-prefill", "Compute long prompts in pieces beside the decoding requests."),
        ("--enable-prefix-caching", "Reuse the KV cache of prompts that begin alike."),
    ):
        group.add_argument(option, action=argparse.BooleanOptionalAction, help=text)


def _add_own(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--preset",
        default=DEFAULT_PRESET,
        choices=list(PRESETS),
        help="Model and card to stand for (default: %(default)s).",
    )
    group.add_argument(
        "--send-log",
        type=Path,
        metavar="FILE",
        help="Write to this file, a line per request, when it came and when its chunks left (default: none).",
    )
    group.add_argument(
        "--exit-with-parent",
        action="store_true",
        help="End when the process that started it ends (default: off).",
    )


def run(args: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM."""
    from vllm_locust.simulator.server import Server

    config = configure(
        args.preset,
        LimitOverrides(
            max_model_len=args.max_model_len,
            max_num_seqs=args.max_num_seqs,
            max_num_batched_tokens=args.max_num_batched_tokens,
            num_gpu_blocks=args.num_gpu_blocks_override,
            block_size=args.block_size,
            enable_chunked_prefill=args.enable_chunked_prefill,
            enable_prefix_caching=args.enable_prefix_caching,
        ),
        served_model_name=args.served_model_name,
        host=args.host,
        port=args.port,
        max_num_queued_reqs=args.max_num_queued_reqs,
        stream_interval=args.stream_interval,
        sse_keep_alive_interval_s=args.sse_keep_alive_interval,
        api_key=args.api_key,
        enable_prompt_tokens_details=args.enable_prompt_tokens_details,
        images_per_prompt=args.images_per_prompt,
        profiler=args.profiler_config,
        dev_mode=os.environ.get(_DEV_MODE, "0") not in ("", "0"),
        send_log=args.send_log,
        exit_with_parent=args.exit_with_parent,
    )
    server = Server(config)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: server.stop())
    # What exists now lives as long as the process: the collector need not look at it again.
    gc.collect()
    gc.freeze()
    ready = f"vllm-locust simulator (preset {config.preset}, model {config.model}) ready on {server.url}"
    print(ready, flush=True)
    server.serve_forever()
    return 0
