"""From a file to a definition, and every mistake in one go."""

import sys
from pathlib import Path
from typing import Any

import pytest

from vllm_locust.errors import UsageError
from vllm_locust.experiment import shipped
from vllm_locust.experiment.definition import Experiment
from vllm_locust.experiment.plan import plan, server_command
from vllm_locust.experiment.reading import read_experiment_file


def read(folder: Path, text: str, **options: Any) -> Experiment:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return read_experiment_file(path, **{"drawn_seed": 12, **options})


def problems(folder: Path, text: str, **options: Any) -> list[str]:
    """The sentences, without the name of the file."""
    with pytest.raises(UsageError) as caught:
        read(folder, text, **options)
    return [problem.removeprefix(f"{folder / 'mine.yaml'}, ") for problem in caught.value.problems]


LEAST = "server: {start: simulate}\nworkloads: [ss]\n"


def test_the_least_that_is_needed(tmp_path: Path) -> None:
    experiment = read(tmp_path, LEAST)
    assert (experiment.name, experiment.order, experiment.repeats, experiment.seed) == (
        "mine",
        "interleaved",
        1,
        12,
    )
    assert experiment.seed_is_drawn
    assert [one.name for one in experiment.configurations] == ["server"]
    assert [(one.name, one.options) for one in experiment.workloads] == [("ss", {"scenario": "ss"})]
    assert [(one.name, one.options) for one in experiment.loads] == [("load", {})]
    assert experiment.warmup == {"num-prompts": 8, "users": 4}
    assert experiment.locustfile.name == "chat.py"
    assert experiment.locustfile.is_file()
    assert (experiment.timing.ready_timeout_s, experiment.timing.pause_s) == (600.0, 0.0)


