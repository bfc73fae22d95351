"""The address under test: what Locust has of it, what is asked there, and who gets its secrets."""

from dataclasses import replace

import pytest
from locust import HttpUser
from locust.env import Environment

from tests.scripted_server import plain, scripted_server
from vllm_locust import VllmUser
from vllm_locust.client.ask import ServerModel
from vllm_locust.client.chat import CHAT_PATH, COMPLETIONS_PATH
from vllm_locust.client.target import Target
from vllm_locust.load.hosts import conceal_given, host_of, in_full, warn_of_others
from vllm_locust.load.observation import what_to_watch
from vllm_locust.load.prepare import Prepared, prepare
from vllm_locust.load.settings import Settings
from vllm_locust.workloads import catalogue
from vllm_locust.workloads.scenario import Context

GIVEN = "http://me:p,w@a:8000/base/v1?key=7,http://b"
SHOWN = "http://***@a:8000/base/v1?***,http://b"
BASIC = {"Authorization": "Basic bWU6cA=="}  # me:p


def test_locust_has_a_host_without_its_secrets() -> None:
    environment = Environment(host=GIVEN)
    conceal_given(environment)
    assert (environment.host, host_of(environment)) == (SHOWN, GIVEN)
    assert in_full(environment, SHOWN) == GIVEN
    assert in_full(environment, "http://c") == "http://c"


def test_so_has_a_users_class_but_for_those_that_ask_by_themselves() -> None:
    class Ours(VllmUser):
        host = GIVEN

    class Other(HttpUser):
        """Whose method is their own."""

        host = "http://me:p@c"

        def ask_next(self) -> None:
            pass

    environment = Environment(user_classes=[Ours, Other])
    conceal_given(environment)
    assert (environment.host, Ours.host, Other.host) == (None, SHOWN, "http://me:p@c")
    assert host_of(environment) == GIVEN


@pytest.mark.parametrize(("host", "warned"), [(GIVEN, ["Other"]), ("http://a:8000", [])])
def test_users_of_other_classes_are_told_that_they_lack_what_is_hidden(
    caplog: pytest.LogCaptureFixture, host: str, warned: list[str]
) -> None:
    class Ours(VllmUser):
        pass

    class Other(HttpUser):
        pass

    environment = Environment(user_classes=[Ours, Other], host=host)
    conceal_given(environment)
    warn_of_others(environment)
    assert [record.getMessage().partition(" the address ")[0] for record in caplog.records] == [
        f"Locust gives {name}" for name in warned
    ]
    assert "p,w" not in caplog.text


def prepared(settings: Settings, *hosts: str) -> Prepared:
    scenario = catalogue.load("tiny", Context())
    return Prepared(settings, [Target.parse(host) for host in hosts], ServerModel("m", None, None), scenario)


def test_metrics_are_asked_as_all_else_is() -> None:
    watch = what_to_watch(prepared(Settings(), "http://me:p@a:8000/base/v1?key=7", "https://b"))
    assert [(source["url"], source["headers"]) for source in watch.sources] == [
        ("http://a:8000/base/metrics?key=7", BASIC),
        ("https://b/metrics", {}),
    ]


def test_secrets_go_to_no_other_server() -> None:
    urls = ["http://a:8000/other", "http://a:8001/metrics", "https://a:8000/metrics", "http://b/metrics"]
    settings = Settings(headers={"X-Token": "t"}, server_metrics_urls=urls)
    watch = what_to_watch(prepared(settings, "http://me:p@a:8000?key=7"))
    assert [source["url"] for source in watch.sources] == urls
    assert [source["headers"] for source in watch.sources] == [{**BASIC, "X-Token": "t"}, {}, {}, {}]


def test_an_endpoint_that_looks_like_another_api_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    models = plain("200 OK", b'{"data": [{"id": "m"}]}')
    with scripted_server([models]) as server:
        for endpoint_type in ("chat", "completions"):
            settings = Settings(scenario="tiny", endpoint="/v3/completions", endpoint_type=endpoint_type)
            prepare(settings, server.url)
    (message,) = [record.getMessage() for record in caplog.records]
    assert (
        message == "--endpoint has the end of /v1/completions, and is sent requests of --endpoint-type chat."
    )


OWN = Settings(own_tasks=True)


@pytest.mark.parametrize(
    ("settings", "endpoint", "replaced"),
    [
        (Settings(), "/v3/chat/completions", {CHAT_PATH}),
        (Settings(), "/generate", {CHAT_PATH, COMPLETIONS_PATH}),
        # A scenario's requests go where the user says, whatever that is called.
        (Settings(), "/v3/completions", {CHAT_PATH, COMPLETIONS_PATH}),
        (Settings(endpoint_type="completions"), "/v3/completions?x=1", {COMPLETIONS_PATH}),
        (OWN, "/v3/completions", {COMPLETIONS_PATH}),
        (OWN, "/v3/chat/completions/", {CHAT_PATH}),
        (OWN, "/generate", {CHAT_PATH, COMPLETIONS_PATH}),
    ],
)
def test_which_calls_an_endpoint_is_for(settings: Settings, endpoint: str, replaced: set[str]) -> None:
    options = prepared(replace(settings, endpoint=endpoint), "http://a").request_options
    assert options.endpoints == dict.fromkeys(replaced, endpoint)
