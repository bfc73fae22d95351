"""The gaps between tokens that are as long as a limit or longer, counted for each stream.

A histogram of gaps knows no order of time. Where it must be told whether the long ones came together, as for
the objective of a search, the limit is named when the recording begins, and each stream has an entry here.
"""

from array import array
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from vllm_locust.core.columns import pack_array, unpack_array


class Limit(NamedTuple):
    """A gap that is to be told apart."""

    family: str
    """`itl`, or `itl_per_token`."""
    seconds: float


class LongGaps:
    """Columns with an entry per stream; times are seconds since the origin of the recording."""

    __slots__ = ("ended_s", "gaps", "long", "sent_s")

    def __init__(self) -> None:
        self.sent_s, self.ended_s = array("d"), array("d")
        self.gaps, self.long = array("q"), array("q")

    def add(self, sent_s: float, ended_s: float, gaps_s: NDArray[np.float64], limit_s: float) -> None:
        """Fold a stream."""
        self.sent_s.append(sent_s)
        self.ended_s.append(ended_s)
        self.gaps.append(len(gaps_s))
        self.long.append(int(np.count_nonzero(gaps_s >= limit_s)))

    def merge(self, other: "LongGaps") -> None:
        """Add the streams of `other`."""
        for name in self.__slots__:
            getattr(self, name).extend(getattr(other, name))

    def to_dict(self) -> dict[str, Any]:
        """Exact and fit for MessagePack."""
        return {name: pack_array(getattr(self, name)) for name in self.__slots__}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The columns that `to_dict` described."""
        made = cls()
        for name in cls.__slots__:
            setattr(made, name, unpack_array(getattr(made, name).typecode, data[name]))
        return made
