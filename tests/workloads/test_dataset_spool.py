"""What goes into a spool comes out again, from memory or from a file that has no name."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vllm_locust.errors import UsageError
from vllm_locust.workloads.datasets.spool import Spool, cache_folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "vllm-locust"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(st.lists(st.binary(max_size=50)), st.sampled_from([0, 1, 30, 1000]))
def test_pieces_come_back_whole_and_in_order(pieces: list[bytes], memory_bytes: int) -> None:
    spool = Spool(memory_bytes)
    for piece in pieces:
        spool.append(piece)
    records = spool.records()
    assert len(records) == len(pieces)
    assert list(records) == pieces
    assert records[-3:] == pieces[-3:]
    for beyond in (len(pieces), -len(pieces) - 1):
        with pytest.raises(IndexError):
            records[beyond]


def test_little_stays_in_memory_and_much_goes_to_a_file_without_a_name(cache: Path) -> None:
    small = Spool(memory_bytes=1000)
    small.append(b"x" * 1000)
    assert small.records()[0] == b"x" * 1000
    assert not cache.exists()

    large = Spool(memory_bytes=1000)
    pieces = [bytes([n % 256]) * 100_000 for n in range(30)]
    for piece in pieces:
        large.append(piece)
    records = large.records()
    assert list(cache.iterdir()) == []
    assert [records[n] for n in (29, 0, -1, 15)] == [pieces[n] for n in (29, 0, 29, 15)]


def test_no_room_is_said_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    spool = Spool(memory_bytes=10)
    with pytest.raises(UsageError, match=r"file/vllm-locust has no room .*: set XDG_CACHE_HOME to a folder"):
        spool.append(b"x" * 11)


def test_without_the_variable_it_is_the_cache_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    for unset in ("", None):
        if unset is None:
            monkeypatch.delenv("XDG_CACHE_HOME")
        else:
            monkeypatch.setenv("XDG_CACHE_HOME", unset)
        assert cache_folder() == Path("/home/somebody/.cache/vllm-locust")
