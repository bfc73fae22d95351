"""What a running vLLM says of its KV cache: `vllm:cache_config_info` on its page of metrics."""

import http.client
import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from urllib.parse import urlsplit

from vllm_locust.core.kv_size import Told, blocks_of_each, engine_of, usable_blocks
from vllm_locust.core.urls import as_address, authorization, credentials_of, without_secrets
from vllm_locust.errors import UsageError

_TIMEOUT_S = 10.0
_LARGEST_PAGE = 16 << 20
_INFO = ("vllm:cache_config_info", "vllm_cache_config_info", "ray_vllm_cache_config_info")


@dataclass(frozen=True, slots=True)
class EngineCache:
    """The KV cache of one engine; None is not said."""

    engine: str
    num_gpu_blocks: int
    block_size: int
    cache_dtype: str | None = None
    tokens: int | None = None
    """As vLLM counts them itself, in sequences of `max_model_len`; older ones do not say."""
    max_concurrency: float | None = None

    @property
    def capacity_tokens(self) -> int:
        """What vLLM says, else blocks x block size, which is right where all layers keep the same."""
        return self.num_gpu_blocks * self.block_size if self.tokens is None else self.tokens

    def concurrency(self, tokens: int) -> float:
        """Requests of this length that fit at once, where all layers keep the same."""
        return usable_blocks(self.num_gpu_blocks) / ceil(tokens / self.block_size)

    @property
    def max_model_len(self) -> int | None:
        """The length that vLLM's own numbers are for."""
        if self.tokens is None or not self.max_concurrency:
            return None
        return round(self.tokens / self.max_concurrency)


def ask_server(url: str) -> Sequence[EngineCache]:
    """The caches of all engines of the server at `url`, at least one. UsageError when it does not tell."""
    question = _question(url)
    address = without_secrets(question.full_url)
    try:
        with urllib.request.urlopen(question, timeout=_TIMEOUT_S) as answer:
            page = answer.read(_LARGEST_PAGE).decode("utf-8", "replace")
    except urllib.error.HTTPError as error:
        raise UsageError(
            f"{address} answered {error.code}: it is no vLLM server, or hides its metrics"
        ) from None
    except (OSError, http.client.HTTPException) as error:
        why = getattr(error, "reason", None) or error
        raise UsageError(f"{address} does not answer: {why or type(error).__name__}") from None
    engines = read_page(page)
    if not engines:
        raise UsageError(f"{address} {_why_none(page)}")
    return engines


def read_page(page: str) -> Sequence[EngineCache]:
    """The caches on a page of metrics, in order of the engines; empty where none is told."""
    labels = _labels(page)
    sizes = blocks_of_each({engine: Told.of_labels(told) for engine, told in labels.items()})
    found = [cache for engine, told in labels.items() for cache in _cache(engine, sizes[engine], told)]
    return sorted(found, key=lambda cache: (len(cache.engine), cache.engine))


def _why_none(page: str) -> str:
    told = {one.num_gpu_blocks for one in map(Told.of_labels, _labels(page).values())}
    if len(told) == 1 and (blocks := told.pop()):
        return (
            f"says {blocks} KV blocks at each of several engines: whether these are each one's or the sum "
            "of all, as vLLM writes it under data parallelism, is not told"
        )
    return "does not say how many KV blocks it has (num_gpu_blocks of vllm:cache_config_info)"


def _labels(page: str) -> Mapping[str, Mapping[str, str]]:
    """What is told of each engine."""
    from prometheus_client.parser import text_string_to_metric_families

    lines = [line for line in page.splitlines() if line.startswith(_INFO)]
    try:
        families = list(text_string_to_metric_families("\n".join([*lines, ""])))
    except (ValueError, IndexError):
        return {}
    return {engine_of(one.labels) or "0": one.labels for family in families for one in family.samples}


def _cache(engine: str, size: Told, labels: Mapping[str, str]) -> Iterator[EngineCache]:
    if size.num_gpu_blocks and size.block_size:
        yield EngineCache(
            engine,
            size.num_gpu_blocks,
            size.block_size,
            labels.get("cache_dtype"),
            size.kv_cache_size_tokens,
            _number(labels.get("kv_cache_max_concurrency")),
        )


def _number(text: str | None) -> float | None:
    try:
        value = json.loads(text) if text is not None else None
    except ValueError:  # "None"
        return None
    return float(value) if isinstance(value, int | float) else None


def _question(url: str) -> urllib.request.Request:
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid or re.search(r"\s", url):
        raise UsageError(
            f"--url {as_address(url)!r} is no address of a server, such as http://localhost:8000"
        )
    path = parts.path.rstrip("/").removesuffix("/v1")
    whole = parts._replace(
        netloc=parts.netloc.rpartition("@")[2],
        path=path if path.endswith("/metrics") else f"{path}/metrics",
        fragment="",
    )
    return urllib.request.Request(whole.geturl(), headers=authorization(credentials_of(parts.netloc)))
