"""Blocks of the pool: against vLLM 0.32's own numbers, and against blocks that are counted one by one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_locust.kv_cache.pool import Pool
from vllm_locust.kv_cache.shape import CacheShape

GIB = 1 << 30


def shape(full: int, windowed: int = 0, window: int | None = None, kv_heads: int = 2) -> CacheShape:
    return CacheShape(full, windowed, window, 2, kv_heads, 32, 4)


@pytest.mark.parametrize(
    ("pool", "blocks"),
    [
        # num_gpu_blocks of vLLM 0.32 with 1 GiB of cache, blocks of 128 tokens and 4 bytes a number.
        (Pool(shape(2), "float32", 128), 8192),
        (Pool(shape(2, kv_heads=1), "float32", 128), 16384),
        (Pool(shape(0, 3, 512), "float32", 128), 5461),
        (Pool(shape(2, 3, 512), "float32", 128), 8192),
        (Pool(shape(2, 12, 512, kv_heads=1), "float32", 128), 16384),
    ],
)
def test_blocks_are_those_that_vllm_makes(pool: Pool, blocks: int) -> None:
    assert pool.blocks_in(GIB) == blocks


@pytest.mark.parametrize(
    ("full", "windowed", "layers"),
    [(32, 0, 32), (0, 32, 32), (12, 12, 12), (13, 12, 13), (10, 52, 10), (2, 3, 2), (4, 5, 5)],
)
def test_layers_of_a_group(full: int, windowed: int, layers: int) -> None:
    assert Pool(shape(full, windowed, 128 if windowed else None), "bfloat16").group_layers == layers


@given(
    full=st.integers(0, 8),
    windowed=st.integers(0, 8),
    window=st.integers(1, 60),
    block_size=st.sampled_from([1, 4, 16]),
    tokens=st.integers(1, 200),
)
def test_blocks_of_a_sequence_hold_what_its_layers_look_at(
    full: int, windowed: int, window: int, block_size: int, tokens: int
) -> None:
    if full + windowed == 0:
        return
    pool = Pool(shape(full, windowed, window if windowed else None), "bfloat16", block_size)
    whole = {token // block_size for token in range(tokens)}
    # The most over the places at which the newest token can be, up to `tokens`.
    seen = max(
        len({token // block_size for token in range(max(newest - window + 1, 0), newest + 1)})
        for newest in range(tokens)
    )
    groups = (-(-full // pool.group_layers), -(-windowed // pool.group_layers))
    least = groups[0] * len(whole) + groups[1] * seen
    assert least <= pool.blocks_of(tokens) <= least + groups[1]


def test_requests_at_once_as_vllms_log_has_them() -> None:
    pool = Pool(shape(2), "float32", 128)
    assert pool.concurrency(8192, 4096) == 256.0  # kv_cache_max_concurrency of the tiny model
    assert pool.tokens(8192, 4096) == 1048576


def test_requests_in_the_mean_over_their_answers() -> None:
    pool = Pool(shape(1), "float16", 4)
    # Answers at 5, 6, 7, 8, 9, 10 tokens hold 2, 2, 2, 2, 3, 3 blocks: 7/3 in the mean.
    assert pool.mean_concurrency(70, 4, 6) == pytest.approx(30.0)
    assert pool.concurrency(70, 10) == pytest.approx(70 / 3)


def test_tokens_of_windowed_layers_depend_on_the_length() -> None:
    pool = Pool(shape(1, 1, 64), "bfloat16", 16)
    assert pool.blocks_of(32) == 4
    assert pool.blocks_of(1600) == 100 + 5
    assert pool.tokens(1050, 1600) == 16000
    assert pool.tokens(1050, 32) == 8400
