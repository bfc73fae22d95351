"""Requests over time, each in a lane of its own: when it was due, sent, began to answer and ended.

Rule: a request takes the lowest lane that is free when it is due, so the lanes in use are the requests in
flight, and what stands in other lanes at the same time is what a request had to share the server with. Of
more requests than can be shown there are stretches of the run in which nobody is left out, evenly apart.
"""

from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vllm_locust.core.record import DROPPED, OK
from vllm_locust.report.page.charts import numbers
from vllm_locust.results.requests import UNKNOWN, Requests

MOST_REQUESTS = 12_000
_STRETCHES = 40
_LANE_OF_DROPPED = -1

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Waterfall:
    """A place per request, in the order due; times in s since the start of the run, NaN is not known."""

    of: int
    """Requests that there are."""
    stretches: int
    """In how many pieces of the run these are all requests."""
    lanes: int
    requests: Requests
    lane: NDArray[np.int64]
    """From 0; -1 for a dropped request, which never was in flight."""
    due_s: Floats
    """Never after it was sent."""

    def data(self) -> dict[str, Any]:
        """For waterfall.js: seconds with six digits that count, and words by their number."""
        shown = self.requests
        answered = shown.is_word("outcome", OK)
        times = {name: shown[f"{name}_s"] for name in ("sent", "first_token", "ended")}
        about, place = np.unique(
            np.column_stack([shown["profile"], shown["outcome"]]), axis=0, return_inverse=True
        )
        profiles, outcomes = shown.words["profile"], shown.words["outcome"]
        return {
            "lanes": self.lanes,
            "lane": self.lane.tolist(),
            "due": _from_start(self.due_s),
            "sent": _from_start(times["sent"]),
            "first": _from_start(np.where(answered, times["first_token"], np.nan)),
            "ended": _from_start(np.where(self.lane == _LANE_OF_DROPPED, np.nan, times["ended"])),
            "about": place.ravel().tolist(),
            "words": [[profiles[p] or "unknown", outcomes[o] or "unknown"] for p, o in about.tolist()],
            "index": [None if index == UNKNOWN else index for index in shown["index"].tolist()],
        }


def waterfall(requests: Requests, most: int = MOST_REQUESTS) -> Waterfall | None:
    """None when nothing was recorded."""
    count = len(requests)
    if not count:
        return None
    sent_s, intended_s = requests["sent_s"], requests["intended_s"]
    due_s = np.fmin(intended_s, sent_s)
    order = np.argsort(due_s, kind="stable")
    dropped = requests.is_word("outcome", DROPPED) | np.isnan(sent_s)
    lane = _lanes(due_s[order], requests["ended_s"][order], dropped[order])
    some = _stretches(count, most)
    return Waterfall(
        of=count,
        stretches=1 if count <= most else _STRETCHES,
        lanes=int(lane.max()) + 1,
        requests=requests.take(order[some]),
        lane=lane[some],
        due_s=due_s[order[some]],
    )


def _lanes(start: Floats, end: Floats, dropped: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The lane of each, by ascending start."""
    lanes: list[int] = []
    free: list[int] = []
    busy: list[tuple[float, int]] = []
    opened = 0
    for begins, ends, never in zip(start.tolist(), end.tolist(), dropped.tolist(), strict=True):
        if never:
            lanes.append(_LANE_OF_DROPPED)
            continue
        while busy and busy[0][0] <= begins:
            heappush(free, heappop(busy)[1])
        if free:
            lane = heappop(free)
        else:
            lane, opened = opened, opened + 1
        heappush(busy, (ends if ends == ends else begins, lane))
        lanes.append(lane)
    return np.array(lanes, np.int64)


def _stretches(count: int, most: int) -> NDArray[np.int64]:
    """Places to show: all, or pieces of equal length, the first at the begin and the last at the end."""
    if count <= most:
        return np.arange(count)
    length = most // _STRETCHES
    starts = np.linspace(0, count - length, _STRETCHES).astype(np.int64)
    return (starts[:, None] + np.arange(length)).ravel()


def _from_start(times: Floats) -> list[Any]:
    """To 0.1 ms, which is less than a pixel."""
    return numbers(np.round(times, 4), digits=9)
