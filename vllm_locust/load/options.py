"""The suite's command line options, and what they mean once they are checked.

All options arrive as text, from the command line or from the web UI's start form, and are converted here, in
one place, so that everything that is wrong with a command line is said at once. Where `vllm bench serve` has
the option, its name and meaning are used.
"""

import argparse
import os
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import orjson

from vllm_locust.core.slo import Slo, parse_goodput, parse_slo
from vllm_locust.errors import UsageError
from vllm_locust.workloads import catalogue

API_KEY_VARIABLE = "OPENAI_API_KEY"
DEFAULT_SCENARIO = "sharegpt"
DEFAULT_STOP_TIMEOUT = "60"
ENDPOINT_TYPES = ("chat", "completions")

# Fields that a request's body gets from elsewhere.
_OWN_BODY_FIELDS = frozenset({"messages", "prompt", "stream", "stream_options", "max_tokens", "n"})

_HEADER_NAME = re.compile(r"[\w!#$%&'*+.^`|~-]+", re.ASCII)
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Settings:
    """The options of one run, checked and converted."""

    scenario: str = DEFAULT_SCENARIO
    model: str | None = None
    endpoint_type: str = "chat"
    num_prompts: int | None = None
    max_tokens: int | None = None
    input_len: int | None = None
    tokenizer: str | None = None
    ignore_eos: bool = True
    temperature: float | None = None
    dataset_path: Path | None = None
    seed: int = 0
    """Drawn anew for each run unless given: the server's prefix cache would hold prompts seen before."""
    warmup_s: float = 0.0
    results_dir: Path | None = None
    slos: Sequence[Slo] = ()
    goodput_ms: Mapping[str, float] = field(default_factory=dict)
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    continuous_usage_stats: bool = False
    request_timeout_s: float = 600.0
    insecure: bool = False
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Secrets among them: never to be written anywhere."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the suite's options to Locust's parser, under one heading and on the web UI's start form."""
    parser.set_defaults(stop_timeout=DEFAULT_STOP_TIMEOUT)
    group = parser.add_argument_group(
        "vLLM options",
        "How language models are asked, and what is made of the answers. Names follow `vllm bench serve`.",
    )

    def add(*names: str, secret: bool = False, in_web_ui: bool = True, **how: Any) -> None:
        action: Any = group.add_argument(*names, **how)
        action.include_in_web_ui = in_web_ui
        action.is_secret = secret
        action.is_required = action.is_multiple = False

    add(
        "--scenario",
        metavar="NAME|FILE.py",
        default=DEFAULT_SCENARIO,
        help=f"What is asked: {', '.join(catalogue.names())}; one member of a scenario (tiny.sl), a weighted "
        f"mix (ss:3,ll:1) or a file of your own. Default: {DEFAULT_SCENARIO}",
    )
    add("--model", metavar="NAME", help="Model to ask. Default: the first one the server lists")
    add(
        "--endpoint-type",
        choices=ENDPOINT_TYPES,
        default="chat",
        help="chat (/v1/chat/completions) or completions (/v1/completions). Default: chat",
    )
    add(
        "--num-prompts",
        metavar="N",
        help="Stop after N requests (N per profile when a scenario runs several one after another)",
    )
    add("--max-tokens", metavar="N", help="Output tokens to ask for, instead of the scenario's own")
    add(
        "--input-len", metavar="N", help="Exact prompt length in tokens, for scenarios made of synthetic text"
    )
    add(
        "--tokenizer",
        metavar="PATH",
        help="tokenizer.json, or a folder with one, to count tokens with when the server has no /tokenize",
    )
    add(
        "--ignore-eos",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="Ask the server for exactly max_tokens tokens. Turn off for servers that refuse the field. "
        "Default: on",
    )
    add("--temperature", metavar="T", help="Sampling temperature. Default: the server's")
    add("--dataset-path", metavar="FILE", help="Data set for scenarios that read one, such as sharegpt")
    add(
        "--seed",
        metavar="N",
        help="Which requests a scenario makes: same seed, same requests. Default: a new one for each run, "
        "noted in run.json, so that no prompt of an earlier run waits in the server's prefix cache",
    )
    add(
        "--warmup",
        metavar="TIME",
        default="0",
        help="Leave this time (10s, 2m) at the start, and the draining at the end, out of the results. "
        "Default: 0",
    )
    add("--results-dir", metavar="DIR", help="Write run.json, requests.jsonl and summary.json there")
    add(
        "--slo",
        metavar="EXPR",
        action="append",
        help='Gate such as "p99_ttft_ms<500" or "failed==0", any key of summary.json; may be repeated. '
        "Exit code 3 when one is missed, 4 when the sample cannot tell",
    )
    add(
        "--goodput",
        metavar="KEY:MS",
        nargs="+",
        help="Limits that make a request a good one, in ms: ttft:500 tpot:50 e2el:5000",
    )
    add("--extra-body", metavar="JSON", help='More fields for every request, for example {"top_p": 0.9}')
    add(
        "--continuous-usage-stats",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="Ask for usage with every chunk, to tell how many tokens each carries. Costs the server time",
    )
    add(
        "--request-timeout",
        metavar="TIME",
        default="600",
        help="Longest wait for a whole answer. Default: 600",
    )
    add(
        "--insecure",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="Do not check TLS certificates",
    )
    add(
        "--api-key",
        metavar="KEY",
        secret=True,
        help=f"Bearer token. Better in the environment, as {API_KEY_VARIABLE}: others can see command lines",
    )
    add(
        "--header",
        metavar="NAME=VALUE",
        action="append",
        in_web_ui=False,
        help="Header for every request; may be repeated. Its value is never written to results",
    )


