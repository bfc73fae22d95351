"""What a scenario is: a pure function from (seed, index) to a request.

Nothing here depends on when or by whom a request is built: any worker, in any order, after any restart, gets
the same bytes for the same (scenario, seed, index). The one exception is a conversation, in which a question
stands behind the server's own answers: its first request is pure, and so is every one of a recorded one.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from vllm_locust.workloads.lengths import Lengths

CountTokens = Callable[[str], int]
"""Tokens of a whole prompt as the server will count them in `usage.prompt_tokens`, chat template included.

Hashable, as functions and bound methods are: what was measured with a counter is kept under it. One that has
to ask raises UsageError when nobody answers."""

Encode = Callable[[str], Sequence[int]]
"""The token ids of a bare text, without any that a tokenizer adds by itself. Raises as CountTokens does."""

Message = Mapping[str, Any]
"""One message of a chat, as the API has it: `{"role": "user", "content": ...}`."""


class FollowUp(NamedTuple):
    """What a user says next in a conversation, and how long they think about it."""

    pause_s: float
    request: "PlannedRequest"


@dataclass(frozen=True, slots=True)
class PlannedRequest:
    """One request of the plan, before anybody has sent it."""

    index: int
    scenario: str
    """Name of the scenario that made it, `tiny.ss` for a member of an ordered scenario."""
    profile: str
    """What results are grouped by: `short_short`, `sharegpt`, ..."""
    prompt: str | Sequence[int]
    """The user's message on /v1/chat/completions, the prompt on /v1/completions, there as token ids too."""
    max_tokens: int
    prompt_tokens: int | None = None
    """The exact number of prompt tokens, when the scenario promises one."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of the request's body."""
    messages: Sequence[Message] | None = None
    """A whole chat, in place of the one message `prompt`; for /v1/chat/completions only."""
    turn: int = 1
    """Of a conversation: 1 for its first question."""
    then: Callable[[str], FollowUp | None] | None = field(default=None, repr=False, compare=False)
    """From the answer's text to what follows; None where nothing does, and at the end of a conversation."""

    def mapped(self, change: Callable[["PlannedRequest"], "PlannedRequest"]) -> "PlannedRequest":
        """`change` of this request, and of all that follow it."""
        changed = change(self)
        if (then := self.then) is None:
            return changed

        def next_one(answer: str) -> FollowUp | None:
            following = then(answer)
            return following and FollowUp(following.pause_s, following.request.mapped(change))

        return replace(changed, then=next_one)


@dataclass(frozen=True, slots=True)
class Arrivals:
    """When the requests of a recorded trace come, in seconds from its first one."""

    times_s: Sequence[float]
    period_s: float | None = None
    """After so long it begins again, and again; None: it is sent once."""
    unit: str = "s"
    """What the trace has them in: s, ms or date-times."""


class Scenario(Protocol):
    """Anything with a name that answers `request(seed, index)`, and says which phases it is made of.

    It may have more, see the functions below: `requests`, `arrivals`, `primers(seed)` and `source`.
    """

    @property
    def name(self) -> str: ...

    @property
    def phases(self) -> Sequence["Scenario"]:
        """The scenarios to run one after another; a plain scenario is its own only phase."""
        ...

    def request(self, seed: int, index: int) -> PlannedRequest:
        """Request `index` (0, 1, 2, ...) of the plan with this seed."""
        ...


class OwnTasks:
    """In place of a scenario where all users have tasks of their own: there is nothing to ask."""

    name = "own tasks"
    requests = 0

    @property
    def phases(self) -> Sequence[Scenario]:
        return (self,)

    def request(self, seed: int, index: int) -> PlannedRequest:
        raise LookupError("no scenario is asked")


def requests_of(scenario: Scenario) -> int | None:
    """How many requests there are; None where a scenario goes on for ever."""
    requests: int | None = getattr(scenario, "requests", None)
    return requests


def arrivals_of(scenario: Scenario) -> Arrivals | None:
    """When requests are to be sent, where that is a part of the scenario: then the load is an open loop."""
    arrivals: Arrivals | None = getattr(scenario, "arrivals", None)
    return arrivals


def primers_of(scenario: Scenario, seed: int) -> Iterable[PlannedRequest]:
    """Requests that put into the server's prefix cache what requests have in common."""
    primers: Callable[[int], Iterable[PlannedRequest]] | None = getattr(scenario, "primers", None)
    return () if primers is None else primers(seed)


def sources_of(scenario: Scenario) -> Sequence[Mapping[str, Any]]:
    """What run.json says of the data sets behind a scenario, each once: `path`, `sha256`, counts of rows."""
    found: dict[str, Mapping[str, Any]] = {}

    def look(part: Scenario) -> None:
        source = getattr(part, "source", None)
        if isinstance(source, Mapping) and "path" in source:
            found[source["path"]] = source
        inner: Sequence[Scenario] = getattr(part, "members", ())
        wrapped: Scenario | None = getattr(part, "scenario", None)
        for one in (*inner, *((wrapped,) if wrapped is not None else ())):
            look(one)

    look(scenario)
    return list(found.values())


@dataclass(frozen=True, slots=True)
class Context:
    """What a scenario module may build upon: the user's options and, if there are any, token counters."""

    dataset_path: Path | None = None
    """A file, or `hf:ORG/NAME` on the Hugging Face hub."""
    input_len: Lengths | None = None
    """Exact prompt lengths in tokens (`--input-len`), in place of the scenario's own."""
    max_tokens: Lengths | None = None
    """Output tokens to ask for, in place of the scenario's own (`--max-tokens`)."""
    count_tokens: CountTokens | None = None
    count_text: CountTokens | None = None
    """Tokens of a bare text, by a local tokenizer: quick enough to be asked for each row of a data set."""
    encode: Encode | None = None
    endpoint_type: str = "chat"
    """`chat` or `completions`."""
    max_model_len: int | None = None
    """Tokens of prompt and answer together that the model takes, if the server says."""
    parameters: Mapping[str, str] = field(default_factory=dict)
    """The scenario's own parameters (`--set NAME=VALUE`), as they were written."""