def test_all_that_is_possible(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("")
    experiment = read(
        tmp_path,
        """
question: Why?
server:
  start: env serve --port={port} {arguments}
  arguments: {max-model-len: 4096, seed: 1}
  environment: {ON: on, SPACE: 4}
  ready: {timeout: 20m, path: v1/models}
  stop: {timeout: 5s, pause: 1500ms}
configurations:
  - {name: on, arguments: {"--flag": true, seed: 2}}
  - {name: 64, environment: {SPACE: 8}}
workloads:
  - {name: w, options: {scenario: ss, set: {n: 4}}, locustfile: own.py, loads: [l]}
loads:
  - {name: l, options: {request-rate: inf}}
warmup: off
locustfile: ladder.py
options: {num-prompts: 5}
repeats: 3
order: random
seed: 7
conclusions: ab
""",
    )
    on, second = experiment.configurations
    assert (on.name, second.name) == ("on", "64")
    assert on.factors == {"flag": True, "seed": 2, "SPACE": "4"}
    assert second.factors == {"flag": None, "seed": 1, "SPACE": "8"}
    assert server_command(on, 81) == [
        *("env", "serve", "--port=81", "--max-model-len", "4096", "--seed", "2", "--flag")
    ]
    assert on.environment == {"ON": "on", "SPACE": "4"}
    timing = experiment.timing
    assert (timing.ready_timeout_s, timing.ready_path, timing.stop_timeout_s, timing.pause_s) == (
        *(1200.0, "/v1/models", 5.0, 1.5),
    )
    assert experiment.workloads[0].locustfile == (tmp_path / "own.py").resolve()
    assert experiment.workloads[0].loads == ["l"]
    assert experiment.locustfile.name == "ladder.py"
    assert experiment.warmup is None
    assert (experiment.question, experiment.repeats, experiment.order) == ("Why?", 3, "random")
    assert (experiment.seed, experiment.seed_is_drawn, experiment.conclusions) == (7, False, "ab")


def test_a_matrix_is_every_combination_that_is_not_excluded(tmp_path: Path) -> None:
    experiment = read(
        tmp_path,
        LEAST + "matrix: {block-size: [16, 32], chunked: [true, false], VLLM_X: [1]}\n"
        "exclude: [{block-size: 32, chunked: false}]\n",
    )
    assert [one.name for one in experiment.configurations] == [
        "block-size=16_chunked=on_VLLM_X=1",
        "block-size=16_chunked=off_VLLM_X=1",
        "block-size=32_chunked=on_VLLM_X=1",
    ]
    second = experiment.configurations[1]
    assert second.arguments == {"block-size": 16, "chunked": False}
    assert second.environment == {"VLLM_X": "1"}
    assert second.factors == {"block-size": 16, "chunked": False, "VLLM_X": "1"}
    assert server_command(second, 1)[-3:] == ["--block-size", "16", "--no-chunked"]


@pytest.mark.parametrize(
    ("start", "command"),
    [
        ("simulate --preset x", [sys.executable, "-P", "-m", "vllm_locust", "simulate", "--preset", "x",
                                 "--host", "127.0.0.1", "--port", "9", "--a", "1"]),
        ("true --x {port} {arguments} y", ["true", "--x", "9", "--a", "1", "y"]),
        ("true -p{port}:8000 '{arguments}'", ["true", "-p9:8000", "--a", "1"]),
    ],
)  # fmt: skip
def test_how_servers_are_started(tmp_path: Path, start: str, command: list[str]) -> None:
    experiment = read(tmp_path, LEAST + "matrix: {a: [1]}\n", start=start)
    assert server_command(experiment.configurations[0], 9) == command


def test_vllm_needs_no_placeholders(tmp_path: Path) -> None:
    vllm = tmp_path / "vllm"
    vllm.touch(0o755)
    experiment = read(tmp_path, LEAST + "matrix: {a: [1]}\n", start=f"{vllm} serve M")
    assert server_command(experiment.configurations[0], 9) == [
        *(str(vllm), "serve", "M", "--host", "127.0.0.1", "--port", "9", "--a", "1")
    ]


def test_servers_that_are_there_and_others(tmp_path: Path) -> None:
    experiment = read(
        tmp_path,
        "configurations: [{name: a, url: 'http://a:8000/'}, {name: b, url: 'http://b:8000'},"
        " {name: c, start: simulate}]\nworkloads: [ss]\n",
    )
    assert [one.url for one in experiment.configurations] == ["http://a:8000", "http://b:8000", None]
    assert [bool(one.start) for one in experiment.configurations] == [False, False, True]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("workloads: [ss]", "line 1, server: say how the server is started (server.start), or where"),
        ("server: {start: simulate}", "line 1, workloads: at least one is needed"),
        ("server: {start: nonsense-7 serve}\nworkloads: [ss]",
         "line 1, server: start: 'nonsense-7 serve' must say where the port goes, with {port}."),
        ("server: {start: 'nonsense-7 {port}'}\nworkloads: [ss]",
         "line 1, server: there is no command nonsense-7 on this machine"),
        ("server: {start: 'true {port}', arguments: {a: 1}}\nworkloads: [ss]",
         "line 1, server: start: 'true {port}' must say where the arguments go"),
        ("server: {start: \"true '\"}\nworkloads: [ss]", "line 1, server: start: \"true '\" cannot be taken"),
        ("server: {url: 'http://x', arguments: {a: 1}}\nworkloads: [ss]",
         "line 1, server: a server with a url is there already"),
        ("server: {url: x}\nworkloads: [ss]", "line 1, server: url 'x' must begin with http:// or https://."),
        (LEAST + "configurations: [{name: a, url: 'http://x', start: simulate}]",
         "line 3, configurations[0]: start and url exclude each other"),
        (LEAST + "matrix: {a: 5}", "line 3, matrix.a: is 5, it must be a list."),
        (LEAST + "matrix: {a: [1]}\nexclude: [{a: 1}]", "line 4, exclude: leaves nothing of the matrix."),
        (LEAST + "matrix: {a: [1]}\nexclude: [{b: 1}]", "line 4, exclude[0].b: there is no such key"),
        (LEAST + "exclude: [{b: 1}]", "line 3, exclude: is for a matrix, and there is none."),
        (LEAST + "matrix: {a: [1]}\nconfigurations: [{name: b}]", "line 3, matrix: configurations and"),
        (LEAST + "configurations: [{name: ../b}]", "line 3, configurations[0]: '../b' is no name"),
        (LEAST + "configurations: [{name: b}, {name: b}]", "line 3, configurations[1]: there are two"),
        (LEAST + "configurations: [{name: b, environment: {HF_TOKEN: x}}]",
         "line 3, configurations[0].environment.HF_TOKEN: a file is no place for it"),
        (LEAST + "options: {api-key: x}", "line 3, options.api-key: a file is no place for it"),
        (LEAST + "options: {seed: 1}", "line 3, options.seed: is set by the experiment itself: it stands"),
        (LEAST + "options: {users: {a}}",
         'line 3, options.users: YAML takes this for a mapping, write it in quotes: "{a}".'),
        (LEAST + "loads: [{name: a}, {name: a-b}]\nserver: {}", "line 4, server: comes twice."),
        ("server: {start: simulate}\nworkloads: [a, a-b]\nloads: [{name: b-c}, {name: c}]",
         "line 2, workloads: two pairs of a workload and a load are both called a-b-c: rename one."),
        (LEAST + "repeats: 0", "line 3, repeats: 0 is not a whole number of at least 1."),
        (LEAST + "order: by chance", "line 3, order: by chance is none of interleaved, fixed, random."),
        (LEAST + "locustfile: nix.py", "line 3, locustfile: there is no file nix.py; the suite's own are"),
        (LEAST + "conclusions: [a]", "line 3, conclusions: is a list, it must be text."),
        (LEAST + "conclusions: fast", "line 3, conclusions: fast is none of profiles, "),
    ],
)  # fmt: skip
def test_mistakes(tmp_path: Path, text: str, sentence: str) -> None:
    found = problems(tmp_path, text)
    assert any(problem.startswith(sentence) for problem in found), found


def test_mistakes_are_said_together(tmp_path: Path) -> None:
    assert len(problems(tmp_path, LEAST + "repeats: x\norder: y\nlodas: []\nseed: -1\n")) == 4


@pytest.mark.parametrize("name", shipped.names())
def test_what_is_shipped_is_right_and_asks_something(name: str) -> None:
    experiment = read_experiment_file(shipped.path_of(name), drawn_seed=0)
    assert experiment.question.endswith("?")
    assert experiment.conclusions
    assert plan(experiment)


def test_what_is_shipped_goes_for_a_server_of_ones_own(tmp_path: Path) -> None:
    vllm = tmp_path / "vllm"
    vllm.touch(0o755)
    experiment = read_experiment_file(
        shipped.path_of("chunked_prefill"), drawn_seed=0, start=f"{vllm} serve M"
    )
    assert len(experiment.configurations) == 12
    assert server_command(experiment.configurations[0], 1)[:3] == [str(vllm), "serve", "M"]
    assert experiment.timing.pause_s == 5.0


def test_names_that_nobody_knows() -> None:
    with pytest.raises(UsageError, match="did you mean chunked_prefill"):
        shipped.find("chunked_prefil")
    with pytest.raises(UsageError, match=r"there is no file gone\.yaml"):
        shipped.find("gone.yaml")
