"""The engine in virtual time, against sums and schedules made by hand."""

import pytest

from vllm_locust.simulator.cost import PRESETS, CostModel


def test_one_request_takes_the_sum_of_its_steps(player):
    play = player()
    request = play.submit(100, 3)
    play.play()
    first = 0.010 + 100 * 0.001
    second = first + 0.010 + 0.002 + 101 * 0.0001
    third = second + 0.010 + 0.002 + 102 * 0.0001
    assert play.tokens_at[request] == pytest.approx([first, second, third])
    assert request.outcome == "length"


def test_a_batch_shares_its_steps_and_a_late_request_waits_for_the_next(player):
    play = player()
    long, short = play.submit(100, 3), play.submit(50, 2)
    play.step()
    late = play.submit(20, 1)
    play.play()
    first = 0.010 + 150 * 0.001
    second = first + 0.010 + 20 * 0.001 + 2 * 0.002 + (101 + 51) * 0.0001
    third = second + 0.010 + 0.002 + 102 * 0.0001
    assert play.tokens_at[long] == pytest.approx([first, second, third])
    assert play.tokens_at[short] == pytest.approx([first, second])
    assert play.tokens_at[late] == pytest.approx([second])


def test_attention_of_a_prompt_is_paid_by_pairs(player):
    play = player(CostModel(0.0, prefill_pair_s=1.0), max_num_batched_tokens=6)
    play.submit(10, 1)
    play.play()
    assert [step.duration_s for step in play.steps] == [1 + 2 + 3 + 4 + 5 + 6, 7 + 8 + 9 + 10]


def test_max_num_seqs_makes_the_others_wait_in_order(player):
    play = player(max_num_seqs=4)
    requests = [play.submit(10, 5) for _ in range(20)]
    play.step()
    assert (play.engine.num_running, play.engine.num_waiting) == (4, 16)
    play.play()
    ends = [play.tokens_at[request][-1] for request in requests]
    assert ends == sorted(ends)
    assert len(set(ends)) == 5


def test_a_long_prompt_is_split_over_steps(player):
    play = player(max_num_batched_tokens=256)
    play.submit(1000, 1)
    play.play()
    assert [step.prefill_tokens for step in play.steps] == [256, 256, 256, 232]
    assert [len(step.emitting) for step in play.steps] == [0, 0, 0, 1]


def test_decoding_continues_beside_a_split_prompt(player):
    play = player(max_num_batched_tokens=256)
    decoding = play.submit(10, 100)
    play.step()
    long = play.submit(1000, 1)
    for _ in range(4):
        play.step()
    assert [step.prefill_tokens for step in play.steps[1:]] == [255, 255, 255, 235]
    assert len(play.tokens_at[decoding]) == 5
    assert len(play.tokens_at[long]) == 1


def test_without_chunks_a_sequence_beyond_the_budget_is_refused(player):
    play = player(max_num_batched_tokens=256, enable_chunked_prefill=False)
    with pytest.raises(ValueError, match="do not fit in 256"):
        play.submit(257, 1)
    play.submit(255, 1)


def test_without_chunks_a_prompt_waits_until_it_fits_whole(player):
    play = player(max_num_batched_tokens=256, enable_chunked_prefill=False)
    play.submit(200, 2)
    play.submit(200, 2)
    play.play()
    assert [step.prefill_tokens for step in play.steps] == [200, 200, 0]
    assert [step.decode_seqs for step in play.steps] == [0, 1, 1]


def test_the_last_request_is_preempted_and_computed_again(player):
    # Two sequences of 12 tokens and 4 usable blocks of 4: both get two blocks, there is no fifth or sixth.
    play = player(num_gpu_blocks=5, block_size=4)
    first, second = play.submit(4, 8), play.submit(4, 8)
    for _ in range(5):
        play.step()
    assert play.engine.stats.preemptions == 0
    assert play.engine.num_free_blocks == 0
    play.step()
    assert (play.engine.num_running, play.engine.num_waiting) == (1, 1)
    assert (first.preemptions, second.preemptions) == (0, 1)
    play.play()
    assert play.engine.stats.preemptions == 1
    assert len(play.tokens_at[first]) == len(play.tokens_at[second]) == 8
    # After 5 tokens the second sequence has 9; its first block survived, its second one was taken.
    assert [step.prefill_tokens for step in play.steps] == [8, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0]
    assert play.engine.stats.generation_tokens == 16
    assert play.engine.stats.prompt_tokens == 8
    assert play.engine.num_free_blocks == 4


