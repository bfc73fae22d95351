"""What `--scenario` understands, what it refuses and how, and that every scenario of the catalogue works."""

from collections import Counter
from pathlib import Path

import pytest

from tests.workloads.contexts import context, count_words
from vllm_locust.errors import UsageError
from vllm_locust.workloads import catalogue
from vllm_locust.workloads.lengths import Lengths
from vllm_locust.workloads.scenario import Context

FILES = sorted(catalogue.folder().glob("*.py"))
OWN = '''"""Is mine any good?"""

from vllm_locust.workloads.text import TextProfile


def build(context):
    return TextProfile("own", "own", repetitions=3, max_tokens=2).with_options(context)
'''


def some_prompts(folder: Path) -> Path:
    """The data set of the one scenario that has none of its own."""
    path = folder / "prompts.jsonl"
    path.write_text("".join(f'{{"prompt": "What is {i} + {i}?"}}\n' for i in range(40)))
    return path


def write(folder: Path, source: str) -> str:
    path = folder / "own.py"
    path.write_text(source)
    return str(path)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_scenario_opens_with_its_question_and_yields_requests(path: Path, tmp_path: Path) -> None:
    assert catalogue.names()[path.stem].endswith("?")
    assert 5 <= len(path.read_text().splitlines()) <= 50
    dataset = some_prompts(tmp_path) if path.stem == "prompts" else None
    scenario = catalogue.load(path.stem, context(dataset_path=dataset))
    assert scenario.name == path.stem
    for phase in scenario.phases:
        planned = [phase.request(1, index) for index in range(100)]
        assert [request.index for request in planned] == list(range(100))
        assert len({repr((request.prompt, request.messages)) for request in planned}) == 100
        assert all(request.scenario.startswith(path.stem) for request in planned)
        assert all(request.max_tokens >= 1 and request.profile for request in planned)


@pytest.mark.parametrize(
    "name",
    """ss sl ls ll tiny huge sharegpt mix imdb prefix worst_case random replay conversation
    tools structured vision""".split(),
)
def test_the_catalogue_holds_and_takes_the_users_length_of_answers(name: str) -> None:
    assert name in catalogue.names()
    planned = catalogue.load(name, context(max_tokens="77")).phases[0].request(1, 0)
    assert planned.max_tokens == 77


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tiny", {"ss": (40, 8), "sl": (40, 512), "ls": (400, 8), "ll": (400, 512)}),
        ("huge", {"ss": (40, 1), "sl": (40, 512), "ls": (1000, 1), "ll": (1000, 512)}),
    ],
)
def test_the_groups_have_their_published_sizes(name: str, expected: dict[str, tuple[int, int]]) -> None:
    phases = catalogue.load(name, Context()).phases
    requests = [phase.request(1, 0) for phase in phases]
    found = [(request.prompt.count(" time"), request.max_tokens) for request in requests]
    assert dict(zip([phase.name for phase in phases], found, strict=True)) == {
        f"{name}.{member}": sizes for member, sizes in expected.items()
    }
    assert [r.profile for r in requests] == ["short_short", "short_long", "long_short", "long_long"]


def test_a_member_is_the_phase_itself() -> None:
    tiny = catalogue.load("tiny", Context())
    member = catalogue.load("tiny.sl", Context())
    assert member.name == "tiny.sl"
    assert member.request(1, 5) == tiny.phases[1].request(1, 5)
    assert catalogue.load("mix.sharegpt", Context()).request(1, 0).profile == "sharegpt"


def test_exact_lengths_hold_in_every_phase() -> None:
    scenario = catalogue.load("tiny", context(input_len="100"))
    for phase in scenario.phases:
        assert count_words(phase.request(1, 3).prompt) == phase.request(1, 3).prompt_tokens == 100


def test_a_list_is_a_mix_with_weights() -> None:
    mix = catalogue.load("ss:3, ll", Context())
    assert mix.name == "ss+ll"
    counts = Counter(mix.request(1, index).scenario for index in range(4_000))
    assert set(counts) == {"ss+ll.ss", "ss+ll.ll"}
    assert abs(counts["ss+ll.ss"] - 3_000) < 150


def test_a_file_of_the_users_own(tmp_path: Path) -> None:
    path = write(tmp_path, OWN)
    assert catalogue.load(path, Context()).request(1, 0).scenario == "own"
    assert catalogue.load(f"{path},ss:2", context(max_tokens="9")).name == "own+ss"


