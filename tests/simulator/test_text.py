"""The small tokenizer: additive, complete, fast and the same everywhere."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_locust.simulator import text


@given(st.text())
def test_pieces_make_up_the_text(value):
    data = value.encode("utf-8", "surrogatepass")
    assert b"".join(text.split(data)) == data
    assert all(0 <= token < text.VOCAB_SIZE for token in text.encode(value))


@given(st.integers(0, 50), st.sampled_from(["word", "extraordinary", "7", "x1"]))
def test_words_add_up(count, word):
    assert len(text.encode(f" {word}" * count)) == count * len(text.encode(f" {word}"))


@pytest.mark.parametrize(
    ("value", "count"),
    [
        ("", 0),
        ("hello", 1),
        ("hello world", 2),
        ("Hello, tell me about Python.", 7),
        ("incomprehensibilities", 3),
        ("123456", 2),
        ("a  b", 3),
        ("a\n\nb", 4),
        ("日本", 2),
    ],
)
def test_counts(value, count):
    assert len(text.encode(value)) == count


def test_ids_are_the_same_in_every_process():
    assert text.encode("hello world") == [42630, 82635]


@given(st.lists(st.integers(0, text.VOCAB_SIZE - 1), max_size=60))
def test_a_text_made_from_ids_has_as_many_tokens(ids):
    assert len(text.encode(text.decode(ids))) == len(ids)


@given(st.integers(0, 500), st.integers(0, 500))
def test_an_answer_sent_back_has_the_ids_it_was_generated_with(start, count):
    ids = text.answer_ids(start % len(text.ANSWER_IDS), count)
    assert len(ids) == count
    assert text.encode(text.decode(ids)) == ids


def test_the_template_adds_a_constant():
    alone = len(text.encode_chat([("user", text.encode("hi"))]))
    assert alone == len(text.encode("hi")) + 5 + 3
    both = text.encode_chat([("system", text.encode("be kind")), ("user", text.encode("hi"))])
    assert len(both) == alone + len(text.encode("be kind")) + 5


def test_answers_begin_with_a_sentence_and_depend_on_the_seed():
    starts = {text.answer_start([1, 2, 3], seed) for seed in range(50)}
    assert len(starts) > 3
    assert all(text.decode(text.answer_ids(start, 1)).strip().istitle() for start in starts)


def test_natural_lengths_span_short_and_long_answers():
    lengths = [text.natural_length(range(seed, seed + 9), 0) for seed in range(2000)]
    assert min(lengths) >= 16
    assert max(lengths) < 1024
    assert 100 < sorted(lengths)[1000] < 160
