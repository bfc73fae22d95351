"""Tools, forms and pictures: what the bodies hold, and whether a decoder of its own can read the pictures."""

import re
import struct
import zlib
from base64 import b64decode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_locust.errors import UsageError
from vllm_locust.workloads import catalogue
from vllm_locust.workloads.images import data_uri, png
from vllm_locust.workloads.lengths import Lengths
from vllm_locust.workloads.scenario import Context, PlannedRequest

NAMES = ["tools", "structured", "vision"]
FORMS = {
    "json_schema": ("response_format", "json_schema"),
    "json_object": ("response_format", "type"),
    "regex": ("structured_outputs", "regex"),
    "choice": ("structured_outputs", "choice"),
}


def planned(name: str, index: int = 0, seed: int = 1, **parameters: object) -> PlannedRequest:
    """Request `index` of a scenario of the catalogue with these parameters set."""
    context = Context(parameters={parameter: str(value) for parameter, value in parameters.items()})
    return catalogue.load(name, context).request(seed, index)


def pixels(file: bytes) -> tuple[int, int, list[list[bytes]]]:
    """Width, height and rows of colours of a PNG of 16 colours; what the format asks for is checked."""
    assert file[:8] == b"\x89PNG\r\n\x1a\n"
    chunks: dict[bytes, bytes] = {}
    rest = file[8:]
    while rest:
        (length,) = struct.unpack(">I", rest[:4])
        kind, data, rest = rest[4:8], rest[8 : 8 + length], rest[8 + length :]
        assert struct.unpack(">I", rest[:4]) == (zlib.crc32(kind + data),)
        chunks[kind], rest = data, rest[4:]
    assert list(chunks) == [b"IHDR", b"PLTE", b"IDAT", b"IEND"]
    width, height, *how = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert how == [4, 3, 0, 0, 0]  # bits, palette, deflate, the usual filters, not interlaced
    palette = [chunks[b"PLTE"][at : at + 3] for at in range(0, 48, 3)]
    raw = zlib.decompress(chunks[b"IDAT"])
    size = 1 + (width + 1) // 2
    assert len(raw) == height * size
    lines = [raw[at : at + size] for at in range(0, len(raw), size)]
    assert all(line[0] == 0 for line in lines)
    rows = [[palette[number] for byte in line[1:] for number in divmod(byte, 16)][:width] for line in lines]
    return width, height, rows


@given(st.integers(1, 70), st.integers(1, 70), st.integers())
def test_a_picture_is_a_png_of_its_size(width: int, height: int, key: int) -> None:
    found_width, found_height, rows = pixels(png(width, height, key))
    assert (found_width, found_height) == (width, height)
    assert len(rows) == height
    assert all(len(row) == width for row in rows)


def test_pictures_have_bars_and_no_two_are_alike() -> None:
    seen = [pixels(png(64, 64, "key", number))[2] for number in range(200)]
    colours = [len({pixel for row in picture for pixel in row}) for picture in seen]
    assert sum(colours) / len(colours) > 4
    assert len({str(picture) for picture in seen}) == 200
    assert png(64, 64, "key", 7) == png(64, 64, "key", 7)


def test_a_picture_takes_no_space() -> None:
    assert max(len(data_uri(224, 224, number)) for number in range(50)) < 2000


def test_the_requests_of_vision_show_other_pictures_every_time() -> None:
    urls = []
    for index in range(30):
        request = planned("vision", index, width=30, height=20, images=2)
        assert request.messages is not None
        (message,) = request.messages
        first, second, text = message["content"]
        assert text == {"type": "text", "text": request.prompt}
        urls += [first["image_url"]["url"], second["image_url"]["url"]]
    assert len(set(urls)) == 60
    for url in urls:
        head, _, data = url.partition(",")
        assert head == "data:image/png;base64"
        assert pixels(b64decode(data, validate=True))[:2] == (30, 20)