def test_a_preempted_request_waits_a_step_and_comes_back_before_later_ones(player):
    play = player(
        num_gpu_blocks=7, block_size=4, max_num_batched_tokens=5, max_num_seqs=2, enable_prefix_caching=False
    )
    for prompt, output in ((4, 12), (8, 8)):
        play.submit(prompt, output)
    later = play.submit(1, 1)
    while not play.engine.stats.preemptions:
        play.step()
    # Space there is, but blocks just taken from a request are not given back to it at once.
    assert (play.steps[-1].decode_seqs, play.steps[-1].prefill_tokens) == (1, 0)
    assert (play.engine.num_running, play.engine.num_waiting) == (1, 2)
    assert play.engine.num_free_blocks == 3
    play.step()
    assert (play.engine.num_running, play.engine.num_waiting) == (2, 1)
    assert not play.tokens_at[later]
    play.play()
    assert [len(times) for times in play.tokens_at.values()] == [12, 8, 1]


def test_an_abort_frees_what_the_request_held(player):
    play = player(max_num_seqs=1, num_gpu_blocks=65)
    running, waiting = play.submit(100, 50), play.submit(100, 50)
    step = play.engine.schedule(play.now)
    assert step is not None
    play.engine.abort(running)
    play.engine.abort(waiting)
    play.engine.abort(running)
    assert play.engine.finish(step, 1.0) == []
    assert (running.outcome, waiting.outcome) == ("abort", "abort")
    assert play.engine.num_free_blocks == 64
    assert play.engine.schedule(1.0) is None
    assert play.engine.stats.finished == {"stop": 0, "length": 0}


def test_the_reason_to_end_is_the_submitters(player):
    play = player()
    request = play.submit(4, 2, finish_reason="stop")
    play.play()
    assert request.outcome == "stop"
    assert play.engine.stats.finished == {"stop": 1, "length": 0}


def test_latencies_are_counted_as_the_server_sees_them(player):
    play = player(CostModel(0.02), max_num_seqs=1)
    play.submit(10, 3)
    play.submit(10, 2)
    play.play()
    stats = play.engine.stats
    assert stats.ttft.sum == pytest.approx(0.02 + 0.08)
    assert stats.e2e.sum == pytest.approx(0.06 + 0.10)
    assert stats.queue.sum == pytest.approx(0.0 + 0.06)
    assert stats.prefill.sum == pytest.approx(0.02 + 0.02)
    assert stats.decode.sum == pytest.approx(0.04 + 0.02)
    assert stats.inference.sum == pytest.approx(0.06 + 0.04)
    assert stats.tpot.sum == pytest.approx(0.02 + 0.02)
    assert stats.itl.sum == pytest.approx(3 * 0.02)
    assert sum(stats.itl.counts) == 3
    assert sum(stats.ttft.counts) == sum(stats.e2e.counts) == 2


def test_gaps_of_different_lengths_are_counted_apart(player):
    # While the second prompt of 90 tokens is computed, the first request's gap is 100 ms instead of 10.
    play = player(CostModel(0.01, prefill_token_s=0.001))
    play.submit(1, 4)
    play.step()
    play.step()
    play.submit(90, 1)
    play.play()
    itl = play.engine.stats.itl
    assert sum(itl.counts) == 3
    assert itl.sum == pytest.approx(0.010 + 0.100 + 0.010)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_hold_their_longest_request(name):
    limits = PRESETS[name].limits
    assert limits.context_len == limits.max_model_len
    assert limits.max_num_batched_tokens >= limits.max_num_seqs


def test_the_metronome_beats_every_20_ms_whatever_the_load(player):
    play = player(PRESETS["metronome"].cost)
    for size in (1, 10, 1000):
        play.submit(size, 5)
    play.play()
    assert [step.duration_s for step in play.steps] == [0.02] * 5


def test_the_quick_preset_suits_a_demo(player):
    def alone(prompt: int, output: int) -> list[float]:
        play = player(PRESETS["laptop"].cost)
        request = play.submit(prompt, output)
        play.play()
        return play.tokens_at[request]

    assert alone(40, 1)[0] < 0.012
    assert 0.040 < alone(1000, 1)[0] < 0.060
    assert 2.0 < alone(40, 512)[-1] < 3.0