def test_an_installed_catalogue_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = tmp_path / "vllm_locust" / "scenarios"
    inside.mkdir(parents=True)
    write(inside, OWN)
    (inside / "_helper.py").write_text("")
    monkeypatch.setattr(catalogue, "_PACKAGE", tmp_path / "vllm_locust")
    assert catalogue.names() == {"own": "Is mine any good?"}
    assert catalogue.load("own", Context()).name == "own"


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        (
            "tinny",
            r"no scenario 'tinny' \(did you mean tiny\?\): choose one of conversation, .*, or a FILE\.py",
        ),
        ("xyz", r"no scenario 'xyz': choose one of conversation, "),
        ("", "a name is missing"),
        ("ss,,ll", "'ss,,ll': a name is missing"),
        ("tiny.xx", r"no scenario 'tiny\.xx': choose one of tiny\.ss, tiny\.sl, tiny\.ls, tiny\.ll"),
        ("ss.sl", r"no scenario 'ss\.sl': ss has no members"),
        ("ss:3x,ll", "the weight of ss is '3x', it must be a number"),
        ("ss:0,ll", r"mix ss\+ll: the weight of ss is 0\.0"),
        ("ss,ss", "two members of the name ss"),
        ("none.py", r"no scenario file none\.py"),
        ("../scenarios/ss", r"no scenario '\.\./scenarios/ss'"),
    ],
)
def test_what_cannot_be_found_is_said_in_one_sentence(spec: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence) as caught:
        catalogue.load(spec, Context())
    assert len(caught.value.problems) == 1
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("", r"own\.py is no scenario: it must define build\(context\)"),
        ("build = 3", "it must define build"),
        ("import no_such_module", r"own\.py cannot be loaded as a scenario, ModuleNotFoundError: No module"),
        ("def build(:", r"own\.py cannot be loaded as a scenario, SyntaxError"),
        ("def build(context): return 1 / 0", r"build\(context\) failed with ZeroDivisionError"),
        ("def build(context): pass", "returned NoneType, not a scenario"),
        ("def build(): pass", "failed with TypeError"),
    ],
)
def test_files_that_are_no_scenarios(tmp_path: Path, source: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence) as caught:
        catalogue.load(write(tmp_path, source), Context())
    assert "\n" not in str(caught.value)


def test_a_scenarios_own_complaint_is_passed_on() -> None:
    with pytest.raises(UsageError, match=r"^exact prompt lengths need"):
        catalogue.load("tiny", Context(input_len=Lengths.constant(100)))


PARAMETERS = '''"""What do I set?"""

from vllm_locust.workloads.lengths import Lengths
from vllm_locust.workloads.text import TextProfile


def build(
    context, *, n: int = 3, offset: int = 0, share: float = 0.5, fast: bool = False, kind: str = "a",
    output: Lengths = Lengths.parse("7"),
):
    print((n, offset, share, fast, kind, str(output)))
    return TextProfile("own", "own", repetitions=n, max_tokens=output)
'''


def test_parameters_are_the_keyword_arguments_of_build(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, PARAMETERS)
    given = {"n": "5", "offset": "0", "share": "0.25", "fast": "yes", "kind": "b", "output": "9~0.1"}
    scenario = catalogue.load(path, context(**given))
    assert capsys.readouterr().out == "(5, 0, 0.25, True, 'b', '9~0.1')\n"
    assert scenario.request(1, 0).prompt.count(" time") == 5
    catalogue.load(path, context())
    assert capsys.readouterr().out == "(3, 0, 0.5, False, 'a', '7')\n"


def test_a_parameter_is_for_all_members_of_its_scenario_in_a_mix() -> None:
    mix = catalogue.load("imdb.packed,imdb.single", context(**{"imdb.copies": "3", "imdb.n": "2"}))
    for member in mix.members:
        assert member.request(1, 0).prompt == member.request(1, 2).prompt != member.request(1, 3).prompt
    assert mix.members[0].request(1, 0).max_tokens == 2


def test_a_parameter_in_a_mix_says_for_which_scenario(tmp_path: Path) -> None:
    path = write(tmp_path, PARAMETERS)
    mix = catalogue.load(f"{path}:3,ss", context(**{"own.n": "6"}))
    assert mix.members[0].request(1, 0).prompt.count(" time") == 6
    with pytest.raises(UsageError, match=r"^--set n=6: say for which scenario, own\.n=6 or ss\.n=6\.$"):
        catalogue.load(f"{path},ss", context(n="6"))


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("m", "5", r"--set m=5: scenario own has n \(default 3\), offset \(default 0\), share"),
        ("n", "0", "--set n=0: n of scenario own is a whole number of at least 1"),
        ("n", "many", "n of scenario own is a whole number of at least 1"),
        ("offset", "-1", "offset of scenario own is a whole number of at least 0"),
        ("share", "-0.5", "share of scenario own is a number of at least 0"),
        ("share", "inf", "share of scenario own is a number of at least 0"),
        ("fast", "maybe", "fast of scenario own is true or false"),
        ("output", "9~2", "output of scenario own is no length: allowed is"),
    ],
)
def test_a_wrong_parameter_is_told_in_one_sentence(
    tmp_path: Path, name: str, value: str, sentence: str
) -> None:
    with pytest.raises(UsageError, match=sentence) as caught:
        catalogue.load(write(tmp_path, PARAMETERS), context(**{name: value}))
    assert len(caught.value.problems) == 1


def test_a_scenario_without_parameters_says_so() -> None:
    with pytest.raises(UsageError, match=r"^--set n=5: scenario ss has no parameters\.$"):
        catalogue.load("ss", context(n="5"))


def test_the_parameters_of_the_catalogue_can_be_listed() -> None:
    assert catalogue.parameters("worst_case") == {"input_len": "3500", "output_len": "490-500"}
