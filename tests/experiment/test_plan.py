"""Which runs there are, in which order, and what each of them sends."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.experiment.made_experiments import a_configuration, an_experiment
from vllm_locust.errors import UsageError
from vllm_locust.experiment.definition import Experiment, Load, Workload
from vllm_locust.experiment.plan import ORDERS, as_words, locust_command, plan, runs_of

sizes = st.integers(1, 5)


def an_experiment_of(configurations: int, workloads: int, loads: int, **fields: object) -> Experiment:
    return an_experiment(
        *(a_configuration(f"c{number}") for number in range(configurations)),
        workloads=[Workload(f"w{number}", {}) for number in range(workloads)],
        loads=[Load(f"l{number}", {}) for number in range(loads)],
        **fields,
    )


@given(sizes, sizes, sizes, sizes, st.sampled_from(ORDERS), st.integers(0, 9))
def test_every_cell_comes_exactly_once_per_repeat(
    configurations: int, workloads: int, loads: int, repeats: int, order: str, seed: int
) -> None:
    experiment = an_experiment_of(configurations, workloads, loads, repeats=repeats, order=order, seed=seed)
    sessions = plan(experiment)
    runs = list(runs_of(sessions))
    assert len(runs) == configurations * workloads * loads * repeats == len({run.key for run in runs})
    assert all(run.repeat == session.repeat for session in sessions for run in session.runs)
    assert all(run.configuration is session.configuration for session in sessions for run in session.runs)
    for repeat in range(1, repeats + 1):
        pairs = {
            tuple((run.workload, run.load) for run in session.runs)
            for session in sessions
            if session.repeat == repeat
        }
        assert len(pairs) == 1  # in the same order on each configuration
        assert len(set(pairs.pop())) == workloads * loads
    # Repeats one after another: an experiment that is ended early has whole ones.
    assert [session.repeat for session in sessions] == sorted(session.repeat for session in sessions)


@given(st.integers(2, 5), st.integers(1, 4).map(lambda half: 2 * half))
def test_interleaved_favours_nobody(configurations: int, repeats: int) -> None:
    """Over every two repeats the sum of the positions is the same for all: a linear drift hits all alike."""
    sessions = plan(an_experiment_of(configurations, 1, 1, repeats=repeats, order="interleaved"))
    positions: Counter[str] = Counter()
    for position, session in enumerate(sessions):
        positions[session.configuration.name] += position
    assert len(set(positions.values())) == 1


def test_orders() -> None:
    def names(order: str, seed: int = 0) -> str:
        experiment = an_experiment_of(2, 1, 1, repeats=4, order=order, seed=seed)
        return "".join(session.configuration.name[1] for session in plan(experiment))

    assert names("interleaved") == "01100110"
    assert names("fixed") == "01010101"
    assert names("random", 3) == names("random", 3)
    assert len({names("random", seed) for seed in range(20)}) > 5


def seed_of(options: tuple[str, ...]) -> int:
    return int(options[options.index("--seed") + 1])


@given(st.integers(0, 99))
def test_seeds_are_shared_by_configurations_and_by_nothing_else(seed: int) -> None:
    sessions = plan(an_experiment_of(3, 2, 2, repeats=2, seed=seed, warmup={"num-prompts": 1}))
    seeds: dict[tuple[str, str, int], set[int]] = {}
    for run in runs_of(sessions):
        seeds.setdefault((run.workload, run.load, run.repeat), set()).add(seed_of(tuple(run.options)))
    for session in sessions:
        assert session.warmup is not None
        seeds.setdefault(("warm", "up", session.repeat), set()).add(seed_of(tuple(session.warmup[1])))
    assert all(len(several) == 1 for several in seeds.values())
    assert len(set.union(*seeds.values())) == len(seeds)


@pytest.mark.parametrize("drawn", [True, False])
def test_a_server_that_goes_on_is_asked_nothing_twice_unless_the_user_chose_the_seed(drawn: bool) -> None:
    """The prefix cache has what the configuration before was asked."""
    experiment = an_experiment(
        *(a_configuration(name, start=[], url="http://127.0.0.1:8000") for name in "ab"),
        *(a_configuration(name) for name in "cd"),
        repeats=3,
        seed=5,
        seed_is_drawn=drawn,
        warmup={"num-prompts": 1},
    )
    asked: dict[str, list[int]] = {}
    for session in plan(experiment):
        assert session.warmup is not None
        seeds = asked.setdefault(session.configuration.name, [])
        seeds += [seed_of(tuple(options)) for options in (session.runs[0].options, session.warmup[1])]
    assert [len(set(seeds)) for seeds in asked.values()] == [6, 6, 6, 6]
    assert asked["c"] == asked["d"]  # started anew for each: nothing is in its cache
    assert bool(set(asked["a"]) & set(asked["b"])) is not drawn
    assert (asked["a"] == asked["b"] == asked["c"]) is not drawn


def test_more_of_everything_changes_no_run_that_was_there() -> None:
    before = {run.key: (run.asks, run.server) for run in runs_of(plan(an_experiment_of(1, 1, 1)))}
    after = {
        run.key: (run.asks, run.server)
        for run in runs_of(plan(an_experiment_of(3, 2, 2, repeats=3, order="random")))
    }
    assert before.items() <= after.items()


def test_options_are_laid_over_each_other_and_filled_in() -> None:
    configuration = a_configuration(arguments={"max-num-seqs": 64}, environment={"SIZE": "7"})
    experiment = an_experiment(
        configuration,
        options={"a": 1, "b": 1, "c": 1},
        workloads=[Workload("w", {"b": 2, "c": 2, "extra-body": {"top_p": 0.9}})],
        loads=[Load("l", {"c": "{SIZE}", "users": "{max-num-seqs}"})],
    )
    (run,) = runs_of(plan(experiment))
    assert list(run.options[:-2]) == [
        *("--a", "1", "--b", "2", "--c", "7", "--extra-body", '{"top_p": 0.9}'),
        *("--users", "64", "--spawn-rate", "64"),
    ]


def test_what_cannot_be_filled_in_is_said() -> None:
    experiment = an_experiment(
        a_configuration("a"),
        a_configuration("b", arguments={"block-size": 16}),
        loads=[Load("l", {"users": "{max-num-seqs}", "spawn-rate": 1})],
    )
    with pytest.raises(UsageError) as caught:
        plan(experiment)
    assert caught.value.problems == [
        "workload w, load l: {max-num-seqs} is no argument of configuration a, which has none.",
        "workload w, load l: {max-num-seqs} is no argument of configuration b, which has block-size.",
    ]


def test_a_workload_may_be_asked_under_some_loads_only_and_a_load_bring_a_locustfile() -> None:
    experiment = an_experiment(
        workloads=[Workload("w", {}, Path("own.py"), ["m"]), Workload("x", {})],
        loads=[Load("l", {}), Load("m", {}, Path("capacity.py"))],
    )
    assert [(run.workload, run.load, run.locustfile.name) for run in runs_of(plan(experiment))] == [
        ("w", "m", "capacity.py"),
        ("x", "l", "chat.py"),
        ("x", "m", "capacity.py"),
    ]


def test_a_warm_up_is_a_few_requests_of_the_first_workload() -> None:
    experiment = an_experiment(
        options={"ladder": "1,2", "slo": "failed==0", "model": "m"},
        workloads=[Workload("w", {"scenario": "ll", "request-rate": 5})],
        warmup={"num-prompts": 8, "users": 4},
        locustfile=Path("capacity.py"),
    )
    (session,) = plan(experiment)
    assert session.warmup is not None
    locustfile, options = session.warmup
    assert locustfile.name == "chat.py"
    assert options[:-1] == [
        *("--model", "m", "--scenario", "ll", "--num-prompts", "8", "--users", "4", "--spawn-rate", "4"),
        "--seed",
    ]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"a": True, "b": False, "c": None, "d": 0, "e": 0.5}, ["--a", "--no-b", "--d", "0", "--e", "0.5"]),
        ({"slo": ["x<1", "y<2"]}, ["--slo", "x<1", "--slo", "y<2"]),
        ({"goodput": "ttft:5 tpot:6"}, ["--goodput", "ttft:5", "tpot:6"]),
        ({"goodput": ["ttft:5", "tpot:6"]}, ["--goodput", "ttft:5", "tpot:6"]),
        ({"set": {"n": 4, "copies": 2}}, ["--set", "n=4", "--set", "copies=2"]),
        ({"speculative-config": {"method": "ngram"}}, ["--speculative-config", '{"method": "ngram"}']),
        ({"request-rate": "inf"}, ["--request-rate", "inf"]),
    ],
)
def test_words(options: dict, words: list[str]) -> None:
    assert as_words(options) == words


def test_a_run_leaves_its_results_where_they_belong() -> None:
    command = locust_command(Path("x.py"), ["--seed", "1"], Path("out"))
    assert command[1:] == [
        *("-P", "-m", "locust", "-f", "x.py", "--headless"),
        *("--results-dir", "out", "--exporter-port", "off", "--seed", "1"),
    ]
    assert "--results-dir" not in locust_command(Path("x.py"), [], None)
