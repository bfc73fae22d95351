"""Tasks of the users' own beside a plan: what is told of them is what was sent, with no scenario made up."""

from pathlib import Path

import pytest

from tests.locust_command import HEADLESS, Outcome, Simulator, in_processes, read_json, run_locust

LOCUSTFILE = """\
from locust import constant, task
from vllm_locust import VllmUser

class Asker(VllmUser):
    @task
    def ask(self):
        self.ask_next()

class Poet(VllmUser):
    wait_time = constant(0.2)
    @task
    def haiku(self):
        self.client.chat("Write a haiku about queues.", max_tokens=4)

class Both(VllmUser):
    wait_time = constant(0.2)
    @task
    def ask(self):
        self.client.chat("Write a haiku about queues.", max_tokens=4)
        self.ask_next()

class Undecided(Poet):
    def maybe(self):
        self.ask_next()
"""

TWENTY = ("--request-rate", "10", "--num-prompts", "20")
"""In two seconds, however long it takes until they begin."""


def run(server: Simulator, folder: Path, users: str, *options: str, processes: int = 1) -> Outcome:
    locustfile = folder / "locustfile.py"
    locustfile.write_text(LOCUSTFILE)
    outcome = run_locust(
        *HEADLESS, *in_processes(processes), "--host", server.url, *options, *users.split(),
        folder=folder / "results", locustfile=str(locustfile),
    )  # fmt: skip
    assert outcome.code in (0, 4), outcome.text
    return outcome


def own(outcome: Outcome) -> int:
    return sum(request["scenario"] == "" for request in outcome.requests)


@pytest.mark.parametrize("processes", [1, 2])
def test_of_each_class_it_is_told_how_much_it_asked_beside_the_plan(
    server: Simulator, tmp_path: Path, processes: int
) -> None:
    outcome = run(server, tmp_path, "Asker Poet", "--scenario", "ss", *TWENTY, processes=processes)
    count, all_of_them = own(outcome), len(outcome.requests)
    assert 0 < count < all_of_them
    options = "--scenario, --num-prompts, --request-rate"
    assert (
        f"{count} of {all_of_them} requests were asked by Poet on its own, without ask_next(), and count "
        f"like all others: no use there of {options}"
    ) in outcome.summary["client"]["remarks"]
    assert f"Poet asks on its own, without ask_next(): no use there of {options}." in outcome.stderr
    assert outcome.summary["scenario"] == "ss"


def test_a_class_that_an_open_loop_keeps_from_its_own_requests_is_told(
    server: Simulator, tmp_path: Path
) -> None:
    outcome = run(server, tmp_path, "Both", "--scenario", "ss", *TWENTY)
    assert 0 < own(outcome) <= 4, "each of the users but once"
    kept = "Both waits in ask_next() as long as an open loop sends, and asks nothing on its own meanwhile"
    assert kept in outcome.summary["client"]["remarks"]
    assert outcome.stderr.count(f"{kept}.") == 1


def test_where_nothing_of_it_was_sent_there_was_no_scenario(server: Simulator, tmp_path: Path) -> None:
    outcome = run(server, tmp_path, "Undecided", "--num-prompts", "3", "-t", "3s")
    count = own(outcome)
    assert count == len(outcome.requests) > 0
    assert outcome.summary["scenario"] is None
    asked = f"{count} of {count} requests were asked by Undecided"
    assert any(remark.startswith(asked) for remark in outcome.summary["client"]["remarks"])


def test_an_open_loop_that_nobody_asked_for_is_told(server: Simulator, tmp_path: Path) -> None:
    outcome = run(server, tmp_path, "Undecided", *TWENTY)
    count, all_of_them = own(outcome), len(outcome.requests)
    assert (
        f"{all_of_them - count} of {all_of_them} requests were sent as planned, though no user called "
        "ask_next()"
    ) in outcome.summary["client"]["remarks"]


def test_users_with_tasks_of_their_own_only_have_no_scenario(server: Simulator, tmp_path: Path) -> None:
    outcome = run(server, tmp_path, "Poet", "-t", "3s")
    described = read_json(outcome.folder / "run.json")
    assert (described["scenario"], described["datasets"], described["phases"]) == (None, [], ["own tasks"])
    assert (outcome.summary["scenario"], outcome.summary["salted"]) == (None, None)
    assert not any("ask_next" in remark for remark in outcome.summary["client"]["remarks"])
    assert len(outcome.requests) == own(outcome) == outcome.summary["completed"] > 0


def test_a_ladder_goes_with_tasks_of_ones_own(server: Simulator, tmp_path: Path) -> None:
    locustfile = tmp_path / "locustfile.py"
    locustfile.write_text(LOCUSTFILE)
    steps = ("--ladder", "1,3", "--step-time", "2s")
    outcome = run_locust(
        "--headless", "--host", server.url, *steps, "Poet", folder=tmp_path / "r", locustfile=str(locustfile)
    )
    assert [(phase["name"], phase["users"]) for phase in outcome.summary["phases"]] == [
        ("own tasks", 1),
        ("own tasks", 3),
    ]
    assert all(phase["completed"] > 0 for phase in outcome.summary["phases"])
