"""Stands in for a server and for Locust, for tests of what an experiment does with them.

    fakes.py server KIND PORT [ARGUMENTS]    good, mute, broken, stubborn, mortal
    LOCUST_HOST=URL fakes.py locust --results-dir DIR --scenario WHAT ...

Every start of either is noted in the file that FAKES_LOG names. WHAT the fake Locust does is in its scenario:
`code-3` ends with exit code 3, `kill` makes a mortal server die, `hang` goes on until it is told to end.
"""

import json
import os
import signal
import sys
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.request import urlopen


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/die":
            os._exit(7)
        self.send_response(503 if sys.argv[2] == "mute" else 200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def serve(kind: str, port: int) -> None:
    if kind == "broken":
        print("Traceback (most recent call last):\n  File x\nValueError: too few tokens for that\n")
        sys.exit(1)
    if kind == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    with HTTPServer(("127.0.0.1", port), Handler) as server:
        server.serve_forever()


def option(name: str) -> str:
    return sys.argv[sys.argv.index(name) + 1]


def load() -> int:
    what, folder = option("--scenario"), Path(option("--results-dir"))
    if what == "hang":
        signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
        time.sleep(600)
    if what == "kill":
        with suppress(OSError):
            urlopen(os.environ["LOCUST_HOST"] + "/die", timeout=60)
        time.sleep(600)
    code = int(what.removeprefix("code-")) if what.startswith("code-") else 0
    if code == 2:
        print("vllm-locust: That is wrong.\nvllm-locust: And that.")
        return code
    requests = {"planned": 10, "ok": 9 if code == 1 else 10, "failed": int(code == 1)}
    summary = {
        "completed": requests["ok"],
        "failed": requests["failed"],
        "duration": 1.0,
        "request_throughput": 10.0,
        "p99_ttft_ms": 5.0,
        "requests": requests,
        "failures": {"http_400": 1} if code == 1 else {},
        "failure_examples": {"http_400": "too long"},
        "slo": [{"outcome": "missed", "sentence": "p99 too large"}],
        "client": {"verdict": "invalid" if code == 4 else "valid", "reasons": ["it was late"]},
        "scenario": what,
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "requests.jsonl").write_text("")
    (folder / "run.json").write_text(json.dumps({"scenario": what}))
    return code


if __name__ == "__main__":
    with Path(os.environ.get("FAKES_LOG", os.devnull)).open("a") as log:
        log.write(" ".join(sys.argv[1:]) + "\n")
    if sys.argv[1] == "server":
        serve(sys.argv[2], int(sys.argv[3]))
    else:
        sys.exit(load())
