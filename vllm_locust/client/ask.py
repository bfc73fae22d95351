"""Questions to a server outside of any measurement: which models, which version, how many tokens."""

import http.client
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import orjson

from vllm_locust.client.target import Target
from vllm_locust.core.body import decoded
from vllm_locust.core.server import EngineState, parse_page
from vllm_locust.core.trouble import error_message
from vllm_locust.core.urls import hider, secrets_of_headers, without_secrets
from vllm_locust.errors import NobodyCounts, UsageError

logger = logging.getLogger(__name__)

_DENIALS = (401, 403)
_TIMEOUT_S = 10.0
_ANSWER_TIMEOUT_S = 120.0

T = TypeVar("T")


class NoAnswer(UsageError):
    """The server was reached, and gave no answer of its own."""


@dataclass(frozen=True, slots=True)
class ServerModel:
    """The model that will be asked, as the server describes it."""

    name: str
    max_model_len: int | None
    server_version: str | None
    all_names: Sequence[str] = ()
    """Every model that the server has, LoRA adapters among them; empty where it does not say."""


def find_model(target: Target, headers: Mapping[str, str], wanted: str | None) -> ServerModel:
    """The model called `wanted`, or the server's first one.

    Where the server's list is missing, denied, or tells too little, `wanted` is taken at the user's word,
    with a warning. Raises UsageError when the server cannot be reached, when a list names models and not
    `wanted`, or when there is no name to take.
    """
    try:
        status, body = _ask(target, headers, "GET", "/v1/models")
    except NoAnswer as silence:
        if wanted is None:
            raise
        logger.warning("%s It was asked for its models: going on with --model %s.", silence, wanted)
        return ServerModel(wanted, None, None)
    version = _version(target, headers)
    known = _known_models(body) if status == 200 else None
    if wanted is None:
        if status in _DENIALS:
            raise UsageError(f"{target.url} wants a key ({status}): set OPENAI_API_KEY or give --api-key.")
        if known is None:
            raise UsageError(
                f"{target.url}/v1/models answered {_told(target, headers, status, body)}. "
                "Give a model with --model."
            )
        if not known:
            raise UsageError(f"{target.url} serves no model: give one with --model.")
    name = wanted or next(iter(known or {}))
    if wanted is not None and name not in (known or {}):
        if isinstance(body, dict) and known and not any("*" in pattern for pattern in known):
            raise UsageError(
                f"--model {name!r} is not served by {target.url}, which has: {', '.join(known)}."
            )
        _warn_of_list(target, name, status, _told(target, headers, status, body), known)
        return ServerModel(name, None, version)
    length = (known or {})[name].get("max_model_len")
    return ServerModel(name, length if isinstance(length, int) else None, version, [*(known or {})])


def _known_models(body: Any) -> Mapping[str, Mapping[str, Any]] | None:
    """The models of a list by their names: as OpenAI sends it, or bare; None when it is no list."""
    models = body.get("data") if isinstance(body, dict) else body
    if not isinstance(models, list):
        return None
    return {str(model["id"]): model for model in models if isinstance(model, dict) and model.get("id")}


def _warn_of_list(
    target: Target, name: str, status: int, answer: str, known: Mapping[str, Mapping[str, Any]] | None
) -> None:
    what = f"answered {answer}" if known is None else f"has a list of {', '.join(known) or 'no models'}"
    if status in _DENIALS:
        what += " (OPENAI_API_KEY or --api-key gives a key)"
    logger.warning("%s/v1/models %s: going on with --model %s.", target.url, what, name)


class ServerTokenizer:
    """Counts and encodes by asking the server's /tokenize. UsageError when that fails."""

    def __init__(self, target: Target, headers: Mapping[str, str], model: str, *, chat: bool) -> None:
        """`chat`: prompts are counted inside the chat template."""
        self._ask = partial(_ask, target, headers, "POST", "/tokenize")
        self._url = f"{target.url}/tokenize"
        self._model = model
        self._chat = chat

    def count(self, prompt: str) -> int:
        """Tokens of a whole prompt."""
        if self._chat:
            return self._tokenize({"messages": [{"role": "user", "content": prompt}]}, "count", int)
        return self._tokenize({"prompt": prompt}, "count", int)

    def encode(self, text: str) -> list[int]:
        """Token ids of a bare text."""
        return self._tokenize({"prompt": text, "add_special_tokens": False}, "tokens", list)

    def _tokenize(self, question: Mapping[str, Any], key: str, kind: type[T]) -> T:
        status, body = self._ask({"model": self._model, **question})
        if status != 200 or not isinstance(body, dict) or not isinstance(body.get(key), kind):
            raise NobodyCounts(
                f"{self._url} answered {status}, so that nobody counts tokens: give --tokenizer PATH"
            )
        value: T = body[key]
        return value


