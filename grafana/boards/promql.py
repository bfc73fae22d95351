"""PromQL as the boards write it: strings in, strings out.

Rule: what is divided by is above zero or the point is missing; nothing is drawn where there was nothing to
measure. Totals of a run are read from its counters as they are (`last_over_time`), since every run counts
from zero under a label of its own: unlike `increase` that misses no first failure, and finds runs that are
over. A server that several exporters look at, a run's own and one that runs all day, counts once.
"""

RUN = 'run=~"$run", scenario=~"$scenario", model=~"$model"'
PROFILE = f'{RUN}, profile=~"$profile"'
SERVER = 'server=~"$server"'

WINDOW = "$__rate_interval"
SHOWN = "$__range"

# What tells the series of servers apart, but for the exporter that shows them.
_SERVER_LABELS = "server, engine, model_name, gpu, le"


def rate(name: str, labels: str, by: str = "") -> str:
    """A counter's growth per second."""
    return f"{_sum(by)} ({_once(name, f'rate(vllm_locust_{name}{{{labels}}}[{WINDOW}])')})"


def total(name: str, labels: str, by: str = "") -> str:
    """What the counters of the runs shown have come to."""
    return f"{_sum(by)} ({last(name, labels)})"


def last(name: str, labels: str) -> str:
    """What was said last within the time shown, also by runs that are over."""
    return f"last_over_time(vllm_locust_{name}{{{labels}}}[{SHOWN}])"


def ratio(part: str, whole: str) -> str:
    return f"{part} / ({whole} > 0)"


def mean(histogram: str, labels: str) -> str:
    """The mean of what was observed within the window, in the histogram's unit."""
    return ratio(rate(f"{histogram}_sum", labels), rate(f"{histogram}_count", labels))


def quantile(q: float, histogram: str, labels: str, by: str = "") -> str:
    """A quantile of what was observed within the window."""
    return f"histogram_quantile({q:g}, {rate(f'{histogram}_bucket', labels, _join('le', by))})"


def total_quantile(q: float, histogram: str, labels: str) -> str:
    """A quantile of all that was observed in the runs shown."""
    return f"histogram_quantile({q:g}, {total(f'{histogram}_bucket', labels, 'le')})"


def gauge(name: str, labels: str, by: str = "", fold: str = "sum") -> str:
    """A gauge as it is now, folded over the labels that are not in `by`."""
    return f"{_fold(fold, by)} ({_once(name, f'vllm_locust_{name}{{{labels}}}')})"


def server_tokens(what: str) -> str:
    """Tokens per second, `prompt` or `generation`: as counted or, where there is only a log, as that says."""
    return f"{rate(f'server_{what}_tokens_total', SERVER)} or {gauge(f'server_{what}_throughput', SERVER)}"


def _once(name: str, series: str) -> str:
    """Without the exporter: of two that saw the same server, the one that saw more."""
    return f"max by ({_SERVER_LABELS}) ({series})" if name.startswith("server_") else series


def _sum(by: str) -> str:
    return _fold("sum", by)


def _fold(fold: str, by: str) -> str:
    return f"{fold} by ({by})" if by else fold


def _join(*labels: str) -> str:
    return ", ".join(label for label in labels if label)
