"""What the engine may hold and batch; the fields carry the names of `vllm serve`'s options."""

from dataclasses import dataclass

from vllm_locust.core.kv_size import usable_blocks


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """Sizes of the scheduler and of the KV cache, in tokens, sequences and blocks."""

    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
    num_gpu_blocks: int
    block_size: int = 16
    enable_chunked_prefill: bool = True
    enable_prefix_caching: bool = True

    @property
    def usable_blocks(self) -> int:
        """As in vLLM, one less than there are."""
        return usable_blocks(self.num_gpu_blocks)

    @property
    def kv_tokens(self) -> int:
        """Tokens that fit into the KV cache."""
        return self.usable_blocks * self.block_size

    @property
    def context_len(self) -> int:
        """The longest prompt plus output one request can have.

        Without chunked prefill a sequence is always computed whole (again, after a preemption), so it must
        also fit in one step's token budget.
        """
        longest = min(self.max_model_len, self.kv_tokens)
        return longest if self.enable_chunked_prefill else min(longest, self.max_num_batched_tokens)
