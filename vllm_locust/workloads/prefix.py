"""Prompts that begin alike: one of several system prompts, then a rest that no other request has.

Which prefix a request has is drawn by popularity: `uniform`, or `zipf:S`, where the probability of the r-th
one is proportional to 1/r^S (inversion of the distribution function; L. Devroye, Non-Uniform Random Variate
Generation, 1986, section III.2). On /v1/chat/completions prefix and rest are one message of the user: a
message of its own for the prefix would add a turn of the chat template, which no calibration knows. What the
template puts behind the text counts as a part of the prefix, as it does in any prompt of an exact length, so
that some tokens less than `prefix_len` are alike there; token ids on /v1/completions are alike to the token.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import isfinite

from vllm_locust.errors import UsageError
from vllm_locust.workloads.draw import pick
from vllm_locust.workloads.filler import Filler, Segment, filler
from vllm_locust.workloads.lengths import Lengths
from vllm_locust.workloads.scenario import Context, PlannedRequest, Scenario

# So many tokens tell two rests apart whatever they are filled with, see `exact`.
_FEWEST_REST_TOKENS = 12


@dataclass(frozen=True, slots=True)
class SharedPrefix:
    """Prompts of `prefix_len` + `input_len` tokens; the first part is one of `prefixes`."""

    name: str
    prefix_len: int
    input_len: Lengths
    """Of the rest, in tokens."""
    max_tokens: Lengths
    cumulative: Sequence[float]
    """How popular each prefix and all before it are together, in any unit."""
    filler: Filler
    profile: str = "prefix"

    @property
    def phases(self) -> Sequence[Scenario]:
        return (self,)

    @property
    def prefixes(self) -> int:
        return len(self.cumulative)

    def request(self, seed: int, index: int) -> PlannedRequest:
        key = (self.name, seed, index)
        return self._planned(
            index,
            self.rank(seed, index),
            seed,
            Segment(self.input_len.at(*key, "input_len"), key),
            self.max_tokens.at(*key, "max_tokens"),
        )

    def rank(self, seed: int, index: int) -> int:
        """Which prefix request `index` has: 0 is the most popular one."""
        return pick(self.cumulative, self.name, seed, index, "prefix")

    def primers(self, seed: int) -> Sequence[PlannedRequest]:
        """A request for each prefix, the most popular one last: a cache that is too small keeps that one."""
        return [
            self._planned(
                rank, rank, seed, Segment(self.input_len.smallest, (self.name, "primer", seed, rank)), 1
            )
            for rank in reversed(range(self.prefixes))
        ]

    def shared_tokens(
        self, seed: int, indices: Iterable[int], block_size: int, *, warm: bool = False
    ) -> list[int]:
        """Prompt tokens of each of these requests that a prefix cache has: whole blocks of known prefixes.

        For requests sent one after the other to a server that forgets nothing and at first knows nothing, or
        (`warm`) has answered the primers.
        """
        known = set(range(self.prefixes)) if warm else set()
        whole_blocks = self.prefix_len // block_size * block_size
        shared = []
        for index in indices:
            rank = self.rank(seed, index)
            shared.append(whole_blocks if rank in known else 0)
            known.add(rank)
        return shared

    def _planned(self, index: int, rank: int, seed: int, rest: Segment, max_tokens: int) -> PlannedRequest:
        return PlannedRequest(
            index=index,
            scenario=self.name,
            profile=self.profile,
            prompt=self.filler.prompt([Segment(self.prefix_len, (self.name, "prefix", seed, rank)), rest]),
            max_tokens=max_tokens,
            prompt_tokens=self.prefix_len + rest.tokens if self.filler.exact else None,
        )


def shared_prefix(
    name: str,
    context: Context,
    *,
    prefix_len: int,
    input_len: Lengths,
    output_len: Lengths,
    prefixes: int,
    popularity: str,
) -> SharedPrefix:
    """Requests that share prefixes; the user's `input_len` is that of the rest."""
    rest = (context.input_len or input_len).above(_FEWEST_REST_TOKENS)
    if rest.smallest < _FEWEST_REST_TOKENS:
        raise UsageError(
            f"scenario {name}: input_len is {rest}, it must be at least {_FEWEST_REST_TOKENS} tokens: "
            "that is what tells one rest from another"
        )
    # A prefix by itself must be long enough to be told from the others.
    lengths = Lengths.parse(f"{prefix_len}-{prefix_len + (rest.largest or rest.smallest)}")
    return SharedPrefix(
        name,
        prefix_len,
        rest,
        context.max_tokens or output_len,
        tuple(accumulate(_weights(name, popularity, prefixes))),
        filler(context, lengths),
    )


def _weights(name: str, popularity: str, prefixes: int) -> Iterable[float]:
    kind, colon, exponent = popularity.partition(":")
    if popularity == "uniform":
        return (1.0 for _ in range(prefixes))
    try:
        s = float(exponent)
        if kind == "zipf" and colon and isfinite(s) and s >= 0:
            return [rank**-s for rank in range(1, prefixes + 1)]
    except ValueError:
        pass
    raise UsageError(
        f"scenario {name}: popularity is {popularity!r}, allowed is uniform or zipf:S with S of at least 0"
    )
