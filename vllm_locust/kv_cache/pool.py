"""The pool of KV blocks on one GPU, and what sequences take of it.

Rule: as vLLM divides it (its v1 `kv_cache_utils`). A block is `block_size` tokens of a group of layers that
have one block table. Where all layers keep the same they are one group. Where some have a window, groups have
as many layers as the rarer kind has, or as the other, if that is less than half more; a group that is not
full is padded. All groups draw blocks of one size from one pool.

A windowed layer keeps window - 1 tokens and the newest, which touch (window - 1) / block_size blocks, rounded
up, and one more. While a long prompt is being read it has the tokens of a step besides; that is left out.
"""

from dataclasses import dataclass
from math import ceil

from vllm_locust.errors import UsageError
from vllm_locust.kv_cache.shape import CacheShape

_BYTES = {
    "float32": 4.0,
    "float": 4.0,
    "bfloat16": 2.0,
    "float16": 2.0,
    "half": 2.0,
    "fp8": 1.0,
    "fp8_e4m3": 1.0,
    "fp8_e5m2": 1.0,
    "fp8_inc": 1.0,
    # Four bits a number, and eight bits of scale for each 16 of them.
    "nvfp4": 0.5625,
}
DTYPES = ("auto", "bfloat16", "float16", "half", "float32", "float")
KV_DTYPES = ("auto", "bfloat16", "float16", "fp8", "fp8_e4m3", "fp8_e5m2", "fp8_inc", "nvfp4")

_ABOUT_AS_MANY = 1.5


def bytes_per_number(dtype: str) -> float:
    """Of a type by vLLM's name for it."""
    try:
        return _BYTES[dtype]
    except KeyError:
        raise UsageError(f"{dtype} is not a type of numbers known here: {', '.join(_BYTES)}") from None


@dataclass(frozen=True, slots=True)
class Pool:
    """What one block holds, and how many a sequence needs."""

    shape: CacheShape
    dtype: str
    block_size: int = 16
    tensor_parallel_size: int = 1

    @property
    def heads(self) -> int:
        """KV heads on this GPU."""
        return self.shape.heads_per_gpu(self.tensor_parallel_size)

    @property
    def bytes_per_layer(self) -> int:
        """Of one token in one layer."""
        return round(self.shape.vectors * self.heads * self.shape.head_dim * bytes_per_number(self.dtype))

    @property
    def bytes_per_token(self) -> int:
        """In all layers, on this GPU."""
        return self.shape.layers * self.bytes_per_layer

    @property
    def group_layers(self) -> int:
        """Layers of a group, padding included."""
        few, many = sorted((self.shape.full_layers, self.shape.windowed_layers))
        return few if few and many >= few * _ABOUT_AS_MANY else many

    @property
    def block_bytes(self) -> int:
        return self.block_size * self.group_layers * self.bytes_per_layer

    def blocks_in(self, memory_bytes: float) -> int:
        return int(memory_bytes // self.block_bytes)

    def blocks_of(self, tokens: int) -> int:
        """Blocks of one sequence that is so long."""
        whole = ceil(tokens / self.block_size)
        windowed = whole
        if self.shape.window is not None:
            windowed = min(whole, ceil((self.shape.window - 1) / self.block_size) + 1)
        full_groups = ceil(self.shape.full_layers / self.group_layers)
        windowed_groups = ceil(self.shape.windowed_layers / self.group_layers)
        return full_groups * whole + windowed_groups * windowed

    def bytes_of(self, tokens: int) -> int:
        return self.blocks_of(tokens) * self.block_bytes

    def concurrency(self, blocks: int, tokens: int) -> float:
        """Sequences of this length that fit at once; of all blocks it is vLLM's own "Maximum concurrency"."""
        return blocks / self.blocks_of(tokens)

    def mean_concurrency(self, blocks: int, input_len: int, output_len: int) -> float:
        """Sequences that fit when each is at another place of its answer, all places as likely."""
        lengths = range(input_len + 1, input_len + output_len + 1)
        held = sum(map(self.blocks_of, lengths)) / len(lengths)
        return blocks / held

    def tokens(self, blocks: int, length: int) -> int:
        """Tokens that fit; where layers have a window, in sequences of this length."""
        if self.shape.window is None:
            return blocks * self.block_size
        return int(self.concurrency(blocks, length) * length)