def read_settings(options: argparse.Namespace | None) -> tuple[Settings, Sequence[str]]:
    """Check and convert all options: the settings, and one sentence per problem.

    An option with a problem has its default, so that what else is wrong can be found before anybody is told.
    """
    reader = _Reader(vars(options) if options is not None else {})
    settings = Settings(
        scenario=reader.text("scenario") or DEFAULT_SCENARIO,
        model=reader.text("model"),
        endpoint_type=reader.take("endpoint_type", _one_of(ENDPOINT_TYPES), "chat"),
        num_prompts=reader.take("num_prompts", _whole(at_least=1), None),
        max_tokens=reader.take("max_tokens", _whole(at_least=1), None),
        input_len=reader.take("input_len", _whole(at_least=1), None),
        tokenizer=reader.text("tokenizer"),
        ignore_eos=reader.flag("ignore_eos", True),
        temperature=reader.take("temperature", _number(at_least=0), None),
        dataset_path=reader.take("dataset_path", Path, None),
        seed=reader.take("seed", _whole(at_least=0), secrets.randbelow(1_000_000)),
        warmup_s=reader.take("warmup", _time, 0.0),
        results_dir=reader.take("results_dir", Path, None),
        slos=reader.take_each("slo", parse_slo),
        goodput_ms=reader.take("goodput", _goodput, {}),
        extra_body=reader.take("extra_body", _json_object, {}),
        continuous_usage_stats=reader.flag("continuous_usage_stats", False),
        request_timeout_s=reader.take("request_timeout", _time, 600.0),
        insecure=reader.flag("insecure", False),
        headers=_headers(reader),
    )
    run_time_s = getattr(options, "run_time", None)
    if run_time_s and settings.warmup_s >= run_time_s:
        reader.problems.append(f"--warmup leaves nothing of a --run-time of {run_time_s} s to measure.")
    if settings.request_timeout_s == 0:
        reader.problems.append("--request-timeout must be more than 0 s.")
    return settings, reader.problems


class _Reader:
    """Takes options one by one and collects what is wrong with them."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = options
        self.problems: list[str] = []

    def text(self, name: str) -> str | None:
        value = self._options.get(name)
        return str(value).strip() or None if value is not None else None

    def flag(self, name: str, default: bool) -> bool:
        value = self._options.get(name)
        return default if value is None else str(value).lower() in ("true", "on", "1")

    def take(self, name: str, convert: Callable[[Any], T], default: T) -> T:
        value = self._options.get(name)
        if value is None or value in ("", []):
            return default
        try:
            return convert(value)
        except UsageError as error:
            self.problems.extend(error.problems)
        except ValueError as error:
            self.problems.append(f"--{name.replace('_', '-')} {value!r} {error}.")
        return default

    def take_each(self, name: str, convert: Callable[[str], T]) -> list[T]:
        """Convert each value of a repeatable option; the web UI's form gives them in one field."""
        values = self._options.get(name) or []
        if isinstance(values, str):
            values = [part for part in values.split(",") if part.strip()]
        converted: list[T] = []
        for value in values:
            try:
                converted.append(convert(value))
            except UsageError as error:
                self.problems.extend(error.problems)
        return converted


def _whole(at_least: int) -> Callable[[Any], int]:
    def convert(value: Any) -> int:
        try:
            number = int(str(value))
        except ValueError:
            number = at_least - 1
        if number < at_least:
            raise ValueError(f"is not a whole number of at least {at_least}")
        return number

    return convert


def _number(at_least: float) -> Callable[[Any], float]:
    def convert(value: Any) -> float:
        try:
            number = float(value)
        except ValueError:
            number = float("nan")
        if not at_least <= number < float("inf"):
            raise ValueError(f"is not a number of at least {at_least:g}")
        return number

    return convert


def _one_of(choices: Sequence[str]) -> Callable[[Any], str]:
    def convert(value: Any) -> str:
        if value not in choices:
            raise ValueError(f"is none of {', '.join(choices)}")
        return str(value)

    return convert


_TIME_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def _time(value: Any) -> float:
    """Seconds of `10`, `10s`, `1.5m`, `500ms` or `2h`."""
    text = str(value).strip().lower()
    digits = text.rstrip("mhs")
    unit = text[len(digits) :] or "s"
    try:
        return _number(at_least=0)(digits) * _TIME_UNITS_S[unit]
    except (ValueError, KeyError):
        raise ValueError("is not a time like 10s, 500ms or 2m") from None


def _goodput(value: Any) -> dict[str, float]:
    parts = value.replace(",", " ").split() if isinstance(value, str) else value
    return parse_goodput(parts)


def _json_object(value: Any) -> dict[str, Any]:
    try:
        decoded = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"is not JSON ({error})") from None
    if not isinstance(decoded, dict):
        raise ValueError('is not a JSON object like {"top_p": 0.9}')
    if taken := _OWN_BODY_FIELDS & decoded.keys():
        raise ValueError(f"sets {', '.join(sorted(taken))}, which the suite sets itself")
    return decoded


def _headers(reader: _Reader) -> dict[str, str]:
    headers: dict[str, str] = {}
    for pair in reader._options.get("header") or []:
        name, separator, value = pair.partition("=" if "=" in pair.partition(":")[0] else ":")
        if separator and _HEADER_NAME.fullmatch(name.strip()) and _HEADER_VALUE.fullmatch(value.strip()):
            headers[name.strip()] = value.strip()
        else:
            reader.problems.append(f"--header {name!r} is not of the form NAME=VALUE.")
    if key := reader.text("api_key") or os.environ.get(API_KEY_VARIABLE):
        if _HEADER_VALUE.fullmatch(key):
            headers["Authorization"] = f"Bearer {key}"
        else:
            reader.problems.append("--api-key holds characters that no HTTP header can carry.")
    return headers
