"""Whether a server has broken down.

Rule: only failures tell of it, and being cancelled is our doing.
"""

import numpy as np

from vllm_locust.core.evidence import HANDFUL
from vllm_locust.core.group import Group
from vllm_locust.core.record import CANCELLED

_FEW_ENDED = 10


def collapsed(group: Group) -> str | None:
    """A sentence when the server has broken down rather than become slow; None while it has not.

    That is when it only ever failed, `HANDFUL` times, or when of ten requests or more that ended since the
    first failure more than half failed. Being cancelled is our doing, not the server's.
    """
    failures = {kind: failure for kind, failure in group.failures.items() if kind != CANCELLED}
    failed = sum(failure.count for failure in failures.values())
    if failed < HANDFUL:
        return None
    # A request that could not even be sent has no time of its end here; it is one of those that failed.
    unsent = group.planned - group.dropped - len(group.ended_s)
    since_s = min(failure.at_s for failure in failures.values())
    ended = int((np.array(group.ended_s) >= since_s).sum()) + unsent - (group.failed - failed)
    kind = max(failures, key=lambda kind: failures[kind].count)
    example = " ".join(failures[kind].example.split())
    what = f"with {kind} ({example})" if example else f"with {kind}"
    if not group.ok:
        return f"all {failed} requests failed, most {what}"
    if ended >= _FEW_ENDED and 2 * failed > ended:
        return f"{failed} of the last {ended} requests failed, most {what}"
    return None
