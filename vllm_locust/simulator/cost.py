"""What one engine step costs, and the presets that stand for a model on a card.

A step is linear in what it does:

    step_s = base_s                               weights read once, kernel launches, sampling, host work
           + prefill_token_s * prefill tokens     matrix products of the prompt: compute bound
           + prefill_pair_s  * attended pairs     attention of a prompt: (token, earlier token) pairs
           + decode_seq_s    * decoding sequences matrix products and sampling of one more token
           + kv_token_s      * context tokens     KV cache read by the decoding sequences: bandwidth bound

The presets are shapes, not promises: each coefficient follows from the card's published figures as its
comment says, so that effects have the right sign and order of magnitude.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from vllm_locust.simulator.limits import EngineLimits


@dataclass(frozen=True, slots=True)
class CostModel:
    """Coefficients of a step, in seconds."""

    base_s: float
    prefill_token_s: float = 0.0
    prefill_pair_s: float = 0.0
    decode_seq_s: float = 0.0
    kv_token_s: float = 0.0

    def step_s(self, prefill_tokens: int, prefill_pairs: int, decode_seqs: int, kv_tokens: int) -> float:
        """Duration of a step; `kv_tokens` is the sum of the contexts of the decoding sequences."""
        return (
            self.base_s
            + self.prefill_token_s * prefill_tokens
            + self.prefill_pair_s * prefill_pairs
            + self.decode_seq_s * decode_seqs
            + self.kv_token_s * kv_tokens
        )


@dataclass(frozen=True, slots=True)
class Preset:
    """A model on a card: what it costs, what fits, and the name it is served under."""

    summary: str
    model: str
    cost: CostModel
    limits: EngineLimits


PRESETS: Mapping[str, Preset] = {
    # Quick enough for a demo, slow enough to show every effect: 512 tokens in 2.5 s alone, a first token
    # after 7 ms for 40 tokens of prompt and 50 ms for 1000, and a KV cache that 64 long answers can fill.
    "laptop": Preset(
        summary="quick demo: about 5 ms a step, first token after 7 to 60 ms",
        model="simulated/laptop",
        cost=CostModel(4.5e-3, 4.5e-5, 0.0, 5e-5, 5e-8),
        limits=EngineLimits(
            max_model_len=16384, max_num_seqs=256, max_num_batched_tokens=2048, num_gpu_blocks=4096
        ),
    ),
    # 7.6 G parameters in fp16 = 15.2 GB over 1.0 TB/s = 15 ms; 15.2 GFLOP a token at 60 % of 165 TFLOP/s
    # = 0.15 ms; 57 KB of KV a token (28 layers, 4 KV heads of 128) = 0.057 us; 5 GB are left for KV.
    "4090-7b": Preset(
        summary="a 7B model in fp16 on an RTX 4090 24 GB",
        model="simulated/7b-on-4090",
        cost=CostModel(1.65e-2, 1.5e-4, 4e-9, 5e-5, 5.7e-8),
        limits=EngineLimits(
            max_model_len=32768, max_num_seqs=256, max_num_batched_tokens=2048, num_gpu_blocks=5440
        ),
    ),
    # 13 G parameters = 26 GB over 2.0 TB/s = 13 ms; 26 GFLOP a token at 50 % of 312 TFLOP/s = 0.17 ms;
    # no grouped heads: 819 KB of KV a token (40 layers of 40 heads) = 0.4 us; 44 GB are left for KV.
    "a100-13b": Preset(
        summary="a 13B model in fp16 without grouped KV heads on an A100 80 GB: KV is what runs out",
        model="simulated/13b-on-a100",
        cost=CostModel(1.4e-2, 1.7e-4, 5e-9, 5e-5, 4e-7),
        limits=EngineLimits(
            max_model_len=4096, max_num_seqs=256, max_num_batched_tokens=4096, num_gpu_blocks=3350
        ),
    ),
    # 8 G parameters = 16 GB over 3.35 TB/s = 4.8 ms; 22 k prompt tokens/s were published for short prompts
    # = 0.045 ms, 5 k/s for prompts of 120 k tokens, which leaves 2.5 ns for each attended pair; 131 KB of
    # KV a token (32 layers, 8 KV heads of 128) = 0.04 us; 54 GB are left for KV.
    "h800-8b": Preset(
        summary="an 8B model in bf16 on an H800 80 GB: long prompts pay for attention",
        model="simulated/8b-on-h800",
        cost=CostModel(6e-3, 4.5e-5, 2.5e-9, 2e-5, 4e-8),
        limits=EngineLimits(
            max_model_len=131072, max_num_seqs=1024, max_num_batched_tokens=8192, num_gpu_blocks=25750
        ),
    ),
    # For calibrating clients: all streams beat together, so whatever differs from 20 ms is the client's.
    # A prompt of any length is prefilled in one step; nothing queues, nothing is preempted.
    "metronome": Preset(
        summary="every step takes exactly 20 ms whatever the load, for calibrating an instrument",
        model="simulated/metronome",
        cost=CostModel(2e-2),
        limits=EngineLimits(
            max_model_len=131072,
            max_num_seqs=8192,
            max_num_batched_tokens=1 << 24,
            num_gpu_blocks=1 << 20,
            enable_prefix_caching=False,
        ),
    ),
}
DEFAULT_PRESET = "laptop"
