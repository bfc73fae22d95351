"""The calculator against a real vLLM: as many blocks as it makes, for each kind of attention."""

import argparse
import json
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.real.vllm_environment import ENVIRONMENT, MODEL, PYTHON
from vllm_locust.kv_cache import command
from vllm_locust.kv_cache.server import ask_server

GIB = "1G"
"""VLLM_CPU_KVCACHE_SPACE=1 of scripts/serve-tiny-vllm."""

ASK = """
import json, sys
from vllm import LLM
from vllm.distributed import cleanup_dist_env_and_memory
if __name__ == "__main__":
    for name, folder, backend in json.loads(sys.argv[1]):
        llm = LLM(folder, load_format="dummy", dtype="float32", enforce_eager=True, max_model_len=4096,
                  attention_backend=backend)
        cache = llm.llm_engine.vllm_config.cache_config
        print("BLOCKS", json.dumps([name, cache.num_gpu_blocks, cache.block_size]), flush=True)
        del llm
        cleanup_dist_env_and_memory()
"""

COMMON: dict[str, Any] = {
    "vocab_size": 4096,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "max_position_embeddings": 8192,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 1,
    "dtype": "float32",
    "hidden_act": "silu",
}
GEMMA: dict[str, Any] = {
    "head_dim": 32,
    "sliding_window": 512,
    "query_pre_attn_scalar": 32,
    "hidden_activation": "gelu_pytorch_tanh",
}
MODELS: dict[str, dict[str, Any]] = {
    "windows everywhere": {
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "num_hidden_layers": 3,
        "num_key_value_heads": 2,
        "sliding_window": 512,
    },
    "windows in each second layer": {
        "architectures": ["Gemma2ForCausalLM"],
        "model_type": "gemma2",
        "num_hidden_layers": 5,
        "num_key_value_heads": 2,
        **GEMMA,
    },
    "windows in five of six layers": {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "num_hidden_layers": 14,
        "num_key_value_heads": 1,
        **GEMMA,
    },
    "MQA": {
        "architectures": ["FalconForCausalLM"],
        "model_type": "falcon",
        "num_hidden_layers": 2,
        "multi_query": True,
        "new_decoder_architecture": False,
        "parallel_attn": True,
        "bias": False,
        "alibi": False,
    },
    "MLA": {
        "architectures": ["DeepseekV2ForCausalLM"],
        "model_type": "deepseek_v2",
        "num_hidden_layers": 2,
        "num_key_value_heads": 4,
        "kv_lora_rank": 64,
        "q_lora_rank": None,
        "qk_rope_head_dim": 32,
        "qk_nope_head_dim": 32,
        "v_head_dim": 32,
        "n_routed_experts": 4,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
        "first_k_dense_replace": 2,
        "moe_intermediate_size": 64,
    },
}
BACKENDS = {"MLA": "CPU_MLA"}
"""On a CPU with AMX vLLM would take a backend that has no float32."""


@dataclass(frozen=True, slots=True)
class Engine:
    """What vLLM has made of a model."""

    folder: Path
    blocks: int
    block_size: int


def calculated(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    options = ("--kv-cache-memory-bytes", GIB, "--dtype", "float32", "--json")
    assert command.run(parser.parse_args([*arguments, *options])) == 0
    return json.loads(capsys.readouterr().out)


def test_as_many_blocks_as_the_server_has(vllm_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    (cache,) = ask_server(vllm_url)
    found = calculated(capsys, str(MODEL), "--block-size", str(cache.block_size))
    assert found["fits"]["num_gpu_blocks"] == cache.num_gpu_blocks
    assert found["fits"]["tokens"] == cache.capacity_tokens - cache.block_size  # vLLM counts its own block
    assert cache.max_model_len == 4096
    (row,) = [row for row in found["fits"]["table"] if row["tokens"] == 4096]
    assert row["max_concurrency"] == cache.concurrency(4096) == cache.max_concurrency - 1 / 32


def test_beside_the_server_nothing_is_off(vllm_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = calculated(capsys, str(MODEL), "--url", vllm_url)
    assert found["comparison"]["off"] == 0.0
    assert found["comparison"]["kv_cache_bytes"] == 1 << 30


@pytest.fixture(scope="module")
def engines(vllm_url: str, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Engine]:
    """What vLLM makes of each kind of model, one after another in one process."""
    folders = {kind: tmp_path_factory.mktemp("model") for kind in MODELS}
    for kind, folder in folders.items():
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(MODEL / name, folder)
        (folder / "config.json").write_bytes(orjson.dumps({**COMMON, **MODELS[kind]}))
    script = tmp_path_factory.mktemp("script") / "ask.py"
    script.write_text(ASK, encoding="utf-8")
    wanted = json.dumps([(kind, str(folder), BACKENDS.get(kind)) for kind, folder in folders.items()])
    asked = subprocess.run(
        [PYTHON, script, wanted], env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    told = [line.partition(" ")[2] for line in asked.stdout.splitlines() if line.startswith("BLOCKS")]
    assert len(told) == len(MODELS), asked.stdout[-4000:] + asked.stderr[-4000:]
    return {kind: Engine(folders[kind], blocks, size) for kind, blocks, size in map(json.loads, told)}


@pytest.mark.parametrize("kind", MODELS)
def test_as_many_blocks_as_the_engine_makes(
    engines: Mapping[str, Engine], capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    engine = engines[kind]
    found = calculated(capsys, str(engine.folder), "--block-size", str(engine.block_size))
    assert found["fits"]["num_gpu_blocks"] == engine.blocks
