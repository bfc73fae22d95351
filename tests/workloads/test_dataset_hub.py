"""`hf:ORG/NAME` against a hub of our own: what is listed, what is taken, and what is said when it fails."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

import pytest

from vllm_locust.errors import UsageError
from vllm_locust.workloads.datasets.hub import local_file

pytest.importorskip("huggingface_hub")

PROMPTS = b'{"prompt": "from the hub", "output_len": 7}\n'
README = {"README.md": b"# data", "dataset_infos.json": b"{}"}
COMMIT = "c0ffee" * 6 + "c0ff"
REPOSITORIES = {
    "me/one": {**README, "data/train.jsonl": PROMPTS},
    "me/many": {**README, **{f"part-{n:02}.jsonl": PROMPTS for n in range(12)}},
    "me/none": README,
}
PAGE = re.compile(r"/api/datasets/(\w+/\w+)(?:/(?:tree|revision)/([^/]+))?")
FILE = re.compile(r"/datasets/(\w+/\w+)/resolve/([^/]+)/(.+)")
REVISIONS = ("main", COMMIT, "v1", "refs/convert/parquet")


class Hub(BaseHTTPRequestHandler):
    """Answers what `list_repo_files` and `hf_hub_download` ask for."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        page, file = PAGE.fullmatch(path), FILE.fullmatch(path)
        repository, revision = (page or file).group(1, 2) if (page or file) else ("", None)
        files = REPOSITORIES.get(repository)
        if repository == "me/closed":
            self.answer(403, b"", {"X-Error-Code": "GatedRepo"})
        elif files is None:
            self.answer(401, b"", {"X-Error-Code": "RepoNotFound"})
        elif unquote(revision or "main") not in REVISIONS:
            self.answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
        elif file is not None and file[3] in files:
            content = files[file[3]]
            self.answer(200, content, {"X-Repo-Commit": COMMIT, "ETag": f'"{sha256(content).hexdigest()}"'})
        elif file is not None:
            self.answer(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        elif "/tree/" in path:
            tree = [{"type": "file", "path": name, "size": len(files[name]), "oid": "0"} for name in files]
            self.answer(200, json.dumps(tree).encode())
        else:
            about = {"id": repository, "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}
            self.answer(200, json.dumps(about).encode())

    do_HEAD = do_GET  # noqa: N815

    def answer(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


SCRIPT = """
import json, sys, time
from pathlib import Path
from vllm_locust.errors import UsageError
from vllm_locust.workloads import catalogue
from vllm_locust.workloads.scenario import Context, sources_of

time.sleep = lambda seconds: None  # the hub's package tries again and again
for address in sys.argv[1:]:
    try:
        scenario = catalogue.load("prompts", Context(dataset_path=Path(address)))
        planned = scenario.request(1, 0)
        print(json.dumps([planned.prompt.partition(": ")[2], planned.max_tokens, *sources_of(scenario)]))
    except UsageError as error:
        print(json.dumps(str(error)))
"""


def ask(endpoint: str, home: Path, *addresses: str) -> list[object]:
    """What the scenario `prompts` makes of each address; the hub's package reads its settings at import."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "NO_PROXY": "127.0.0.1"}
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, *addresses],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return [json.loads(line) for line in ran.stdout.splitlines()]


def test_files_of_the_hub(hub: str, tmp_path: Path) -> None:
    good = ["hf:me/one", "hf:me/one@v1", "hf:me/many@refs/convert/parquet/part-03.jsonl"]
    answers = ask(
        hub,
        tmp_path,
        *good,
        "hf:me/many",
        "hf:me/none",
        "hf:me/gone",
        "hf:me/closed",
        "hf:me/one@v2/data/train.jsonl",
        "hf:me/one/data/test.jsonl",
    )
    for address, answer in zip(good, answers, strict=False):
        source = {
            "path": address,
            "bytes": len(PROMPTS),
            "sha256": sha256(PROMPTS).hexdigest(),
            "rows": 1,
            "kept": 1,
            "filtered": 0,
            "skipped": 0,
            "salted": True,
        }
        assert answer == ["from the hub", 7, source]
    listed = ", ".join(f"part-{n:02}.jsonl" for n in range(10))
    assert answers[len(good) :] == [
        f"hf:me/many holds 12 data files, say which one with hf:me/many/FILE: {listed} and 2 more.",
        "hf:me/none holds no data file (.parquet, .jsonl, .json, .csv).",
        "hf:me/gone is not there: the hub has no data set me/gone, or it is private (then set HF_TOKEN).",
        "hf:me/closed is open only to those whom its owner lets in: ask there, and set HF_TOKEN.",
        "hf:me/one@v2/data/train.jsonl is not there: me/one has no revision v2.",
        "hf:me/one/data/test.jsonl is not there: me/one has no file data/test.jsonl.",
    ]


def test_without_a_network(tmp_path: Path) -> None:
    listing, download = ask("http://127.0.0.1:9", tmp_path, "hf:me/one", "hf:me/one/data/train.jsonl")
    sentence = r"hf:me/one cannot be looked up \(\w+: [^\n]+\): if it was downloaded before, .+ will do\."
    assert re.fullmatch(sentence, str(listing))
    assert download == (
        "hf:me/one/data/train.jsonl cannot be downloaded (no way to the hub), and this machine's cache does "
        "not hold it."
    )


def test_what_was_downloaded_is_found_without_a_network(hub: str, tmp_path: Path) -> None:
    address = "hf:me/one/data/train.jsonl"
    assert ask(hub, tmp_path, address) == ask("http://127.0.0.1:9", tmp_path, address)


@pytest.mark.parametrize("address", ["hf:", "hf:imdb", "hf:a b/c", "hf:a/b@", "hf:a/b@1@2"])
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(UsageError, match=r"write hf:ORG/NAME\[@REVISION\]\[/PATH/IN/REPO\]"):
        local_file(Path(address))


def test_other_paths_are_left_alone() -> None:
    assert local_file(Path("data/hf:x.json")) == Path("data/hf:x.json")


def test_without_the_package_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    sentence = r"needs the package huggingface-hub: pip install 'vllm-locust\[datasets\]'\.$"
    with pytest.raises(UsageError, match=sentence):
        local_file(Path("hf:me/one"))
