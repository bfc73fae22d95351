"""What users ask on their own, outside of the plan, and what a plan keeps them from.

Options that say what is asked, and when, do nothing for such requests; and in an open loop `ask_next` waits
as long as there is load. Both are told when they happen: in the log of each process, once for each class of
users, and in the result. So is an open loop whose requests nobody asked for.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Outside:
    """Of one process, or of several together."""

    asked: Counter[str] = field(default_factory=Counter)
    """How many requests users of each class asked on their own."""
    waiting: set[str] = field(default_factory=set)
    """Classes that have requests of their own, and waited in `ask_next` for the end of an open loop."""
    called: bool = False
    """Whether anybody called `ask_next`."""

    def note_asked(self, user: str, of_scenario: Sequence[str]) -> None:
        """A user of this class asks; `of_scenario` are the options that do nothing for that."""
        if of_scenario and user not in self.asked:
            logger.warning(
                "%s asks on its own, without ask_next(): no use there of %s.", user, ", ".join(of_scenario)
            )
        self.asked[user] += 1

    def note_waiting(self, user: str) -> None:
        """A user of this class waits."""
        if user not in self.waiting:
            self.waiting.add(user)
            logger.warning("%s", f"{_kept(user)}.")

    def remarks(self, planned: int, of_scenario: Sequence[str]) -> Iterator[str]:
        """What the result says of it, of so many requests in all."""
        if of_scenario:
            for user, count in sorted(self.asked.items()):
                yield (
                    f"{count} of {planned} requests were asked by {user} on its own, without ask_next(), and "
                    f"count like all others: no use there of {', '.join(of_scenario)}"
                )
        yield from map(_kept, sorted(self.waiting))
        if not self.called and (unasked := planned - self.asked.total()) > 0:
            yield f"{unasked} of {planned} requests were sent as planned, though no user called ask_next()"

    def to_dict(self) -> dict[str, Any]:
        """Fit for MessagePack."""
        return {"asked": dict(self.asked), "waiting": sorted(self.waiting), "called": self.called}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        return cls(Counter(data["asked"]), set(data["waiting"]), data["called"])

    @classmethod
    def of_all(cls, processes: Iterable["Outside"]) -> Self:
        """All of them together."""
        whole = cls()
        for one in processes:
            whole.asked.update(one.asked)
            whole.waiting |= one.waiting
            whole.called |= one.called
        return whole


def _kept(user: str) -> str:
    return f"{user} waits in ask_next() as long as an open loop sends, and asks nothing on its own meanwhile"
