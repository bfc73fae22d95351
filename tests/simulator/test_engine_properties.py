"""Whatever happens to the engine: no block is lost, no token comes twice, every request ends once."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_locust.simulator.cost import CostModel
from vllm_locust.simulator.engine import Engine, Request
from vllm_locust.simulator.limits import EngineLimits

LIMITS = st.builds(
    EngineLimits,
    max_model_len=st.just(64),
    max_num_seqs=st.integers(1, 6),
    max_num_batched_tokens=st.sampled_from([8, 17, 64]),
    num_gpu_blocks=st.integers(16, 40),
    block_size=st.just(4),
    enable_chunked_prefill=st.booleans(),
    enable_prefix_caching=st.booleans(),
)
# (steps to play before, prompt tokens, prefix shared with others, output tokens)
SUBMIT = st.tuples(st.integers(0, 3), st.integers(1, 40), st.integers(0, 30), st.integers(1, 24))
ABORT = st.tuples(st.integers(0, 6), st.integers(0, 20))


class Run:
    """One engine under random demands, with the books kept outside."""

    def __init__(self, limits: EngineLimits) -> None:
        self.engine = Engine(CostModel(1.0), limits)
        self.requests: list[Request] = []
        self.tokens: Counter[Request] = Counter()
        self.ends: Counter[Request] = Counter()
        self.now = 0.0

    def step(self) -> bool:
        step = self.engine.schedule(self.now)
        if step is None:
            assert self.engine.num_running == self.engine.num_waiting == 0
            return False
        assert 0 < step.num_tokens <= self.engine.limits.max_num_batched_tokens
        assert self.engine.num_running <= self.engine.limits.max_num_seqs
        self.check_blocks()
        self.now += step.duration_s
        for request in self.engine.finish(step, self.now):
            self.tokens[request] += 1
            self.ends[request] += request.outcome is not None
        self.check_blocks()
        return True

    def check_blocks(self) -> None:
        """Every block is either free or held by somebody; only shared prefixes are held twice."""
        held = Counter(block for request in self.requests for block in request.blocks)
        assert len(held) + self.engine.num_free_blocks == self.engine.limits.num_gpu_blocks - 1
        if not self.engine.limits.enable_prefix_caching:
            assert set(held.values()) <= {1}

    def submit(self, prompt: int, shared: int, output: int) -> None:
        room = self.engine.limits.context_len
        prompt = min(prompt, room - 1)
        unique = 1000 * (len(self.requests) + 1)
        prompt_ids = [*range(min(shared, prompt)), *range(unique, unique + max(0, prompt - shared))]
        output_ids = range(unique + 500, unique + 500 + min(output, room - prompt))
        request = Request(str(unique), prompt_ids, output_ids)
        self.engine.submit(request, self.now)
        self.requests.append(request)


@settings(max_examples=30, deadline=None)
@given(LIMITS, st.lists(SUBMIT, min_size=1, max_size=12), st.lists(ABORT, max_size=4))
def test_blocks_and_tokens_are_conserved(limits, submits, aborts):
    run = Run(limits)
    for steps, prompt, shared, output in submits:
        for _ in range(steps):
            run.step()
        run.submit(prompt, shared, output)
    for steps, index in aborts:
        for _ in range(steps):
            run.step()
        run.engine.abort(run.requests[index % len(run.requests)])
        run.check_blocks()
    steps_left = 2000
    while run.step():
        steps_left -= 1
        assert steps_left, "the engine never comes to rest"
    assert run.engine.num_free_blocks == limits.num_gpu_blocks - 1
    for request in run.requests:
        aborted = request.outcome == "abort"
        assert run.ends[request] == (not aborted)
        assert aborted or run.tokens[request] == len(request.output_ids)
        assert run.tokens[request] == request.num_output <= len(request.output_ids)
    ended = sum(request.outcome == "length" for request in run.requests)
    assert run.engine.stats.finished["length"] == ended
    assert run.engine.stats.generation_tokens == run.tokens.total()
