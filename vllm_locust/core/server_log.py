"""What a vLLM server says of itself in its log: a line every few seconds, for servers that give nothing else.

vLLM's first engine (v0) and its present one (v1) write

    ... Avg prompt throughput: 15135.6 tokens/s, Avg generation throughput: 40.4 tokens/s, Running: 33 reqs,
        Swapped: 0 reqs, Pending: 925 reqs, GPU KV cache usage: 9.2%, CPU KV cache usage: 0.0%.
    ... Engine 000: Avg prompt throughput: 1483.8 tokens/s, Avg generation throughput: 356.6 tokens/s,
        Running: 8 reqs, Waiting: 0 reqs, GPU KV cache usage: 0.3%, Prefix cache hit rate: 34.0%

(each is one line). Percentages become ratios. Of a line that was cut off what is whole counts.
"""

import re

from vllm_locust.core.server import EngineState, hit_ratio_of, kv_cache_usage_of

_COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_NUMBER = r"([0-9]{1,15}(?:\.[0-9]{1,15})?)"

# One line per engine, or one for all of them ("4 Engines Aggregated: "), which then stands for engine 0.
_BEGIN = re.compile(
    rf"(?:Engine ([0-9]{{1,6}}): |Engines Aggregated: )?Avg prompt throughput: {_NUMBER} tokens/s, "
    rf"Avg generation throughput: {_NUMBER} tokens/s, Running: {_NUMBER} reqs, "
)
_WAITING = re.compile(rf"(?:Waiting|Pending): {_NUMBER} reqs\b")
_SWAPPED = re.compile(rf"Swapped: {_NUMBER} reqs\b")
_ON_GPU = re.compile(rf"GPU KV cache usage: {_NUMBER}%")
_ON_CPU = re.compile(rf"CPU KV cache usage: {_NUMBER}%")
_HIT_RATE = re.compile(rf"Prefix cache hit rate: (?:GPU: )?{_NUMBER}%")
_HIT_RATES = re.compile(rf"Prefix cache hit rate: GPU: {_NUMBER}%, CPU: {_NUMBER}%")


def parse_line(line: str) -> EngineState | None:
    """The gauges that a line of the log tells; None for any other line. The log does not name the model."""
    if "throughput: " not in line and "hit rate: " not in line:
        return None
    text = _COLOURS.sub("", line)
    begin = _BEGIN.search(text)
    if begin is None:
        return _v0_hit_rate(text)
    engine, prompt_throughput, generation_throughput, running = begin.groups()
    rest = text[begin.end() :]
    gauges = {
        "prompt_throughput": float(prompt_throughput),
        "generation_throughput": float(generation_throughput),
        "running": float(running),
    }
    found = {
        "waiting": _value(_WAITING, rest),
        "swapped": _value(_SWAPPED, rest),
        "kv_cache_usage": kv_cache_usage_of(
            _ratio(_ON_GPU, rest), _ratio(_ON_CPU, rest), _value(_SWAPPED, rest)
        ),
        "prefix_cache_hit_ratio": _ratio(_HIT_RATE, rest),
    }
    gauges |= {name: value for name, value in found.items() if value is not None}
    return EngineState(str(int(engine or 0)), "", gauges)


def _v0_hit_rate(text: str) -> EngineState | None:
    """v0 tells its hit rate in a line of its own."""
    if "Prefix cache hit rate: GPU: " not in text:
        return None
    both = _HIT_RATES.search(text)
    ratio = hit_ratio_of(float(both[1]) / 100, float(both[2]) / 100) if both else _ratio(_HIT_RATE, text)
    return None if ratio is None else EngineState("0", "", {"prefix_cache_hit_ratio": ratio})


def _value(pattern: re.Pattern[str], text: str) -> float | None:
    match = pattern.search(text)
    return float(match.group(1)) if match else None


def _ratio(pattern: re.Pattern[str], text: str) -> float | None:
    percent = _value(pattern, text)
    return None if percent is None else percent / 100
