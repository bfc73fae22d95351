"""The send log is the truth: it must agree with what a client read, and when."""

import json
import time

import pytest

from vllm_locust.errors import UsageError
from vllm_locust.simulator.config import configure
from vllm_locust.simulator.sendlog import SendLog
from vllm_locust.simulator.server import Server

CHAT = "/v1/chat/completions"
BODY = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 12, "ignore_eos": True, "stream": True}


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_log_equals_what_the_client_saw(serve, tmp_path):
    path = tmp_path / "sent.jsonl"
    with serve("metronome", send_log=path) as running:
        client = running.client()
        before_ns = time.time_ns()
        client.send(
            "POST",
            CHAT,
            json.dumps(BODY).encode(),
            {"X-Request-Id": "mine", "Content-Type": "application/json"},
        )
        arrivals_ns = []
        while True:
            data = client.sock.recv(65536)
            if b'"content":"' in data:
                arrivals_ns.append(time.time_ns())
            if data.endswith(b"0\r\n\r\n"):
                break
    (entry,) = read(path)
    assert entry["request_id"] == "mine"
    assert entry["id"] == "chatcmpl-mine"
    assert (entry["prompt_tokens"], entry["output_tokens"], entry["finish_reason"]) == (9, 12, "length")
    assert entry["delayed_chunks"] == 0
    sent_ns = entry["sent_ns"]
    assert len(sent_ns) == 12
    assert before_ns <= entry["received_ns"] <= sent_ns[0]
    assert sent_ns == sorted(sent_ns)
    if len(arrivals_ns) == len(sent_ns):
        assert all(sent <= arrived for sent, arrived in zip(sent_ns, arrivals_ns, strict=True))


def test_every_request_has_its_line(serve, tmp_path):
    path = tmp_path / "sent.jsonl"
    with serve(send_log=path) as running:
        client, leaver = running.client(), running.client()
        for index in range(5):
            client.post(CHAT, {**BODY, "stream": index % 2 == 0, "max_tokens": index + 1})
        leaver.send(
            "POST",
            CHAT,
            json.dumps({**BODY, "max_tokens": 9000}).encode(),
            {"Content-Type": "application/json"},
        )
        leaver.sock.recv(100)
        leaver.sock.close()
        deadline = time.monotonic() + 60
        while len(read(path)) < 6:
            assert time.monotonic() < deadline, "the log is not written while the server runs"
            time.sleep(0.01)
    entries = read(path)
    assert [entry["output_tokens"] for entry in entries[:5]] == [1, 2, 3, 4, 5]
    # A whole answer is sent at once.
    assert [len(entry["sent_ns"]) for entry in entries[:5]] == [1, 1, 3, 1, 5]
    assert entries[5]["finish_reason"] == "abort"
    assert len({entry["request_id"] for entry in entries}) == 6


def test_answers_cut_off_at_the_end_are_logged_as_aborted(serve, tmp_path):
    path = tmp_path / "sent.jsonl"
    with serve("metronome", send_log=path) as running:
        client = running.client()
        client.send(
            "POST",
            CHAT,
            json.dumps({**BODY, "max_tokens": 9000}).encode(),
            {"Content-Type": "application/json"},
        )
        client.sock.recv(100)
    (entry,) = read(path)
    assert entry["finish_reason"] == "abort"


def test_entries_are_written_in_batches(tmp_path):
    log = SendLog(tmp_path / "log")
    for index in range(100):
        log.add({"index": index})
    log.write_some()
    assert len(read(tmp_path / "log")) == 64
    assert log.pending
    log.close()
    assert [entry["index"] for entry in read(tmp_path / "log")] == list(range(100))


def test_a_log_that_cannot_be_written_is_the_users_mistake(tmp_path):
    with pytest.raises(UsageError, match=r"cannot be written \(No such file or directory\)"):
        Server(configure(port=0, send_log=tmp_path / "no" / "where"))
