"""What the cache keeps of a token, against numbers that are published or worked out by hand."""

from pathlib import Path
from typing import Any

import pytest

from tests.kv_cache import configs
from tests.kv_cache.configs import written
from vllm_locust.errors import UsageError
from vllm_locust.kv_cache.config import read_config
from vllm_locust.kv_cache.pool import Pool
from vllm_locust.kv_cache.shape import CacheShape, cache_shape

LLAMA = configs.LLAMA_3_8B


def shape_of(folder: Path, config: Any) -> CacheShape:
    return cache_shape(read_config(str(written(folder, config))))


@pytest.mark.parametrize(
    ("config", "dtype", "expected"),
    [
        (configs.LLAMA_3_8B, "bfloat16", 131072),  # 128 KiB, as everybody says
        (configs.LLAMA_3_8B, "fp8", 65536),
        (configs.LLAMA_2_7B, "float16", 524288),  # 0.5 MiB
        (configs.QWEN_2_5_72B, "bfloat16", 327680),  # 320 KiB
        (configs.MISTRAL_7B, "bfloat16", 131072),
        (configs.DEEPSEEK_V3, "bfloat16", 70272),  # 70.272 kB, DeepSeek's own comparison of models
        (configs.DEEPSEEK_V3, "fp8", 35136),
        (configs.GEMMA_3_27B, "bfloat16", 2 * 62 * 16 * 128 * 2),
        (configs.GEMMA_3_4B, "bfloat16", 2 * 34 * 4 * 256 * 2),  # heads and head_dim by default
        (configs.GPT_OSS_20B, "bfloat16", 2 * 24 * 8 * 64 * 2),
        (configs.FALCON_7B, "bfloat16", 2 * 32 * 1 * 64 * 2),
        (configs.FALCON_40B, "bfloat16", 2 * 60 * 8 * 64 * 2),
        (configs.LLAMA_3_8B, "nvfp4", 2 * 32 * 8 * (64 + 8)),  # half a byte each, a scale for 16
    ],
)
def test_bytes_of_a_token(tmp_path: Path, config: Any, dtype: str, expected: int) -> None:
    assert Pool(shape_of(tmp_path, config), dtype).bytes_per_token == expected


@pytest.mark.parametrize(
    "told",
    [
        {"model_type": "bert"},
        {"model_type": "xlm-roberta"},
        {"model_type": "modernbert", "architectures": ["ModernBertForMaskedLM"]},
        {"model_type": "mpnet"},
        {"model_type": "new", "architectures": ["NewModel"]},
        *(
            {"model_type": name}
            for name in ("gte", "roformer", "luke", "tapas", "data2vec-text", "xlm", "xmod")
        ),
        *({"model_type": name} for name in ("vit", "dinov2", "wav2vec2", "clip", "siglip", "llama_bidirec")),
        *({"model_type": f"{name}_text_model"} for name in ("clip", "siglip", "siglip2")),
        {"model_type": "clip_vision_model"},
        {"model_type": "llama", "is_causal": False},
        {"model_type": "gemma3_text", "use_bidirectional_attention": True},
    ],
)
def test_an_encoder_keeps_nothing(tmp_path: Path, told: Any) -> None:
    """BERT's base model: it has layers and heads, as a decoder has."""
    bert = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, **told}
    with pytest.raises(UsageError, match=rf"{told['model_type']} is an encoder, which generates no tokens"):
        shape_of(tmp_path, bert)


@pytest.mark.parametrize(
    "told",
    [
        {"model_type": "bert", "is_decoder": True, "architectures": ["BertLMHeadModel"]},
        {"model_type": "ernie4_5", "architectures": None},
        {"model_type": "llama", "is_causal": True, "use_bidirectional_attention": False},
        {"model_type": "gemma4", "use_bidirectional_attention": "vision"},
        {"model_type": "chatglm", "architectures": ["ChatGLMModel"]},
        {"model_type": "some_vl", "architectures": ["SomeVLForConditionalGeneration"]},
    ],
)
def test_a_decoder_of_such_a_name_keeps_what_others_do(tmp_path: Path, told: Any) -> None:
    shape = shape_of(
        tmp_path, {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, **told}
    )
    assert (shape.layers, shape.kv_heads, shape.head_dim) == (12, 12, 64)


