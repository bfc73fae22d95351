"""What the KV cache keeps of a token, read from a model's config.

Rule: one answer per family of attention, and a sentence where there is none. A wrong number is worse than no
number: a layer that keeps something else than keys and values, or a cache whose layers differ in size, is
refused by name.

    MHA, GQA, MQA   a key and a value of `head_dim` numbers, of each KV head
    MLA             one latent vector of kv_lora_rank + qk_rope_head_dim numbers, whatever the heads
                    (DeepSeek-V2, arXiv:2405.04434, section 2.1)
    windowed        layers that look at the last tokens only need to keep no more of them
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from vllm_locust.errors import UsageError
from vllm_locust.kv_cache.config import Config

_FULL, _SLIDING, _CHUNKED = "full_attention", "sliding_attention", "chunked_attention"
_WINDOW_KEYS = {_SLIDING: "sliding_window", _CHUNKED: "attention_chunk_size"}

# Every n-th layer looks at everything, where a family has this rule and its config does not say so.
_USUAL_PATTERN = {"gemma2": 2, "gpt_oss": 2, "gemma3": 6, "gemma3_text": 6, "cohere2": 4, "llama4_text": 4}

_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_HEADS = ("num_attention_heads", "n_head", "n_heads")
_KV_HEADS = (
    "num_key_value_heads",
    "num_kv_heads",
    "n_head_kv",
    "multi_query_group_num",
    "num_attention_groups",
    "attn_config.kv_n_heads",
)
HIDDEN = ("hidden_size", "n_embd", "d_model")

# What a key says that cannot be counted here.
_STATE = "has layers that keep a state of a fixed size instead of keys and values (Mamba, linear attention)"
_UNEQUAL = "has layers whose caches differ in size"
_SPARSE = "keeps an index for sparse attention, or a compressed cache, beside the usual one"
_REFUSED = {
    **dict.fromkeys(
        (
            "ssm_cfg",
            "ssm_state_size",
            "state_size",
            "mamba_d_state",
            "mamba_expand",
            "hybrid_override_pattern",
            "layers_block_type",
            "block_types",
            "attn_type_list",
            "linear_attn_config",
            "full_attention_interval",
            "conv_L_cache",
            "rwkv_hidden_size",
        ),
        _STATE,
    ),
    **dict.fromkeys(
        (
            "block_configs",
            "num_key_value_heads_per_layer",
            "swa_num_key_value_heads",
            "swa_head_dim",
            "global_head_dim",
            "num_global_key_value_heads",
        ),
        _UNEQUAL,
    ),
    **dict.fromkeys(("index_head_dim", "index_topk", "compress_ratios"), _SPARSE),
}
# Their code does otherwise than these keys say, or their keys do not say it.
_REFUSED_TYPES = {
    **dict.fromkeys(("mamba", "mamba2", "falcon_mamba", "rwkv"), _STATE),
    "minicpm3": "has the keys of MLA, which vLLM does not use for it",
    "longcat_flash": "has two attentions a layer",
}

# Architectures that generate tokens are named so.
_GENERATES = re.compile(
    "ForCausalLM|ForConditionalGeneration|LMHeadModel|ChatModel|^ChatGLMModel$|^MiniCPM[VO]$"
)
# Where a config names none: encoders without `bert` in their types.
_ENCODERS = (
    "big_bird", "canine", "clip", "data2vec-text", "dinov2", "electra", "ernie", "ernie_m", "esm", "fnet",
    "funnel", "gte", "layoutlm", "layoutlmv2", "layoutlmv3", "llama_bidirec", "longformer", "luke", "mpnet",
    "mra", "new", "nystromformer", "roformer", "siglip", "siglip2", "splinter", "tapas", "vit", "wav2vec2",
    "xlm", "xmod", "yoso",
)  # fmt: skip
_BERT = "bert"
_TOWERS = re.compile("_(text|vision)_model$")
_LOOKS_BOTH_WAYS = {"is_causal": False, "use_bidirectional_attention": True}


@dataclass(frozen=True, slots=True)
class CacheShape:
    """What is kept of a token."""

    full_layers: int
    """Layers that keep all tokens of a sequence."""
    windowed_layers: int
    window: int | None
    """Tokens that a windowed layer keeps."""
    vectors: int
    """2, a key and a value; 1 for MLA."""
    kv_heads: int
    head_dim: int
    """Numbers of a vector."""
    attention_heads: int

    @property
    def layers(self) -> int:
        return self.full_layers + self.windowed_layers

    @property
    def is_latent(self) -> bool:
        """Whether it is MLA."""
        return self.vectors == 1

    def heads_per_gpu(self, tensor_parallel_size: int) -> int:
        """KV heads on each GPU: shared out, but at least one each; MLA's latent is on all of them."""
        return 1 if self.is_latent else max(self.kv_heads // tensor_parallel_size, 1)

    def problem_with(self, tensor_parallel_size: int) -> str | None:
        """Why vLLM cannot share this model out so."""
        if self.attention_heads % tensor_parallel_size:
            return f"its {self.attention_heads} attention heads are no multiple of it"
        large, small = max(self.kv_heads, tensor_parallel_size), min(self.kv_heads, tensor_parallel_size)
        if not self.is_latent and large % small:
            return f"neither it nor the {self.kv_heads} KV heads are a multiple of the other"
        return None


def cache_shape(config: Config) -> CacheShape:
    """What the model keeps of a token. UsageError where this cannot be known from the config."""
    _check_family(config)
    heads = config.need("how many attention heads there are", *_HEADS)
    full, windowed, window = _layers(config)
    latent = config.number("kv_lora_rank")
    if latent is not None:
        rope = config.need("how long the part with positions is", "qk_rope_head_dim")
        return CacheShape(full, windowed, window, 1, 1, latent + rope, heads)
    return CacheShape(full, windowed, window, 2, _kv_heads(config, heads), _head_dim(config, heads), heads)


def layer_count(config: Config) -> int:
    return config.need("how many layers there are", *_LAYERS)


def _check_family(config: Config) -> None:
    ask = "ask a running vLLM with --url instead"
    architectures = _architectures(config)
    if config.whole.get("is_decoder") is not True and _is_encoder(config):
        raise UsageError(
            f"{config.path}: {config.model_type or 'the model'} is an encoder, which generates no tokens and "
            "keeps no KV cache"
        )
    if architectures and not any(map(_GENERATES.search, architectures)):
        raise UsageError(
            f"{config.path}: {' and '.join(architectures)} is not known to generate tokens, and may keep "
            f"no KV cache; {ask}"
        )
    if (why := _REFUSED_TYPES.get(config.model_type)) is not None:
        raise UsageError(f"{config.path}: {config.model_type} {why}; {ask}")
    for key, why in _REFUSED.items():
        if config.text.get(key) not in (None, []):
            raise UsageError(f"{config.path}: {config.model_type or 'the model'} {why} ({key}); {ask}")
    if config.whole.get("is_encoder_decoder"):
        raise UsageError(f"{config.path}: {config.model_type} has an encoder with a cache of its own; {ask}")


def _architectures(config: Config) -> Sequence[str]:
    named = config.whole.get("architectures")
    return [str(name) for name in named] if isinstance(named, list) else []


def _is_encoder(config: Config) -> bool:
    kinds = (config.model_type, str(config.text.get("model_type") or ""))
    return any(_BERT in kind or _TOWERS.sub("", kind) in _ENCODERS for kind in kinds) or any(
        config.text.get(key) is value for key, value in _LOOKS_BOTH_WAYS.items()
    )


def _kv_heads(config: Config, heads: int) -> int:
    multi_query = config.text.get("multi_query") is True
    if multi_query and not config.text.get("new_decoder_architecture"):  # Falcon's larger ones are GQA
        return 1
    return config.number(*_KV_HEADS) or heads


def _head_dim(config: Config, heads: int) -> int:
    given = config.number("head_dim", "kv_channels", "hidden_size_per_head")
    value_dim = config.number("v_head_dim")
    if given is None:
        hidden = config.need("how wide it is", *HIDDEN)
        if hidden % heads:
            raise UsageError(
                f"{config.path}: {hidden} numbers of width are no multiple of {heads} heads, and head_dim "
                "is not there"
            )
        given = hidden // heads
    if value_dim not in (None, given):
        raise UsageError(
            f"{config.path}: keys of {given} and values of {value_dim} numbers are not counted here"
        )
    return given


def _layers(config: Config) -> tuple[int, int, int | None]:
    """How many layers keep everything, how many a window, and how many tokens that is."""
    types = _layer_types(config, layer_count(config))
    shared = config.text.get("num_kv_shared_layers") or 0
    counts = Counter(types[: len(types) - shared] if isinstance(shared, int) else types)
    other = sorted(set(counts) - {_FULL, *_WINDOW_KEYS})
    if other:
        raise UsageError(
            f"{config.path}: {config.model_type or 'the model'} {_STATE}: layer_types has {other[0]!r}; "
            "ask a running vLLM with --url instead"
        )
    windows = {
        config.need(f"how many tokens {kind} sees", _WINDOW_KEYS[kind]) for kind in counts if kind != _FULL
    }
    if len(windows) > 1:
        raise UsageError(f"{config.path}: {config.model_type} {_UNEQUAL}: {sorted(windows)} tokens")
    return counts[_FULL], counts.total() - counts[_FULL], next(iter(windows), None)


def _layer_types(config: Config, layers: int) -> Sequence[str]:
    text = config.text
    given = text.get("layer_types")
    if given is not None:
        if not isinstance(given, list) or len(given) != layers:
            raise UsageError(f"{config.path}: layer_types must be a list of {layers} types, one a layer")
        return [str(one) for one in given]
    if text.get("attention_chunk_size") is not None:
        return _every(_pattern(config), layers, _CHUNKED)
    if text.get("sliding_window") is None or text.get("use_sliding_window") is False:
        return [_FULL] * layers
    if text.get("use_sliding_window") is True and text.get("max_window_layers") is not None:
        first = min(int(text["max_window_layers"]), layers)  # Qwen2: the upper layers have the window
        return [_FULL] * first + [_SLIDING] * (layers - first)
    if isinstance(letters := text.get("sliding_window_pattern"), str):  # EXAONE 4: LLLG, local and global
        return [_FULL if letters[i % len(letters)] == "G" else _SLIDING for i in range(layers)]
    return _every(_pattern(config), layers, _SLIDING)


def _pattern(config: Config) -> int | None:
    given = config.number("sliding_window_pattern", "_sliding_window_pattern")
    return given or _USUAL_PATTERN.get(config.model_type)


def _every(pattern: int | None, layers: int, windowed: str) -> Sequence[str]:
    """Each `pattern`-th layer sees everything; without a pattern none does."""
    return [_FULL if pattern and (i + 1) % pattern == 0 else windowed for i in range(layers)]
