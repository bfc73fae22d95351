"""A data set that is larger than the memory it may take."""

import subprocess
import sys
from pathlib import Path

import orjson
import pytest

SCRIPT = """
import sys
from pathlib import Path
from vllm_locust.workloads.prompt_file import read_prompts
from vllm_locust.workloads.sharegpt import read_dataset

def peak_mb():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024

def read(path, memory_bytes):
    if path.suffix == ".json":
        return read_dataset(path, memory_bytes=memory_bytes).kept
    return read_prompts(path, memory_bytes=memory_bytes)[0]

path = Path(sys.argv[1])
before_mb = peak_mb()
outside = read(path, 1 << 20)
outside_mb = peak_mb() - before_mb
inside = read(path, 1 << 30)
inside_mb = peak_mb() - before_mb
assert len(inside) == len(outside)
assert all(inside[n] == outside[n] for n in range(0, len(inside), 97))
print(len(inside), outside_mb, inside_mb)
"""
PROMPT, ANSWER, ROWS = "a question " * 300, "an answer " * 50, 12_000


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells what a process took at most")
@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.csv"])
def test_memory_does_not_grow_with_the_file(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = [{"from": "human", "value": PROMPT}, {"from": "gpt", "value": ANSWER}]
    begin, row, between, end = {
        "a.json": (b"[", orjson.dumps({"conversations": turns}), b",\n", b"]"),
        "a.jsonl": (b"", orjson.dumps({"prompt": PROMPT}), b"\n", b""),
        "a.csv": (b"prompt\n", f'"{PROMPT}"'.encode(), b"\n", b""),
    }[name]
    path = tmp_path / name
    path.write_bytes(begin + between.join([row] * ROWS) + end)
    size_mb = path.stat().st_size / (1 << 20)
    assert size_mb > 37

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(path)], capture_output=True, text=True, check=False
    )
    path.unlink()
    assert ran.returncode == 0, ran.stderr
    rows, outside_mb, inside_mb = map(float, ran.stdout.split())
    assert rows == ROWS
    assert outside_mb < 20
    # The measure can tell: kept in memory, the prompts alone are as large as this.
    assert inside_mb > len(PROMPT) * ROWS / (1 << 20)
