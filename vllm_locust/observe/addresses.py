"""What options say of the server's side: where it tells its metrics, how often, where the exporter listens.

Rule: what is wrong is a ValueError that reads as the end of a sentence beginning with the option's value.
"""

import re
from urllib.parse import SplitResult, urlsplit

from vllm_locust.core.times import parse_time

DEFAULT_PORT = 9646
LOOPBACK = "127.0.0.1"

_METRICS_PATH = "/metrics"
# Servers take milliseconds to write their metrics down.
_SHORTEST_INTERVAL_S = 0.2


def parse_bind(text: str) -> tuple[str, int]:
    """Host and port of `9646`, `0.0.0.0:9646` or `[::]:9646`; a port alone is for this machine only."""
    host, _, port = text.strip().rpartition(":")
    if not re.fullmatch(r"\d{1,5}", port, re.ASCII) or int(port) > 65535:
        raise ValueError("is not [HOST:]PORT with a port up to 65535 (0: a free one)")
    return host.strip("[]") or LOOPBACK, int(port)


def parse_metrics_url(text: str) -> str:
    """A URL with its path: `/metrics` where none is given."""
    try:
        parts = urlsplit(text.strip())
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        valid = valid and not re.search(r"\s", text.strip())
    except ValueError:
        valid = False
    if not valid:
        raise ValueError("is not an address like http://localhost:8000/metrics")
    return parts.geturl() if parts.path not in ("", "/") else parts._replace(path=_METRICS_PATH).geturl()


def parse_interval(text: str) -> float:
    """Seconds between two looks at a server."""
    seconds = parse_time(text)
    if seconds < _SHORTEST_INTERVAL_S:
        raise ValueError(f"is shorter than {_SHORTEST_INTERVAL_S:g} s")
    return seconds


def same_origin(one: str, other: str) -> bool:
    """Whether two URLs are of one server: then what it may know, such as a key, may go to both."""
    return _origin(urlsplit(one)) == _origin(urlsplit(other))


def _origin(parts: SplitResult) -> tuple[str, str | None, int | None]:
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)