@pytest.mark.parametrize(
    "architecture", ["BertModel", "SomethingNewForMaskedLM", "LlamaForSequenceClassification", "CLIPModel"]
)
def test_what_is_not_known_to_generate_is_not_counted(tmp_path: Path, architecture: str) -> None:
    config = {**LLAMA, "model_type": None, "architectures": [architecture]}
    with pytest.raises(
        UsageError, match=f"{architecture} is not known to generate tokens, and may keep no KV"
    ):
        shape_of(tmp_path, config)


@pytest.mark.parametrize(
    ("config", "full", "windowed", "window"),
    [
        (configs.LLAMA_3_8B, 32, 0, None),
        (configs.QWEN_2_5_72B, 80, 0, None),  # has a window and does not use it
        ({**configs.QWEN_2_5_72B, "use_sliding_window": True}, 70, 10, 131072),
        (configs.MISTRAL_7B, 0, 32, 4096),
        ({**configs.MISTRAL_7B, "sliding_window": None}, 32, 0, None),
        (configs.GEMMA_3_27B, 10, 52, 1024),  # each sixth of 62
        (configs.GEMMA_3_4B, 5, 29, 1024),
        (configs.GPT_OSS_20B, 12, 12, 128),
        ({**LLAMA, "model_type": "gemma2", "sliding_window": 4096}, 16, 16, 4096),
        (
            {**LLAMA, "model_type": "cohere2", "sliding_window": 4096, "sliding_window_pattern": 4},
            8,
            24,
            4096,
        ),
        ({**LLAMA, "sliding_window": 4096, "sliding_window_pattern": "LLLG"}, 8, 24, 4096),
        ({**LLAMA, "model_type": "llama4_text", "attention_chunk_size": 8192}, 8, 24, 8192),
        (
            {
                **LLAMA,
                "sliding_window": 512,
                "layer_types": ["sliding_attention"] * 24 + ["full_attention"] * 8,
            }
            | {"num_kv_shared_layers": 12},
            0,
            20,
            512,
        ),
    ],
)
def test_layers_with_a_window(
    tmp_path: Path, config: Any, full: int, windowed: int, window: int | None
) -> None:
    shape = shape_of(tmp_path, config)
    assert (shape.full_layers, shape.windowed_layers, shape.window) == (full, windowed, window)


@pytest.mark.parametrize(
    ("config", "kv_heads", "head_dim"),
    [
        ({**LLAMA, "head_dim": 64}, 8, 64),
        ({"n_layer": 12, "n_head": 12, "n_embd": 768, "vocab_size": 50257}, 12, 64),  # GPT-2
        ({"n_layer": 24, "n_head": 16, "n_embd": 2048, "multi_query": True}, 1, 128),  # StarCoder
        ({"n_layers": 40, "n_heads": 48, "d_model": 6144, "attn_config": {"kv_n_heads": 8}}, 8, 128),  # DBRX
        (
            {"num_layers": 28, "num_attention_heads": 32, "hidden_size": 4096}
            | {"multi_query_group_num": 2, "kv_channels": 128},  # ChatGLM
            2,
            128,
        ),
    ],
)
def test_names_of_other_families(tmp_path: Path, config: Any, kv_heads: int, head_dim: int) -> None:
    shape = shape_of(tmp_path, config)
    assert (shape.kv_heads, shape.head_dim) == (kv_heads, head_dim)


@pytest.mark.parametrize(
    ("tensor_parallel_size", "expected"), [(1, 131072), (4, 32768), (8, 16384), (16, 16384), (32, 16384)]
)
def test_kv_heads_are_shared_out_and_then_copied(
    tmp_path: Path, tensor_parallel_size: int, expected: int
) -> None:
    shape = shape_of(tmp_path, LLAMA)
    assert Pool(shape, "bfloat16", 16, tensor_parallel_size).bytes_per_token == expected
    assert shape.problem_with(tensor_parallel_size) is None


