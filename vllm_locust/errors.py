"""The errors a user can cause; each message is one sentence that says what, where and what is allowed.

    VllmLocustError
    └── UsageError        wrong options, files or targets; the command line exits with code 2
        └── NobodyCounts  tokens are to be counted, and neither the server nor this machine can

What the world does wrong (a refused connection, a broken stream) is not raised: it is recorded as the
outcome of a request, see `vllm_locust.core.record`.
"""

from collections.abc import Sequence


class VllmLocustError(Exception):
    """Base of every error this package raises on purpose."""


class UsageError(VllmLocustError):
    """One or several mistakes of the user, reported together.

    `problems` holds one sentence per mistake, each with its full stop; `str(error)` joins them with newlines.
    """

    def __init__(self, *problems: str) -> None:
        self.problems: Sequence[str] = [f"{problem.removesuffix('.')}." for problem in problems]
        super().__init__("\n".join(self.problems))


class NobodyCounts(UsageError):
    """A count of tokens was asked of a server that gives none."""
