"""Sizes of weights: published counts of parameters, and files."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.kv_cache import configs
from tests.kv_cache.configs import written
from vllm_locust.errors import UsageError
from vllm_locust.kv_cache.config import read_config
from vllm_locust.kv_cache.shape import cache_shape
from vllm_locust.kv_cache.weights import Weights, count_parameters, weights_of


def weights(folder: Path, config: Any, dtype: str = "bfloat16", given_gb: float | None = None) -> Weights:
    known = read_config(str(written(folder, config)))
    return weights_of(known, cache_shape(known), dtype, given_gb)


@pytest.mark.parametrize(
    ("config", "billions"),
    [
        (configs.LLAMA_3_8B, 8.03),
        (configs.LLAMA_2_7B, 6.74),
        (configs.QWEN_2_5_72B, 72.7),
        (configs.MISTRAL_7B, 7.24),
        (configs.DEEPSEEK_V3, 671),
        (configs.GEMMA_3_27B, 27.0),  # without the 0.4 billion that see
        (configs.GPT_OSS_20B, 20.9),
        (configs.FALCON_7B, 6.92),
        (configs.FALCON_40B, 41.3),
    ],
)
def test_parameters_are_those_of_the_model_card(tmp_path: Path, config: Any, billions: float) -> None:
    known = read_config(str(written(tmp_path, config)))
    assert count_parameters(known, cache_shape(known)).total / 1e9 == pytest.approx(billions, rel=0.01)


@pytest.mark.parametrize(
    ("config", "gigabytes"),
    [
        (configs.LLAMA_3_8B, 16.06),
        (configs.DEEPSEEK_V3, 672),  # FP8 but for its embeddings
        (configs.GPT_OSS_20B, 13.8),  # as its files are
        ({**configs.QWEN_2_5_72B, "quantization_config": {"quant_method": "gptq", "bits": 4}}, 41.6),
    ],
)
def test_the_estimate_of_the_size(tmp_path: Path, config: Any, gigabytes: float) -> None:
    estimated = weights(tmp_path, config)
    assert estimated.bytes / 1e9 == pytest.approx(gigabytes, rel=0.02)
    assert estimated.source.startswith("estimated from the config")


@pytest.mark.parametrize(
    ("quantization", "bytes_of_a_weight"),
    [
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, 0.5625),  # 4 bits, and 8 for each 16 weights
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, 1.0),
        (
            {
                "quant_method": "compressed-tensors",
                "format": "nvfp4-pack-quantized",
                "config_groups": {"group_0": {"weights": {"num_bits": 4}}},
            },
            0.5625,
        ),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, 1.0),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, 0.52),
    ],
)
def test_the_bytes_of_a_quantised_weight(tmp_path: Path, quantization: Any, bytes_of_a_weight: float) -> None:
    one = {"bits": 8, "quant_method": "any"}
    sizes = [
        weights(tmp_path, {**configs.LLAMA_3_8B, "quantization_config": each}).bytes
        for each in (quantization, one)
    ]
    plain = weights(tmp_path, configs.LLAMA_3_8B).bytes
    # What is not quantised, embeddings and norms, is the same in both.
    quantised = 2 * (plain - sizes[1])
    assert (sizes[0] - (plain - quantised)) / (quantised / 2) == pytest.approx(bytes_of_a_weight)


def test_files_count_before_the_estimate_and_what_is_given_before_both(tmp_path: Path) -> None:
    (tmp_path / "model-00001-of-00002.safetensors").write_bytes(b"x" * 3000)
    (tmp_path / "model-00002-of-00002.safetensors").write_bytes(b"x" * 2000)
    (tmp_path / "consolidated.safetensors").write_bytes(b"x" * 5000)
    assert weights(tmp_path, configs.MISTRAL_7B) == Weights(5000, "2 files model*.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_bytes(orjson.dumps({"metadata": {"total_size": 4990}, "weight_map": {}}))
    assert weights(tmp_path, configs.MISTRAL_7B) == Weights(
        4990, "total_size of model.safetensors.index.json"
    )
    assert weights(tmp_path, configs.MISTRAL_7B, given_gb=14.5) == Weights(14.5e9, "as given")
    index.write_bytes(b"{}")
    with pytest.raises(UsageError, match="does not say how large the weights are"):
        weights(tmp_path, configs.MISTRAL_7B)


def test_weights_of_32_bits_are_loaded_in_16(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"x" * 4000)
    stored = {**configs.LLAMA_3_8B, "torch_dtype": "float32"}
    assert weights(tmp_path, stored) == Weights(2000, "model.safetensors, float32 loaded as bfloat16")
    assert weights(tmp_path, stored, "float32") == Weights(4000, "model.safetensors")
