"""Paged KV blocks: prefix hits and evictions counted by hand."""

import pytest

from vllm_locust.simulator.kv import KVCache, extend_keys


def test_only_full_blocks_have_keys_and_keys_mean_prefixes():
    one: list[int] = []
    extend_keys(one, list(range(50)), 16, 50)
    two: list[int] = []
    extend_keys(two, [*range(32), 99, *range(33, 50)], 16, 50)
    assert len(one) == 3
    assert one[:2] == two[:2]
    assert one[2] != two[2]
    shifted: list[int] = []
    extend_keys(shifted, [7, *range(16, 32)], 16, 17)
    assert shifted[0] not in one


def test_keys_are_extended_in_pieces_as_at_once():
    ids = list(range(100))
    whole: list[int] = []
    extend_keys(whole, ids, 16, 100)
    pieces: list[int] = []
    for num_tokens in (3, 16, 17, 40, 100):
        extend_keys(pieces, ids, 16, num_tokens)
    assert pieces == whole


def test_a_released_prefix_is_found_until_its_space_is_needed():
    cache = KVCache(4)
    blocks = cache.allocate(3)
    for block, key in zip(blocks, (11, 12, 13), strict=True):
        cache.share(block, key)
    cache.release(blocks)
    assert cache.num_free == 4
    assert cache.match([11, 12, 13, 14]) == blocks
    # One block was never used; the next comes from the end of the released prefix.
    cache.allocate(2)
    assert cache.match([11, 12, 13]) == blocks[:2]
    assert cache.usage == 0.5


def test_the_least_recently_released_prefix_goes_first():
    cache = KVCache(2)
    (old,), (new,) = cache.allocate(1), cache.allocate(1)
    cache.share(old, 1)
    cache.share(new, 2)
    cache.release([old])
    cache.release([new])
    cache.allocate(1)
    assert cache.match([1]) == []
    assert cache.match([2]) == [new]


def test_a_shared_block_is_free_only_when_its_last_user_leaves():
    cache = KVCache(2)
    blocks = cache.allocate(1)
    cache.share(blocks[0], 5)
    cache.acquire(blocks)
    cache.release(blocks)
    assert cache.num_free == 1
    cache.release(blocks)
    assert cache.num_free == 2


def test_idle_cached_blocks_count_as_space_when_they_are_taken():
    cache = KVCache(2)
    blocks = cache.allocate(1)
    cache.share(blocks[0], 5)
    cache.release(blocks)
    assert cache.fits(blocks, 1)
    assert not cache.fits(blocks, 2)


def test_a_cache_is_emptied_when_nobody_refers_to_it_and_only_then():
    cache = KVCache(4)
    blocks = cache.allocate(3)
    for block, key in zip(blocks, (11, 12, 13), strict=True):
        cache.share(block, key)
    assert not cache.reset()
    assert cache.match([11, 12, 13]) == blocks
    cache.release(blocks)
    assert cache.reset()
    assert (cache.match([11]), cache.num_free) == ([], 4)
    # All of it can be used, shared and found again.
    again = cache.allocate(4)
    for block, key in zip(again, (12, 11, 14, 13), strict=True):
        cache.share(block, key)
    assert cache.match([11, 12, 13, 14]) == [again[1], again[0], again[3], again[2]]


@pytest.mark.parametrize(
    ("prompt", "hits"),
    [(100, 96), (32, 16), (33, 32), (16, 0), (15, 0)],
)
def test_a_repeated_prompt_hits_all_but_its_last_token_in_whole_blocks(player, prompt, hits):
    play = player()
    for _ in range(2):
        play.submit(range(prompt), 1)
        play.play()
    stats = play.engine.stats
    assert (stats.prefix_cache_queries, stats.prefix_cache_hits) == (2 * prompt, hits)
    assert [step.prefill_tokens for step in play.steps] == [prompt, prompt - hits]


def test_a_common_beginning_is_hit_up_to_its_last_whole_block(player):
    play = player()
    play.submit(range(100), 1)
    play.play()
    request = play.submit([*range(50), *range(900, 950)], 1)
    play.play()
    assert request.num_cached == 48


def test_the_next_turn_of_a_conversation_hits_the_answer_too(player):
    play = player()
    play.submit(range(20), range(100, 130))
    play.play()
    # 50 tokens, of which the last one was sampled but never computed: three whole blocks.
    request = play.submit([*range(20), *range(100, 130), *range(500, 510)], 1)
    play.play()
    assert request.num_cached == 48


def test_without_prefix_caching_nothing_is_looked_up(player):
    play = player(enable_prefix_caching=False)
    for _ in range(2):
        play.submit(range(100), 1)
        play.play()
    stats = play.engine.stats
    assert (stats.prefix_cache_queries, stats.prefix_cache_hits) == (0, 0)
    assert [step.prefill_tokens for step in play.steps] == [100, 100]


def test_usage_is_the_share_of_usable_blocks_held(player):
    play = player(num_gpu_blocks=100)
    play.submit(100, 20)
    play.step()
    assert play.engine.kv_usage == pytest.approx(7 / 99)
    play.play()
    assert play.engine.kv_usage == 0.0
