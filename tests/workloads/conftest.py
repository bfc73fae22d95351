"""Toy tokenizers, each with the traits of a real family, and each with a chat template around the prompt."""

import re
from collections import Counter
from collections.abc import Callable
from functools import cache
from itertools import pairwise

import orjson
import pytest

from vllm_locust.workloads.scenario import CountTokens
from vllm_locust.workloads.sharegpt import SMALL_DATASET

PIECES = re.compile(r" ?[A-Za-z]+| ?\d| ?[^\sA-Za-z\d]+|\s+")


def whitespace() -> CountTokens:
    """Every word is a token; the template adds five and trims the prompt."""
    return lambda prompt: 5 + len(f"[user] {prompt.strip()} [end]".split()) - 2


def byte_level_bpe() -> CountTokens:
    """Merges learned from English text, inside pieces that carry their leading space (GPT, Llama 3, Qwen)."""
    corpus = Counter(piece for text in _prompts() for piece in PIECES.findall(text))
    symbols = {piece: tuple(piece) for piece, _ in corpus.most_common(250)}
    ranks: dict[tuple[str, str], int] = {}
    for rank in range(220):
        pairs: Counter[tuple[str, str]] = Counter()
        for piece, parts in symbols.items():
            for pair in pairwise(parts):
                pairs[pair] += corpus[piece]
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        ranks[best] = rank
        symbols = {piece: _merged(parts, best) for piece, parts in symbols.items()}

    @cache
    def length(piece: str) -> int:
        parts = tuple(piece)
        while True:
            known = [pair for pair in pairwise(parts) if pair in ranks]
            if not known:
                return len(parts)
            parts = _merged(parts, min(known, key=ranks.__getitem__))

    return lambda prompt: 9 + sum(map(length, PIECES.findall(prompt)))


def sentencepiece() -> CountTokens:
    """Longest match over the whole text, spaces written as a prefix of the next word (Llama 2, Mistral)."""
    words = Counter(re.findall(r"[A-Za-z]+", " ".join(_prompts())))
    known = sorted((f"▁{word}" for word, _ in words.most_common(120)), key=len, reverse=True)
    pieces = re.compile("|".join([*(f"{piece}(?=▁|$)" for piece in known), "."]), re.DOTALL)
    return lambda prompt: 3 + len(pieces.findall("▁" + prompt.replace(" ", "▁")))


TOYS: dict[str, Callable[[], CountTokens]] = {
    "whitespace": whitespace,
    "byte_level_bpe": byte_level_bpe,
    "sentencepiece": sentencepiece,
}


@pytest.fixture(scope="session", params=TOYS)
def toy_counter(request: pytest.FixtureRequest) -> CountTokens:
    return TOYS[request.param]()


def _prompts() -> list[str]:
    return [row["conversations"][0]["value"] for row in orjson.loads(SMALL_DATASET.read_bytes())]


def _merged(parts: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    merged: list[str] = []
    for part in parts:
        if merged and (merged[-1], part) == pair:
            merged[-1] += part
        else:
            merged.append(part)
    return tuple(merged)
