"""How much memory a model's weights take: from their files, or estimated from the config.

The estimate counts matrices and leaves out norms and biases, less than 1 % of a model:

    embeddings   vocabulary x width, twice unless they are tied
    attention    width x head_dim x (2 x heads + 2 x KV heads); of MLA its six projections
    MLP          3 (gated) or 2 matrices x width x intermediate width, of each expert, and the router
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_locust.errors import UsageError
from vllm_locust.kv_cache.config import Config
from vllm_locust.kv_cache.pool import bytes_per_number
from vllm_locust.kv_cache.shape import HIDDEN, CacheShape, layer_count

_INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_PATTERNS = ("model*.safetensors", "*.safetensors", "pytorch_model*.bin")

# Two matrices a layer, of four times the width where it is not said, and as a rule tied embeddings.
_PLAIN_MLP = ("falcon", "gpt2", "gpt_bigcode", "gpt_neox", "gptj", "opt", "mpt", "bloom", "phi", "starcoder2")
_TIED = (
    "falcon",
    "gpt2",
    "gpt_bigcode",
    "opt",
    "bloom",
    "mpt",
    "gemma",
    "gemma2",
    "gemma3_text",
    "cohere",
    "cohere2",
)


@dataclass(frozen=True, slots=True)
class Weights:
    """Of the whole model, before it is shared out to GPUs."""

    bytes: float
    source: str
    """Where the number comes from, in words."""


@dataclass(frozen=True, slots=True)
class Parameters:
    """Numbers of a model by where they are: quantisation is often for some of them only."""

    embeddings: int
    attention: int
    mlp: int

    @property
    def total(self) -> int:
        return self.embeddings + self.attention + self.mlp


def weights_of(config: Config, shape: CacheShape, dtype: str, given_gb: float | None = None) -> Weights:
    """What the user says, else the files beside the config, else the estimate.

    `dtype` is what vLLM computes with: weights that are stored in 4 bytes a number are loaded in 2.
    """
    if given_gb is not None:
        return Weights(given_gb * 1e9, "as given")
    if (stored := _files(config.folder)) is not None:
        size, where = stored
        if not config.quantization and (was := bytes_per_number(config.dtype)) != bytes_per_number(dtype):
            return Weights(size * bytes_per_number(dtype) / was, f"{where}, {config.dtype} loaded as {dtype}")
        return Weights(size, where)
    parameters = count_parameters(config, shape)
    usual = bytes_per_number(dtype)
    quantised = _quantised_bytes(config.quantization)
    mlp = usual if quantised is None else quantised
    attention = (
        usual if config.quantization.get("quant_method") == "mxfp4" else mlp
    )  # only the experts have it
    size = parameters.embeddings * usual + parameters.attention * attention + parameters.mlp * mlp
    return Weights(size, f"estimated from the config, {parameters.total / 1e9:.3g} billion parameters")


def count_parameters(config: Config, shape: CacheShape) -> Parameters:
    """The estimate. UsageError where the config does not say enough."""
    text, model_type = config.text, config.model_type
    hidden = config.need("how wide it is", *HIDDEN)
    tied = text.get("tie_word_embeddings", config.whole.get("tie_word_embeddings"))
    if tied is None:
        tied = model_type in _TIED
    vocabulary = config.need("how large its vocabulary is", "vocab_size", "padded_vocab_size")
    layers = layer_count(config)
    return Parameters(
        vocabulary * hidden * (1 if tied else 2),
        layers * (_mla(config, shape, hidden) if shape.is_latent else _attention(shape, hidden)),
        _mlp(config, hidden, layers),
    )


def _attention(shape: CacheShape, hidden: int) -> int:
    return hidden * shape.head_dim * 2 * (shape.attention_heads + shape.kv_heads)


def _mla(config: Config, shape: CacheShape, hidden: int) -> int:
    heads = shape.attention_heads
    nope, rope, value, latent = (
        config.need("the size of its attention", name)
        for name in ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "kv_lora_rank")
    )
    queries = heads * (nope + rope)
    rank = config.number("q_lora_rank")
    query = hidden * queries if rank is None else rank * (hidden + queries)
    return query + hidden * (latent + rope) + latent * heads * (nope + value) + heads * value * hidden


def _mlp(config: Config, hidden: int, layers: int) -> int:
    plain = config.model_type in _PLAIN_MLP
    matrices = 2 if plain else 3
    width = config.number("intermediate_size", "ffn_hidden_size", "n_inner", "ffn_dim") or 4 * hidden
    experts = config.number("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
    if experts is None:
        return layers * matrices * hidden * width
    each = matrices * hidden * (config.number("moe_intermediate_size") or width)
    dense = config.text.get("first_k_dense_replace") or 0
    shared = config.text.get("n_shared_experts") or 0
    sparse = (experts + shared) * each + hidden * experts
    return dense * matrices * hidden * width + (layers - dense) * sparse


def _files(folder: Path) -> tuple[float, str] | None:
    """Bytes of the weights in a folder, and which files say so; None where there are none."""
    for name in _INDICES:
        if (folder / name).is_file():
            return _of_index(folder / name), f"total_size of {name}"
    for pattern in _PATTERNS:
        files = list(folder.glob(pattern))
        if files:
            words = files[0].name if len(files) == 1 else f"{len(files)} files {pattern}"
            return sum(file.stat().st_size for file in files), words
    return None


def _of_index(path: Path) -> float:
    try:
        size = json.loads(path.read_text(encoding="utf-8"))["metadata"]["total_size"]
    except (OSError, ValueError, TypeError, KeyError):
        size = None
    if not isinstance(size, int | float) or size <= 0:
        raise UsageError(
            f"{path} does not say how large the weights are (metadata.total_size): give --weights-gb"
        )
    return size


_BITS = {
    "fp8": 8,
    "modelopt": 8,
    "mxfp4": 4,
    "nvfp4": 4,
    "modelopt_fp4": 4,
    "bitsandbytes": 4,
    "awq": 4,
}


def _quantised_bytes(quantization: Mapping[str, Any]) -> float | None:
    """Bytes of a quantised weight with its share of the scales; None where it is not quantised."""
    if not quantization:
        return None
    names = [str(quantization.get(key) or "").lower() for key in ("quant_algo", "quant_method", "format")]
    algorithm, method, form = names
    bits = quantization.get("bits") or _bits_of_groups(quantization)
    if bits is None and quantization.get("load_in_8bit"):
        bits = 8
    if bits is None:
        bits = _BITS.get(algorithm) or _BITS.get(method)
    if not isinstance(bits, int | float):
        return None
    return (bits + _scale_bits(bits, f"{algorithm} {method} {form}")) / 8


def _scale_bits(bits: float, names: str) -> float:
    """What scales add to a weight, in bits.

    One of 8 bits for each 16 weights (nvfp4), or each 32 (mxfp4); else about one of 16 bits and a zero of 4
    for each 128.
    """
    if "nvfp4" in names or "modelopt_fp4" in names:
        return 0.5
    if "mxfp4" in names:
        return 0.25
    return 0.16 if bits < 8 else 0.0


def _bits_of_groups(quantization: Mapping[str, Any]) -> int | None:
    """Of compressed-tensors."""
    groups = quantization.get("config_groups")
    for group in groups.values() if isinstance(groups, Mapping) else ():
        weights = group.get("weights") if isinstance(group, Mapping) else None
        bits = weights.get("num_bits") if isinstance(weights, Mapping) else None
        if isinstance(bits, int):
            return bits
    return None
