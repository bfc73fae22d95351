"""Where requests go: a base URL, taken apart once.

Rule: a user name, a password and a query may be secrets. They go with every request and are told nowhere.
"""

import socket
import ssl
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from urllib.parse import SplitResult, unquote, urlsplit

from vllm_locust.errors import UsageError

STICKY, ROUND_ROBIN = "sticky", "round-robin"
"""Where there are several hosts: a user stays with the first one, or each request goes to the next one."""


@dataclass(frozen=True)
class Target:
    """Host, port and path prefix of a server, with the TLS settings to reach it (None: plain HTTP)."""

    host: str
    port: int
    path: str = ""
    tls: ssl.SSLContext | None = field(default=None, compare=False)
    query: str = field(default="", repr=False)
    """What follows each path, such as `api-version=2024-10-21`."""
    credentials: str = field(default="", repr=False)
    """`user:password@`, as it stood in the URL."""

    @classmethod
    def parse(cls, url: str, tls: ssl.SSLContext | None = None) -> "Target":
        """`http://localhost:8000` or `https://gateway/openai`; a trailing `/v1` is dropped: paths carry it.

        Raises UsageError when the URL has no http(s) scheme, no host, or a port that is none. `tls` replaces
        the default context of https, which checks certificates against the system's authorities.
        """
        parts = _split(url)
        secure = parts.scheme == "https"
        return cls(
            host=parts.hostname or "",
            port=parts.port or (443 if secure else 80),
            path=parts.path.rstrip("/").removesuffix("/v1"),
            tls=(tls or ssl.create_default_context()) if secure else None,
            query=parts.query,
            credentials=f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else "",
        )

    def resource(self, path: str) -> str:
        """What a request line names for a path of the API: behind our path, before our query."""
        whole = f"{self.path}{path}"
        return f"{whole}{'&' if '?' in path else '?'}{self.query}" if self.query else whole

    @property
    def headers(self) -> Mapping[str, str]:
        """Those that the URL itself asks for."""
        if not self.credentials:
            return {}
        token = b64encode(unquote(self.credentials[:-1]).encode()).decode()
        return {"Authorization": f"Basic {token}"}

    @property
    def secret_url(self) -> str:
        """The URL with its credentials: for a request, never to be told."""
        return self.url.replace("://", f"://{self.credentials}", 1)

    @property
    def authority(self) -> str:
        """What the Host header says."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"

    @property
    def name(self) -> str:
        """What tells it from others: the authority, and the path behind it if there is one."""
        return f"{self.authority}{self.path}"

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.authority}{self.path}"

    @cached_property
    def addresses(self) -> Sequence[tuple[socket.AddressFamily, tuple[object, ...]]]:
        """Socket addresses to try, in the resolver's order; OSError when the name is unknown.

        Looked up once: a name server's time is not the tested server's.
        """
        found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        return [(family, address) for family, _, _, _, address in found]


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        shown = (f"***@{url.rpartition('@')[2]}" if "@" in url else url).partition("?")[0]
        raise UsageError(f"--host {shown!r} is not an address like http://localhost:8000.")
    return parts
