"""What do answers cost that must have a form: a JSON schema, any JSON, a regular expression or a choice?"""

from vllm_locust.errors import UsageError
from vllm_locust.workloads.chats import Json, chats, object_of
from vllm_locust.workloads.scenario import Context, Scenario

NAME = {"type": "string", "maxLength": 40}
CITY = object_of(
    name=NAME,
    population={"type": "integer", "minimum": 0, "maximum": 50_000_000},
    sights={"type": "array", "items": NAME, "minItems": 1, "maxItems": 3},
)
SCHEMA = {"name": "city", "schema": CITY, "strict": True}
KINDS: dict[str, Json] = {
    "json_schema": {"response_format": {"type": "json_schema", "json_schema": SCHEMA}},
    "json_object": {"response_format": {"type": "json_object"}},
    "regex": {"structured_outputs": {"regex": r"[A-Z][a-z]{2,20}: [1-9][0-9]{3,7}"}},
    "choice": {"structured_outputs": {"choice": ["village", "town", "city", "metropolis"]}},
}


def build(context: Context, *, kind: str = "json_schema") -> Scenario:
    if kind not in KINDS:
        raise UsageError(f"--set kind={kind}: it is one of {', '.join(KINDS)}")
    # An answer that has to have a form ends where the form ends.
    extra = {**KINDS[kind], "ignore_eos": False}
    return chats("structured", context, "Describe {city} in JSON.", max_tokens=128, extra=extra)
