"""Continuous batching as vLLM's V1 scheduler does it, as discrete events in virtual time.

`submit` a request, `schedule` a step, wait the step's duration, `finish` it: each request of the step that
has no prompt left to compute gets one token. Running requests come first, then waiting ones in the order of
arrival, as long as token budget, sequence slots and KV blocks last. When blocks run out the request that
was admitted last is preempted: its blocks are freed and it is computed again later.
Rule: no clock, no socket, no randomness. `now` is always the caller's, in seconds on an axis of its choice.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from vllm_locust.simulator.cost import CostModel
from vllm_locust.simulator.kv import KVCache, extend_keys
from vllm_locust.simulator.limits import EngineLimits
from vllm_locust.simulator.stats import EngineStats

ABORT = "abort"


@dataclass(slots=True, eq=False)
class Request:
    """A prompt and the answer it is going to get; what is below `finish_reason` belongs to the engine."""

    id: str
    prompt_ids: Sequence[int]
    output_ids: Sequence[int]
    """The answer, at least one token; its length is decided by whoever submits the request."""
    finish_reason: str = "length"
    """Why the answer ends where it ends: "length" or "stop"."""
    cache_salt: int = 0
    """Requests with different ones share no prefix."""

    outcome: str | None = None
    """None while alive, then `finish_reason` or "abort"."""
    num_tokens: int = field(init=False)
    """Tokens known so far: the prompt and what was generated."""
    num_computed: int = 0
    """Tokens whose KV is, or in the present step becomes, part of the cache."""
    num_cached: int = 0
    """Prompt tokens found in the prefix cache at first admission."""
    preemptions: int = 0
    arrival_s: float = -1.0
    scheduled_s: float = -1.0
    first_token_s: float = -1.0
    last_token_s: float = -1.0
    token_ids: list[int] = field(init=False, repr=False)
    blocks: list[int] = field(default_factory=list, repr=False)
    keys: list[int] = field(default_factory=list, repr=False)
    capacity: int = 0
    """Tokens that fit in `blocks`."""
    num_shared: int = 0
    """Leading blocks already offered to the prefix cache."""

    def __post_init__(self) -> None:
        self.num_tokens = len(self.prompt_ids)
        self.token_ids = [*self.prompt_ids, *self.output_ids]

    @property
    def num_output(self) -> int:
        """Tokens generated so far."""
        return self.num_tokens - len(self.prompt_ids)


@dataclass(slots=True)
class Step:
    """One pass of the model over a batch."""

    duration_s: float = 0.0
    emitting: list[Request] = field(default_factory=list)
    """Requests that get a token when the step ends."""
    prefill_tokens: int = 0
    prefill_pairs: int = 0
    decode_seqs: int = 0
    kv_tokens: int = 0

    @property
    def num_tokens(self) -> int:
        """Tokens computed in this step."""
        return self.prefill_tokens + self.decode_seqs

    def add_prefill(self, request: Request, count: int) -> None:
        """Compute `count` more tokens of a request that is behind; the last chunk yields a token."""
        before = request.num_computed
        self.prefill_tokens += count
        self.prefill_pairs += count * before + count * (count + 1) // 2
        request.num_computed = before + count
        if request.num_computed == request.num_tokens:
            self.emitting.append(request)


class Engine:
    """One model replica."""

    def __init__(self, cost: CostModel, limits: EngineLimits) -> None:
        self.limits = limits
        self.stats = EngineStats()
        self._cost = cost
        self._kv = KVCache(limits.usable_blocks)
        self._running: list[Request] = []
        self._waiting: deque[Request] = deque()
        self._last_finish_s = -1.0

    @property
    def num_running(self) -> int:
        """Requests in the batch."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Requests that wait for a slot, for budget or for blocks."""
        return len(self._waiting)

    @property
    def kv_usage(self) -> float:
        """Share of the usable KV blocks in use, 0 to 1."""
        return self._kv.usage

    @property
    def num_free_blocks(self) -> int:
        """KV blocks nobody uses."""
        return self._kv.num_free

    def submit(self, request: Request, now: float) -> None:
        """Queue a request; ValueError when no empty engine could ever complete it."""
        if len(request.token_ids) > self.limits.context_len or not request.output_ids:
            raise ValueError(
                f"request {request.id}: {len(request.prompt_ids)} prompt and {len(request.output_ids)} "
                f"output tokens do not fit in {self.limits.context_len}"
            )
        request.arrival_s = now
        self._waiting.append(request)

    def abort(self, request: Request) -> None:
        """Forget a request and free its blocks; nothing happens when it has already ended."""
        if request.outcome is not None:
            return
        request.outcome = ABORT
        if request.blocks:
            self._running.remove(request)
            self._release(request)
        else:
            self._waiting.remove(request)

    def reset_prefix_cache(self) -> bool:
        """Forget all prefixes; False, and nothing is forgotten, while a request holds blocks."""
        return self._kv.reset()

    def schedule(self, now: float) -> Step | None:
        """Choose the next step's batch; None when there is nothing to do."""
        step = Step()
        preemptions = self.stats.preemptions
        self._schedule_running(step)
        if self.stats.preemptions == preemptions:
            self._schedule_waiting(step, now)
        if not step.num_tokens:
            return None
        step.duration_s = self._cost.step_s(
            step.prefill_tokens, step.prefill_pairs, step.decode_seqs, step.kv_tokens
        )
        return step

    def finish(self, step: Step, now: float) -> list[Request]:
        """End a step: the requests that got a token, in batch order; `outcome` tells which are complete."""
        previous_s = self._last_finish_s
        steady = 0
        emitted = []
        ended = []
        for request in step.emitting:
            if request.outcome is not None:
                continue
            emitted.append(request)
            request.num_tokens += 1
            if request.last_token_s == previous_s and previous_s >= 0.0:
                steady += 1
            elif request.last_token_s >= 0.0:
                self.stats.itl.observe(now - request.last_token_s)
            else:
                self._count_first_token(request, now)
            request.last_token_s = now
            if request.num_tokens == len(request.token_ids):
                ended.append(request)
        # In a steady batch all gaps are the same one: counted once for all.
        self.stats.itl.observe(now - previous_s, steady)
        self.stats.generation_tokens += len(emitted)
        self._last_finish_s = now
        if ended:
            self._retire(ended)
        return emitted

    def _schedule_running(self, step: Step) -> None:
        budget = self.limits.max_num_batched_tokens
        running = self._running
        emitting = step.emitting
        decode_seqs = kv_tokens = position = 0
        while position < len(running) and budget > 0:
            request = running[position]
            computed = request.num_computed
            known = request.num_tokens
            if computed + 1 == known and request.first_token_s >= 0.0:
                if computed == request.capacity and not self._grow(request, known):
                    break
                request.num_computed = known
                emitting.append(request)
                decode_seqs += 1
                kv_tokens += known
                budget -= 1
            else:
                count = min(known - computed, budget)
                if computed + count > request.capacity and not self._grow(request, computed + count):
                    break
                step.add_prefill(request, count)
                self._share(request)
                budget -= count
            position += 1
        step.decode_seqs = decode_seqs
        step.kv_tokens = kv_tokens

    def _schedule_waiting(self, step: Step, now: float) -> None:
        budget = self.limits.max_num_batched_tokens - step.num_tokens
        while self._waiting and budget > 0 and len(self._running) < self.limits.max_num_seqs:
            count = self._admit(self._waiting[0], budget, now)
            if not count:
                break
            request = self._waiting.popleft()
            self._running.append(request)
            step.add_prefill(request, count)
            self._share(request)
            budget -= count

    def _admit(self, request: Request, budget: int, now: float) -> int:
        """Give a waiting request its first blocks; the tokens to compute now, or 0 when it must wait."""
        shared = self._cached_prefix(request)
        block_size = self.limits.block_size
        cached = len(shared) * block_size
        count = request.num_tokens - cached
        if count > budget:
            if not self.limits.enable_chunked_prefill:
                return 0
            count = budget
        num_new = -(-(cached + count) // block_size) - len(shared)
        if not self._kv.fits(shared, num_new):
            return 0
        self._kv.acquire(shared)
        request.blocks = shared + self._kv.allocate(num_new)
        request.capacity = len(request.blocks) * block_size
        request.num_computed = cached
        request.num_shared = len(shared)
        if request.scheduled_s < 0.0:
            request.scheduled_s = now
            request.num_cached = cached
            if self.limits.enable_prefix_caching:
                self.stats.prefix_cache_queries += request.num_tokens
                self.stats.prefix_cache_hits += cached
        return count

    def _cached_prefix(self, request: Request) -> list[int]:
        if not self.limits.enable_prefix_caching:
            return []
        block_size = self.limits.block_size
        extend_keys(request.keys, request.token_ids, block_size, request.num_tokens, request.cache_salt)
        # The last token is computed in any case: the next one is sampled from its output.
        return self._kv.match(request.keys[: (request.num_tokens - 1) // block_size])

    def _grow(self, request: Request, num_tokens: int) -> bool:
        """Make `num_tokens` fit, preempting from the end of the batch; False when that hit the request."""
        self._share(request)
        num_new = -(-num_tokens // self.limits.block_size) - len(request.blocks)
        while self._kv.num_free < num_new:
            victim = self._running.pop()
            self._preempt(victim)
            if victim is request:
                return False
        request.blocks += self._kv.allocate(num_new)
        request.capacity = len(request.blocks) * self.limits.block_size
        return True

    def _share(self, request: Request) -> None:
        """Offer the blocks that are full by now to the prefix cache."""
        if not self.limits.enable_prefix_caching:
            return
        block_size = self.limits.block_size
        extend_keys(request.keys, request.token_ids, block_size, request.num_computed, request.cache_salt)
        for index in range(request.num_shared, request.num_computed // block_size):
            self._kv.share(request.blocks[index], request.keys[index])
            request.num_shared = index + 1

    def _preempt(self, request: Request) -> None:
        self._release(request)
        request.preemptions += 1
        self.stats.preemptions += 1
        self._waiting.appendleft(request)

    def _release(self, request: Request) -> None:
        self._share(request)
        self._kv.release(request.blocks)
        request.blocks = []
        request.capacity = request.num_computed = request.num_shared = 0

    def _count_first_token(self, request: Request, now: float) -> None:
        request.first_token_s = now
        self.stats.prompt_tokens += len(request.prompt_ids)
        self.stats.ttft.observe(now - request.arrival_s)

    def _retire(self, ended: Sequence[Request]) -> None:
        for request in ended:
            request.outcome = request.finish_reason
            self._release(request)
            self._count_end(request)
        self._running = [request for request in self._running if request.outcome is None]

    def _count_end(self, request: Request) -> None:
        stats = self.stats
        stats.finished[request.finish_reason] += 1
        decode_s = request.last_token_s - request.first_token_s
        # vLLM counts 0 for an answer of one token; clients must not.
        stats.tpot.observe(decode_s / (request.num_output - 1) if request.num_output > 1 else 0.0)
        stats.e2e.observe(request.last_token_s - request.arrival_s)
        stats.queue.observe(request.scheduled_s - request.arrival_s)
        stats.prefill.observe(request.first_token_s - request.scheduled_s)
        stats.decode.observe(decode_s)
        stats.inference.observe(request.last_token_s - request.scheduled_s)