@pytest.mark.parametrize("name", NAMES)
def test_questions_are_new_for_every_seed_and_index(name: str) -> None:
    prompts = [planned(name, index, seed).prompt for seed in (1, 2) for index in range(50)]
    assert len({str(prompt)[:16] for prompt in prompts}) == 100
    assert planned(name, 49, 2).prompt == prompts[-1]


def test_tools_are_described_and_one_has_to_be_called() -> None:
    extra = planned("tools").extra
    assert [tool["function"]["name"] for tool in extra["tools"]] == ["get_weather", "search_flights"]
    for tool in extra["tools"]:
        assert tool["type"] == "function"
        schema = tool["function"]["parameters"]
        assert schema["required"] == list(schema["properties"])
        assert schema["additionalProperties"] is False
    assert extra["tool_choice"] == "required"
    assert extra["ignore_eos"] is False


def test_tools_may_be_left_to_the_model_or_be_forced() -> None:
    assert planned("tools", choice="auto").extra["tool_choice"] == "auto"
    forced = {"type": "function", "function": {"name": "search_flights"}}
    assert planned("tools", choice="search_flights").extra["tool_choice"] == forced


@pytest.mark.parametrize("kind", FORMS)
def test_a_form_is_asked_for_in_vllms_fields(kind: str) -> None:
    extra = dict(planned("structured", kind=kind).extra)
    assert extra.pop("ignore_eos") is False
    ((field, value),) = extra.items()
    assert (field, True) == (FORMS[kind][0], FORMS[kind][1] in value)


def test_every_text_in_a_form_has_an_end() -> None:
    def texts(schema: Any) -> list[Any]:
        if isinstance(schema, dict):
            inner = [found for value in schema.values() for found in texts(value)]
            return [schema, *inner] if schema.get("type") == "string" else inner
        return [found for value in schema for found in texts(value)] if isinstance(schema, list) else []

    schemas = [planned("structured").extra["response_format"], planned("tools").extra["tools"]]
    assert len(texts(schemas)) == 6
    assert all("maxLength" in text or "enum" in text for text in texts(schemas))
    regex = planned("structured", kind="regex").extra["structured_outputs"]["regex"]
    assert re.fullmatch(regex, "Reykjavik: 140000")


def test_max_tokens_are_the_users() -> None:
    context = Context(max_tokens=Lengths.parse("10-20"))
    for name in NAMES:
        asked = {catalogue.load(name, context).request(1, index).max_tokens for index in range(100)}
        assert min(asked) >= 10
        assert max(asked) <= 20
        assert len(asked) > 5


@pytest.mark.parametrize("name", NAMES)
def test_chats_are_no_completions_and_have_no_other_length(name: str) -> None:
    context = Context(endpoint_type="completions", input_len=Lengths.constant(500))
    with pytest.raises(UsageError) as caught:
        catalogue.load(name, context)
    assert caught.value.problems == [
        f"--endpoint-type completions: scenario {name} is made of chats, only chat is allowed.",
        f"--input-len 500: scenario {name} has questions of its own length.",
    ]


@pytest.mark.parametrize(
    ("name", "parameter", "told"),
    [
        ("tools", "choice", "it is one of required, auto, get_weather, search_flights"),
        ("structured", "kind", "it is one of json_schema, json_object, regex, choice"),
    ],
)
def test_another_kind_is_refused(name: str, parameter: str, told: str) -> None:
    with pytest.raises(UsageError) as caught:
        planned(name, **{parameter: "nope"})
    assert caught.value.problems == [f"--set {parameter}=nope: {told}."]


def test_they_can_be_mixed_with_each_other_and_with_text() -> None:
    mix = catalogue.load("tools:1,vision:1,ss:1", Context(parameters={"vision.images": "3"}))
    requests = [mix.request(1, index) for index in range(60)]
    assert {request.profile for request in requests} == {"tools", "vision", "short_short"}
    for request in requests:
        assert (request.messages is not None) == (request.profile == "vision")
        assert request.messages is None or len(request.messages[0]["content"]) == 4
        assert ("tools" in request.extra) == (request.profile == "tools")