def reset_prefix_cache(target: Target, headers: Mapping[str, str]) -> bool | None:
    """Empty the server's prefix cache, and what holds more of it elsewhere, such as in the CPU's memory.

    False when it cannot just now, None when it does not offer that.
    """
    status, body = _ask(target, headers, "POST", "/reset_prefix_cache?reset_external=true")
    if status in (404, 405):
        return None
    if status != 200:
        raise UsageError(f"{target.url}/reset_prefix_cache answered {_told(target, headers, status, body)}")
    # Old servers answer nothing, and may have done nothing.
    return body.get("success") if isinstance(body, dict) else None


def send(target: Target, headers: Mapping[str, str], resource: str, body: Mapping[str, Any]) -> Any:
    """The answer to a request that nobody measures. UsageError when there is none.

    `resource` is what its request line names, such as `target.resource(path)`.
    """
    status, content = _answer(target, headers, "POST", resource, body, _ANSWER_TIMEOUT_S)
    answer = decoded(content)
    if status != 200:
        place = f"{target.authority}{resource.partition('?')[0]}"
        raise UsageError(f"{place} answered {_told(target, headers, status, answer)}")
    return answer


def engines_of(target: Target, headers: Mapping[str, str]) -> Mapping[str, EngineState] | None:
    """What each engine counts so far, by its name; None where the server does not tell.

    UsageError when nothing answers.
    """
    status, content = _answer(target, headers, "GET", target.resource("/metrics"))
    try:
        engines, _ = parse_page(content.decode("utf-8", "replace")) if status == 200 else ((), ())
    except ValueError:
        return None
    return {one.engine: one for one in engines} or None


def switch_profiler(
    target: Target, headers: Mapping[str, str], path: str, timeout_s: float
) -> tuple[int, str]:
    """Ask for `/start_profile` or `/stop_profile`: the status of the answer, and what it says.

    UsageError when nothing answers within `timeout_s`.
    """
    status, body = _ask(target, headers, "POST", path, timeout_s=timeout_s)
    return status, _message(target, headers, body)


def _version(target: Target, headers: Mapping[str, str]) -> str | None:
    try:
        status, body = _ask(target, headers, "GET", "/version")
    except UsageError:
        return None
    if status == 200 and isinstance(body, dict) and isinstance(body.get("version"), str):
        return str(body["version"])
    return None


def _told(target: Target, headers: Mapping[str, str], status: int, body: Any) -> str:
    """A status, and what came with it."""
    return f"{status}: {_message(target, headers, body)}"


def _message(target: Target, headers: Mapping[str, str], body: Any) -> str:
    """The words for a human in an answer."""
    return _hide(target, headers, error_message(body))


def _hide(target: Target, headers: Mapping[str, str], text: str) -> str:
    """What the server said without the secrets that it may have from the question."""
    return hider([*target.secrets, *secrets_of_headers(headers)])(text)


def _ask(
    target: Target,
    headers: Mapping[str, str],
    method: str,
    path: str,
    question: Mapping[str, Any] | None = None,
    timeout_s: float = _TIMEOUT_S,
) -> tuple[int, Any]:
    """Status and decoded body; UsageError when nothing answers."""
    status, content = _answer(target, headers, method, target.resource(path), question, timeout_s)
    return status, decoded(content)


def _answer(
    target: Target,
    headers: Mapping[str, str],
    method: str,
    resource: str,
    question: Mapping[str, Any] | None = None,
    timeout_s: float = _TIMEOUT_S,
) -> tuple[int, bytes]:
    """Status and body, of 4 MiB at most; UsageError when nothing answers, NoAnswer when somebody listens."""
    connection: http.client.HTTPConnection
    if target.tls is not None:
        connection = http.client.HTTPSConnection(
            target.host, target.port, timeout=timeout_s, context=target.tls
        )
    else:
        connection = http.client.HTTPConnection(target.host, target.port, timeout=timeout_s)
    body = None if question is None else orjson.dumps(question)
    trouble: type[UsageError] = UsageError
    try:
        connection.connect()
        trouble = NoAnswer
        sent = {"Content-Type": "application/json", **target.headers, **headers}
        connection.request(method, resource, body, sent)
        response = connection.getresponse()
        content = response.read(4 << 20)
    except (OSError, http.client.HTTPException) as error:
        why = _hide(target, headers, str(error) or type(error).__name__)
        raise trouble(f"{target.url} does not answer: {why}.") from None
    finally:
        connection.close()
    if 300 <= response.status < 400:
        where = _hide(target, headers, without_secrets(response.getheader("Location") or ""))
        told = (
            f"to {where}: give that address as --host"
            if where
            else f"({response.status}) and does not say where to"
        )
        raise NoAnswer(f"{target.url} redirects {told}.")
    return response.status, content
