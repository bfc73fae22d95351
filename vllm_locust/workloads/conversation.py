"""Conversations of several turns: each question stands behind all that was said before.

The unit of the plan is a conversation. Its first question is a function of (seed, index), and so is what a
user thinks, for how long, and at which turn they leave. What stands in the history between their questions is

    server      what the server has answered: the load that users are, different with each model
    recorded    what the file says was answered: then every request is a function of the plan

Each pass over the data takes each conversation once, in an order drawn from the seed. A salt stands in front
of each first question, and so of the whole conversation: its turns share what they have in common with each
other, and with no other conversation of this run or of an earlier one. Where the user wants the questions as
they were written, the first pass is not salted, but for a conversation that stands in for another: one whose
first turn is too long already gives way to the next one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import NormalDist
from typing import Any, Protocol

from vllm_locust.errors import UsageError
from vllm_locust.workloads.draw import fraction, permuted, short_salt
from vllm_locust.workloads.lengths import Lengths
from vllm_locust.workloads.scenario import (
    Context,
    CountTokens,
    FollowUp,
    Message,
    PlannedRequest,
    Scenario,
)
from vllm_locust.workloads.sharegpt import conversations, estimated_tokens

SMALL_DATASET = Path(__file__).parent / "data" / "conversations_small.json"

SERVER, RECORDED = "server", "recorded"

_THINK_SIGMA = 0.8
# What models take at least, nowadays, where the server does not say.
_USUAL_CONTEXT = 4096
# The chat template is not counted, and four characters a token are a guess.
_COUNTED_SHARE, _ESTIMATED_SHARE = 0.95, 0.75
# Beyond this turn there are too few for results of their own.
_LAST_PROFILE = 8

Turn = tuple[str, str]
"""A question and its recorded answer."""


class Store(Protocol):
    """Conversations by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int, /) -> Sequence[Turn]: ...


@dataclass(frozen=True, slots=True)
class Conversations:
    """The conversations of a data set, each once per pass."""

    name: str
    store: Store
    history: str = SERVER
    turns: int = 8
    """At most so many of a conversation."""
    think_s: float = 2.0
    """The median of the time between an answer and the next question."""
    max_context: int = 4096
    """A conversation ends before a turn with which it had more tokens than this, the chat template aside."""
    output_len: Lengths | None = None
    """Tokens to ask for, in place of the length of the recorded answer."""
    count_text: CountTokens = estimated_tokens
    source: Any = None
    """See `scenario.sources_of`."""
    salted: bool = True
    """In the first pass too."""

    @property
    def phases(self) -> Sequence[Scenario]:
        return (self,)

    def request(self, seed: int, index: int) -> PlannedRequest:
        """The first question of conversation `index`."""
        size = len(self.store)
        again, position = divmod(index, size)
        for step in range(size):
            number = permuted((position + step) % size, size, self.name, seed, again)
            salted = self.salted or again or step
            unique = f"{short_salt(self.name, seed, index)}: " if salted else ""
            (question, answer), *others = self.store[number][: self.turns]
            talk = _Talk(self, seed, index, ((unique + question, answer), *others))
            if talk.fits(1, 0):
                return talk.ask(1, (), 0)
        raise UsageError(
            f"scenario {self.name}: the first turn of each of its {size} conversations is longer than "
            f"max_context={self.max_context} tokens"
        )


@dataclass(frozen=True, slots=True)
class _Talk:
    """One conversation of the plan."""

    scenario: Conversations
    seed: int
    index: int
    script: Sequence[Turn]

    def ask(self, turn: int, history: Sequence[Message], history_tokens: int) -> PlannedRequest:
        """The question of a turn, behind the messages before it."""
        question, recorded = self.script[turn - 1]
        messages = (*history, {"role": "user", "content": question})
        asked = self._output_tokens(turn)
        tokens = history_tokens + self.scenario.count_text(question)

        def then(answer: str) -> FollowUp | None:
            if self.scenario.history == SERVER:
                said, said_tokens = answer, asked
            else:
                said, said_tokens = recorded, self.scenario.count_text(recorded)
            behind = (*messages, {"role": "assistant", "content": said})
            return self._follow_up(turn + 1, behind, tokens + said_tokens)

        return PlannedRequest(
            index=self.index,
            scenario=self.scenario.name,
            profile=f"turn_{turn}" if turn < _LAST_PROFILE else f"turn_{_LAST_PROFILE}+",
            prompt=question,
            max_tokens=asked,
            messages=messages,
            turn=turn,
            then=then,
        )

    def fits(self, turn: int, history_tokens: int) -> bool:
        """Whether there is such a turn, and room for it behind so much."""
        if turn > len(self.script):
            return False
        question_tokens = self.scenario.count_text(self.script[turn - 1][0])
        return history_tokens + question_tokens + self._output_tokens(turn) <= self.scenario.max_context

    def _follow_up(self, turn: int, history: Sequence[Message], history_tokens: int) -> FollowUp | None:
        if not self.fits(turn, history_tokens):
            return None
        return FollowUp(self._pause_s(turn), self.ask(turn, history, history_tokens))

    def _output_tokens(self, turn: int) -> int:
        scenario = self.scenario
        if scenario.output_len is not None:
            return scenario.output_len.at(scenario.name, self.seed, self.index, turn, "max_tokens")
        return max(scenario.count_text(self.script[turn - 1][1]), 1)

    def _pause_s(self, turn: int) -> float:
        """Lognormal, as the times are that people take: most are short, a few are many times as long."""
        drawn = fraction(self.scenario.name, self.seed, self.index, turn, "think")
        deviation = NormalDist().inv_cdf(max(drawn, 1e-16))  # 0 has no inverse
        return self.scenario.think_s * math.exp(_THINK_SIGMA * deviation)


def conversation(
    name: str,
    context: Context,
    *,
    history: str,
    turns: int,
    think_s: float,
    max_context: int,
    salt: bool = True,
) -> Conversations:
    """The scenario of `context.dataset_path`, or of the small data set that comes with the package."""
    problems = []
    if context.endpoint_type == "completions":
        problems.append(f"scenario {name} is made of chats: it needs --endpoint-type chat")
    if context.input_len is not None:
        problems.append(
            f"--input-len does not go with scenario {name}, whose questions are as long as written: "
            "leave it out, or take a synthetic scenario"
        )
    if history not in (SERVER, RECORDED):
        problems.append(f"--set history={history}: history of scenario {name} is {SERVER} or {RECORDED}")
    if problems:
        raise UsageError(*problems)
    store = conversations(replace(context, dataset_path=context.dataset_path or SMALL_DATASET))
    return Conversations(
        name,
        store,
        history,
        turns,
        think_s,
        max_context or _room(context),
        context.max_tokens,
        context.count_text or estimated_tokens,
        {**store.source, "salted": salt},
        salt,
    )


def _room(context: Context) -> int:
    """Tokens that a conversation may have: what the model takes, less what a count may be wrong by."""
    longest = context.max_model_len or _USUAL_CONTEXT
    return round(longest * (_COUNTED_SHARE if context.count_text else _ESTIMATED_SHARE))
