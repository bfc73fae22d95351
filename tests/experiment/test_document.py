"""YAML that knows where everything stands."""

import pytest

from vllm_locust.errors import UsageError
from vllm_locust.experiment.document import parse


def test_keys_and_names_are_as_they_were_written() -> None:
    document = parse("a: {on: 1, 64: 2}\nname: on\nnumber: 0.50\n", "f")
    assert document.content["a"] == {"on": 1, "64": 2}
    assert document.text(document.content["name"], ("name",)) == "on"
    assert document.text(document.content["number"], ("number",)) == "0.50"


def test_mistakes_say_where_they_are() -> None:
    document = parse("server:\n  strat: x\nlist:\n  - {a: 1}\n  - 5\n", "f.yaml")
    document.known(document.content["server"], ("server",), ("start", "url"))
    for item, place in document.items(document.content["list"], ("list",)):
        document.known(item, place, ("a",))
    document.text(None, ("list", 0, "b"))
    assert document.problems == [
        "f.yaml, line 2, server.strat: there is no such key (did you mean start?): allowed are start, url.",
        "f.yaml, line 5, list[1]: is 5, it must be a mapping of names to values.",
        "f.yaml, line 4, list[0].b: must be text.",
    ]


def test_no_key_comes_twice_but_a_merged_one() -> None:
    document = parse("base: &base {x: 1, y: 2}\nown:\n  <<: *base\n  y: 3\na: 1\na: 2\n", "f")
    assert document.content["own"] == {"x": 1, "y": 3}
    assert document.problems == ["f, line 6, a: comes twice."]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: [1", "f, line 1: is no YAML, expected ',' or ']', but got '<stream end>'."),
        ("- a", "f: is no experiment, it must be a mapping with server, workloads and more."),
        ("", "f: is no experiment, it must be a mapping with server, workloads and more."),
        ("a: !!python/object:os.system 1", "f, line 1: is no YAML, could not determine a constructor"),
    ],
)
def test_what_is_no_mapping_at_all(text: str, sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text, "f")
    assert str(caught.value).startswith(sentence)
