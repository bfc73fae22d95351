"""How long Prometheus waits for the exporter's page, and how large that is, in a run of many profiles.

The page is fetched over HTTP from the observer's own endpoint, right after a second's worth of new requests
of every profile was folded: nothing of it is ready then.
"""

import argparse
import os
import platform
import time
from urllib.request import urlopen

import numpy as np

from vllm_locust.core.record import RequestRecord
from vllm_locust.core.recording import Recording
from vllm_locust.observe.endpoint import Endpoint
from vllm_locust.observe.live import Identity, LiveRun, LoadState
from vllm_locust.observe.metrics import Page


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--profiles", type=int, default=20)
    parser.add_argument("--requests", type=int, default=20, help="of each profile and second")
    parser.add_argument("--scrapes", type=int, default=50)
    options = parser.parse_args()
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    rng = np.random.default_rng(1)
    run = LiveRun(Identity("3f9a01bc", "mix", "model", "http://127.0.0.1:8000", began_s=0.0))
    run.begin_phase(0, "mix, 512 users", 512, "users")
    endpoint = Endpoint("127.0.0.1", 0, lambda: Page(run, ()).render(), lambda _: None)
    taken_ms, size = [], 0
    for second in range(options.scrapes):
        run.add(a_second(second, options.profiles, options.requests, rng).to_dict())
        run.state(float(second), LoadState(users=512, in_flight=512, cpu_shares={"client": 0.2}))
        began_s = time.perf_counter()
        with urlopen(endpoint.url) as answer:
            size = len(answer.read())
        taken_ms.append((time.perf_counter() - began_s) * 1000)
    endpoint.stop()
    print(
        f"a page of {options.profiles} profiles, {size / 1024:.0f} KiB: median {np.median(taken_ms):.1f} ms, "
        f"p99 {np.percentile(taken_ms, 99):.1f} ms, of {options.scrapes} scrapes"
    )


def a_second(second: int, profiles: int, requests: int, rng: np.random.Generator) -> Recording:
    """Answers of 100 tokens that ended in this second."""
    recording = Recording()
    for i in range(profiles * requests):
        sent_s = second + i / (profiles * requests)
        arrivals_s = sent_s + np.cumsum(rng.lognormal(-4, 0.5, 100))
        recording.add(
            RequestRecord(
                index=i,
                scenario="mix",
                profile=f"profile_{i % profiles}",
                outcome="ok",
                intended_s=sent_s,
                sent_s=sent_s,
                first_token_s=float(arrivals_s[0]),
                last_token_s=float(arrivals_s[-1]),
                ended_s=float(arrivals_s[-1]),
                arrivals_s=arrivals_s.tolist(),
                lags_s=rng.lognormal(-8, 1, 100).tolist(),
                bounds_s=rng.lognormal(-9, 1, 100).tolist(),
                output_tokens=100,
                prompt_tokens=500,
                finish_reason="length",
            )
        )
    return recording


if __name__ == "__main__":
    main()
