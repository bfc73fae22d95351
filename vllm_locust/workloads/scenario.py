"""What a scenario is: a pure function from (seed, index) to a request.

Nothing here depends on when or by whom a request is built: any worker, in any order, after any restart, gets
the same bytes for the same (scenario, seed, index).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

CountTokens = Callable[[str], int]
"""Tokens of a whole prompt as the server will count them in `usage.prompt_tokens`, chat template included.

Hashable, as functions and bound methods are: what was measured with a counter is kept under it."""


@dataclass(frozen=True, slots=True)
class PlannedRequest:
    """One request of the plan, before anybody has sent it."""

    index: int
    scenario: str
    """Name of the scenario that made it, `tiny.ss` for a member of an ordered scenario."""
    profile: str
    """What results are grouped by: `short_short`, `sharegpt`, ..."""
    prompt: str
    """The user's message on /v1/chat/completions, the prompt on /v1/completions."""
    max_tokens: int
    prompt_tokens: int | None = None
    """The exact number of prompt tokens, when the scenario promises one."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of the request's body."""


class Scenario(Protocol):
    """Anything with a name that answers `request(seed, index)`, and says which phases it is made of."""

    @property
    def name(self) -> str: ...

    @property
    def phases(self) -> Sequence["Scenario"]:
        """The scenarios to run one after another; a plain scenario is its own only phase."""
        ...

    def request(self, seed: int, index: int) -> PlannedRequest:
        """Request `index` (0, 1, 2, ...) of the plan with this seed."""
        ...


@dataclass(frozen=True, slots=True)
class Context:
    """What a scenario module may build upon: the user's options and, if there is one, a token counter."""

    dataset_path: Path | None = None
    input_len: int | None = None
    """Exact prompt length in tokens for every request (`--input-len`); needs `count_tokens`."""
    max_tokens: int | None = None
    """Output tokens to ask for, in place of the scenario's own (`--max-tokens`)."""
    count_tokens: CountTokens | None = None
    count_text: CountTokens | None = None
    """Tokens of a bare text, by a local tokenizer: quick enough to be asked for each row of a data set."""
