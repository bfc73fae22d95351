"""Chats whose bodies hold more than a text: tools to call, a form for the answer, pictures to look at.

Each has a question of its own behind a salt, so that no prefix cache knows it. What stands before it is alike
in all of them where it is so in production: a chat template puts the tools in front of the conversation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vllm_locust.errors import UsageError
from vllm_locust.workloads.draw import draw, salt
from vllm_locust.workloads.images import data_uri
from vllm_locust.workloads.lengths import Lengths
from vllm_locust.workloads.scenario import Context, Message, PlannedRequest, Scenario

Json = Mapping[str, Any]

_CITIES = (
    *("Zürich", "São Paulo", "Łódź", "Αθήνα", "東京", "القاهرة", "Reykjavík", "Málaga", "Lisbon", "Nairobi"),
    *("Montréal", "Kraków", "Oslo", "Hanoi", "Quito", "Perth", "Lagos", "Boston", "Dakar", "Vilnius"),
)


@dataclass(frozen=True, slots=True)
class Pictures:
    """So many PNG images of so many pixels each."""

    count: int
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Chats:
    """Chats of one message: pictures, if any, and the question, in which {city} and {other} are cities."""

    name: str
    question: str
    max_tokens: Lengths
    extra: Json
    """Further fields of every request's body."""
    pictures: Pictures | None = None

    @property
    def phases(self) -> Sequence[Scenario]:
        return (self,)

    def request(self, seed: int, index: int) -> PlannedRequest:
        key = (self.name, seed, index)
        city = draw(*key, "city") % len(_CITIES)
        other = (city + 1 + draw(*key, "other") % (len(_CITIES) - 1)) % len(_CITIES)
        question = self.question.format(city=_CITIES[city], other=_CITIES[other])
        text = f"{salt(*key)}: {question}"
        return PlannedRequest(
            index=index,
            scenario=self.name,
            profile=self.name,
            prompt=text,
            max_tokens=self.max_tokens.at(*key, "max_tokens"),
            extra=self.extra,
            messages=None if self.pictures is None else [_with_pictures(text, self.pictures, key)],
        )


def chats(
    name: str,
    context: Context,
    question: str,
    *,
    max_tokens: int,
    extra: Json | None = None,
    pictures: Pictures | None = None,
) -> Chats:
    """See `Chats`; `max_tokens` unless the user says otherwise. UsageError where there are no such chats."""
    problems = []
    if context.endpoint_type != "chat":
        problems.append(
            f"--endpoint-type {context.endpoint_type}: scenario {name} is made of chats, only chat is allowed"
        )
    if context.input_len is not None:
        problems.append(f"--input-len {context.input_len}: scenario {name} has questions of its own length")
    if problems:
        raise UsageError(*problems)
    return Chats(name, question, context.max_tokens or Lengths.constant(max_tokens), extra or {}, pictures)


def function(name: str, description: str, **parameters: Json) -> Json:
    """A tool: a function all of whose parameters are required, with a JSON schema for each.

    It is strict: vLLM then holds the arguments to the schemas, without it to JSON at most.
    """
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": description,
            "parameters": object_of(**parameters),
            "strict": True,
        },
    }


def object_of(**properties: Json) -> Json:
    """The JSON schema of an object with exactly these properties."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def tool_choice(choice: str, tools: Sequence[Json]) -> str | Json:
    """The field of this name: `required`, `auto`, or the function that has to be called."""
    names = [tool["function"]["name"] for tool in tools]
    if choice in ("required", "auto"):
        return choice
    if choice in names:
        return {"type": "function", "function": {"name": choice}}
    raise UsageError(f"--set choice={choice}: it is one of required, auto, {', '.join(names)}")


def _with_pictures(text: str, pictures: Pictures, key: tuple[str | int, ...]) -> Message:
    urls = (data_uri(pictures.width, pictures.height, *key, number) for number in range(pictures.count))
    parts: list[Json] = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return {"role": "user", "content": [*parts, {"type": "text", "text": text}]}
