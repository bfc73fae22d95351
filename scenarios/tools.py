"""What do tool calls cost: functions described in every prompt, and answers that have to be a call of one?

`choice` is required (some function), auto (the model may answer in words instead) or the name of a function.
"""

from vllm_locust.workloads.chats import chats, function, tool_choice
from vllm_locust.workloads.scenario import Context, Scenario

CITY = {"type": "string", "maxLength": 40}
UNIT = {"type": "string", "enum": ["celsius", "fahrenheit"]}
SEATS = {"type": "integer", "minimum": 1, "maximum": 9}
TOOLS = [
    function("get_weather", "Tells the weather of the next days.", city=CITY, unit=UNIT),
    function("search_flights", "Finds flights.", origin=CITY, destination=CITY, seats=SEATS),
]


def build(context: Context, *, choice: str = "required") -> Scenario:
    return chats(
        "tools",
        context,
        "I am in {city} and would like to go where it is warm. Is {other} warm, and how do I get there?",
        max_tokens=128,
        # An answer that has to have a form ends where the form ends.
        extra={"tools": TOOLS, "tool_choice": tool_choice(choice, TOOLS), "ignore_eos": False},
    )