def test_a_latent_is_on_every_gpu(tmp_path: Path) -> None:
    assert Pool(shape_of(tmp_path, configs.DEEPSEEK_V3), "bfloat16", 64, 8).bytes_per_token == 70272


def test_heads_that_cannot_be_shared_out(tmp_path: Path) -> None:
    shape = shape_of(
        tmp_path, {**LLAMA, "num_attention_heads": 48, "num_key_value_heads": 8, "head_dim": 128}
    )
    assert shape.problem_with(5) == "its 48 attention heads are no multiple of it"
    assert shape.problem_with(12) == "neither it nor the 8 KV heads are a multiple of the other"
    assert shape.problem_with(24) is None


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (
            {"model_type": "mamba", "state_size": 16},
            "keep a state of a fixed size instead of keys and values",
        ),
        (
            {"model_type": "mamba2", "num_heads": 24, "head_dim": 64, "num_hidden_layers": 24},
            "mamba2 has layers that keep a state",
        ),
        ({"d_model": 768, "n_layer": 24, "ssm_cfg": {}}, "instead of keys and values (Mamba, linear attent"),
        ({**LLAMA, "conv_L_cache": 3, "full_attn_idxs": [2, 5]}, "layers that keep a state"),
        (
            {**LLAMA, "layer_types": ["linear_attention"] * 31 + ["full_attention"]},
            "layer_types has 'linear_att",
        ),
        ({**LLAMA, "full_attention_interval": 4}, "(full_attention_interval); ask a running vLLM with --url"),
        ({**LLAMA, "global_head_dim": 512}, "layers whose caches differ in size (global_head_dim)"),
        ({**configs.DEEPSEEK_V3, "index_head_dim": 128}, "an index for sparse attention"),
        ({**LLAMA, "is_encoder_decoder": True}, "an encoder with a cache of its own"),
        ({**LLAMA, "model_type": "minicpm3", "kv_lora_rank": 256}, "minicpm3 has the keys of MLA"),
        ({**LLAMA, "v_head_dim": 64}, "keys of 128 and values of 64 numbers"),
        ({**LLAMA, "num_hidden_layers": None}, "does not say how many layers there are"),
        ({**LLAMA, "num_hidden_layers": "32"}, 'num_hidden_layers is "32", it must be a whole number'),
        (
            {**LLAMA, "num_key_value_heads": 0},
            "num_key_value_heads is 0, it must be a whole number of at least 1",
        ),
        ({**LLAMA, "num_key_value_heads": [8] * 32}, "num_key_value_heads is [8"),
        ({**LLAMA, "num_attention_heads": True}, "num_attention_heads is true"),
        ({**LLAMA, "num_attention_heads": 33}, "4096 numbers of width are no multiple of 33 heads"),
        ({**LLAMA, "layer_types": ["full_attention"]}, "layer_types must be a list of 32 types"),
        ({**LLAMA, "layer_types": ["sliding_attention"] * 32}, "how many tokens sliding_attention sees"),
        ({**configs.DEEPSEEK_V3, "qk_rope_head_dim": None}, "it has no qk_rope_head_dim"),
        ({}, "does not say how many attention heads there are"),
        ([1], "is no config of a model: it must be a JSON object"),
        (b"{", "is no JSON"),
        (b"\xff\xfe{}", "is no JSON"),
    ],
)
def test_what_cannot_be_known_is_said(tmp_path: Path, config: Any, sentence: str) -> None:
    with pytest.raises(UsageError) as error:
        shape_of(tmp_path, config)
    (problem,) = error.value.problems
    assert sentence in problem
    assert str(tmp_path) in problem


def test_a_model_is_found_by_name_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    snapshot = tmp_path / "models--org--name" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    written(snapshot, LLAMA)
    assert read_config("org/name").path == snapshot / "config.json"
    assert read_config(str(snapshot)).path == snapshot / "config.json"
    with pytest.raises(UsageError, match=r"no config.json at org/other: give the file"):
        read_config("org/other")
