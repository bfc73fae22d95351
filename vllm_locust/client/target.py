"""Where requests go: a base URL, taken apart once.

Rule: a user name, a password and a query may be secrets. They go with every request and are told nowhere.
"""

import re
import socket
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from urllib.parse import SplitResult, quote, urlsplit

from vllm_locust.core.urls import (
    HIDDEN,
    as_address,
    authorization,
    credentials_of,
    secrets_of_headers,
    secrets_of_query,
    split_urls,
)
from vllm_locust.errors import UsageError

STICKY, ROUND_ROBIN = "sticky", "round-robin"
"""Where there are several hosts: a user stays with the first one, or each request goes to the next one."""

_VERSION = "/v1"
# What may stand in a request line as it is, percent signs of what is quoted already among them.
_UNQUOTED = "/?:@!$&'()*+,;=~%"


@dataclass(frozen=True)
class Target:
    """Host, port and path prefix of a server, with the TLS settings to reach it (None: plain HTTP)."""

    host: str
    port: int
    path: str = ""
    tls: ssl.SSLContext | None = field(default=None, compare=False)
    version: str = ""
    """The `/v1` that stood at the end of the URL: the paths of the API have one of their own."""
    query: str = field(default="", repr=False)
    """What follows each path, such as `api-version=2024-10-21`."""
    credentials: str = field(default="", repr=False)
    """`user:password`, as it stood in the URL."""

    @classmethod
    def parse(cls, url: str, tls: ssl.SSLContext | None = None) -> "Target":
        """`http://localhost:8000` or `https://gateway/openai`, with or without a `/v1` at the end.

        Raises UsageError when the URL has no http(s) scheme, no host, or a port that is none. `tls` replaces
        the default context of https, which checks certificates against the system's authorities.
        """
        parts = _split(url)
        secure = parts.scheme == "https"
        whole = quote(parts.path.rstrip("/"), safe=_UNQUOTED)
        path = whole.removesuffix(_VERSION)
        return cls(
            host=parts.hostname or "",
            port=parts.port or (443 if secure else 80),
            path=path,
            tls=(tls or ssl.create_default_context()) if secure else None,
            version=whole.removeprefix(path),
            query=quote(parts.query, safe=_UNQUOTED),
            credentials=credentials_of(parts.netloc),
        )

    @classmethod
    def parse_all(cls, hosts: str, tls: ssl.SSLContext | None = None) -> "list[Target]":
        """Those of a list with commas between them."""
        return [cls.parse(url, tls) for url in split_urls(hosts)]

    def resource(self, path: str) -> str:
        """What a request line names for a path of the server: behind our path, before our query."""
        return self._with_query(f"{self.path}{path}")

    def endpoint(self, path: str) -> str:
        """The same for a path that the user names: behind all of the URL, a `/v1` of both counted once."""
        version = "" if path.startswith(f"{_VERSION}/") else self.version
        return self._with_query(f"{self.path}{version}{path}")

    def _with_query(self, path: str) -> str:
        return f"{path}{'&' if '?' in path else '?'}{self.query}" if self.query else path

    @property
    def headers(self) -> Mapping[str, str]:
        """Those that the URL itself asks for."""
        return authorization(self.credentials)

    @property
    def secrets(self) -> Sequence[str]:
        """What is never to be told, also where the server tells it."""
        user, _, password = self.credentials.partition(":")
        return [
            self.credentials,
            password or user,
            *secrets_of_headers(self.headers),
            *secrets_of_query(self.query),
        ]

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
    def origin(self) -> str:
        """What the URL of any of its resources begins with."""
        return f"{'https' if self.tls else 'http'}://{self.authority}"

    @property
    def url(self) -> str:
        return f"{self.origin}{self.path}"

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
    if not valid or re.search(r"[\s,]", parts.hostname or ""):
        raise UsageError(f"--host {as_address(url)!r} is not an address like http://localhost:8000.")
    if "@" in f"{parts.path}{parts.query}{parts.fragment}":
        # A password with a slash, perhaps: then what looks like the host is the user.
        raise UsageError(
            f"--host {as_address(url)!r} has an @ behind the host: "
            "write %40 for it, and in a password %2F for /, %3F for ? and %23 for #."
        )
    if HIDDEN in (credentials_of(parts.netloc), parts.hostname, parts.query):
        raise UsageError(
            f"--host {as_address(url)!r} has {HIDDEN} in the place of what was hidden: write it out."
        )
    return parts
