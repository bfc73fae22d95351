"""The files of scripts/deploy fit the suite: command lines, ports and paths. No container is started."""

import argparse
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from locust.argument_parser import get_empty_argument_parser, setup_parser_arguments

from vllm_locust.load.options import add_options
from vllm_locust.load.settings import API_KEY_VARIABLE, read_settings

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "scripts" / "deploy"
# All that is ever in flight is over then: requests after --stop-timeout, the last reports 10 s later.
LONGEST_STOP_S = 70
APP = "/app/"
"""The image's working directory: paths below it are the checkout's."""


def text(name: str) -> str:
    return (DEPLOY / name).read_text(encoding="utf-8")


def documents(name: str) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(text(name)) if document]


def interpolate(line: str, variables: Mapping[str, str]) -> str:
    """As Compose does with `${NAME:-default}` and `${NAME:?message}`."""

    def value(match: re.Match[str]) -> str:
        name, kind, word = match.groups()
        if variables.get(name):
            return variables[name]
        assert kind == "-", f"{name} is needed: {word}"
        return word

    return re.sub(r"\$\{(\w+):([-?])([^}]*)\}", value, line)


def compose(**variables: str) -> dict[str, Any]:
    """The services, with their values filled in."""
    variables = {"TARGET": "http://192.0.2.10:8000", **variables}
    filled = interpolate(text("compose.yaml"), variables)
    services: dict[str, Any] = yaml.safe_load(filled)["services"]
    return services


def command(service: str, **variables: str) -> list[str]:
    return shlex.split(compose(**variables)[service]["command"])


def resource(kind: str, role: str) -> dict[str, Any]:
    (found,) = [
        document
        for document in documents("kubernetes.yaml")
        if document["kind"] == kind and document["metadata"]["name"] == f"vllm-locust-{role}"
    ]
    return found


def pod(role: str) -> dict[str, Any]:
    spec: dict[str, Any] = resource("Job", role)["spec"]["template"]["spec"]
    return spec


def container(role: str) -> dict[str, Any]:
    """The one that runs Locust."""
    (found,) = [found for found in pod(role)["containers"] if found["name"] == role]
    return found


def operator_args(role: str) -> list[str]:
    """As Locust's operator makes them, in its objects.py: something in front of what both are given."""
    given = shlex.split(documents("locusttest.yaml")[0]["spec"]["args"])
    front = {"master": ["--master"], "worker": ["--worker", "--master-host", "vllm-locust-master"]}
    return [*front[role], *given]


OTHER_VARIABLES = {"MODE": "--autostart", "OPTIONS": '-t 5m --slo "p99_ttft_ms<500"'}
COMMANDS = {
    f"{where} {role}": arguments
    for role in ("master", "worker")
    for where, arguments in (
        ("compose", command(role)),
        ("compose, web UI and options", command(role, **OTHER_VARIABLES)),
        ("kubernetes", container(role)["args"]),
        ("operator", operator_args(role)),
    )
}  # fmt: skip


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """As Locust would, but whatever it finds on this machine."""
    parser = get_empty_argument_parser(add_help=False, default_config_files=[])
    setup_parser_arguments(parser)
    add_options(parser)
    options: argparse.Namespace = parser.parse_args(list(arguments), env_vars={})
    return options


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_exists_and_its_value_is_right(name: str) -> None:
    options = parse(COMMANDS[name])
    assert read_settings(options)[1] == []
    assert options.user_classes == [], "nothing is left over"
    assert options.worker == name.endswith("worker")
    assert options.master == name.endswith("master")


def test_an_option_that_does_not_exist_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse([*COMMANDS["kubernetes master"], "--no-such-option"])
    assert "--no-such-option" in capsys.readouterr().err


@pytest.mark.parametrize("name", [name for name in COMMANDS if name.endswith("master")])
def test_a_master_runs_by_itself_and_writes_results_where_they_are_kept(name: str) -> None:
    options = parse(COMMANDS[name])
    assert options.headless or options.autostart
    assert options.host.startswith("http://")
    assert options.expect_workers_max_wait > 0
    assert Path(options.results_dir).parent == Path("results")


@pytest.mark.parametrize("name", [name for name in COMMANDS if name.startswith(("compose", "kubernetes"))])
def test_locustfiles_are_in_the_image_and_in_the_checkout(name: str) -> None:
    locustfile = parse(COMMANDS[name]).locustfile
    assert locustfile == parse(COMMANDS["kubernetes worker"]).locustfile, "all run the same"
    assert (ROOT / locustfile).is_file()


def test_the_locustfile_for_the_operator_is_one() -> None:
    spec = documents("locusttest.yaml")[0]["spec"]
    names: dict[str, Any] = {"__name__": "locustfile"}
    exec(compile(spec["locustfile"]["content"], "locustfile.py", "exec"), names)
    assert names["ChatUser"].tasks
    # The name is the operator's own, and so is the folder: nothing of the image may lie there.
    assert parse(operator_args("worker")).locustfile == "/home/locust/locustfile.py"
    assert "/home/locust" not in text("Dockerfile")


# -- as many as are waited for, and where they look for the master ----------------------------------------


def test_as_many_workers_are_waited_for_as_are_started() -> None:
    for variables in ({}, {"WORKERS": "7"}):
        expected = parse(command("master", **variables)).expect_workers
        assert expected == int(compose(**variables)["worker"]["scale"])
    parallel = resource("Job", "worker")["spec"]["parallelism"]
    assert parse(container("master")["args"]).expect_workers == parallel
    spec = documents("locusttest.yaml")[0]["spec"]
    assert parse(operator_args("master")).expect_workers == spec["workers"]


def test_master_and_workers_agree_on_port_and_name() -> None:
    assert parse(command("worker")).master_host in compose()
    for name in ("compose", "kubernetes", "operator"):
        port = parse(COMMANDS[f"{name} master"]).master_bind_port
        assert parse(COMMANDS[f"{name} worker"]).master_port == port
    service, policy = resource("Service", "master"), resource("NetworkPolicy", "master")
    worker = parse(container("worker")["args"])
    assert worker.master_host == service["metadata"]["name"]
    (service_port,), (rule, _) = service["spec"]["ports"], policy["spec"]["ingress"]
    (container_port, _), (policy_port,) = container("master")["ports"], rule["ports"]
    assert service_port["port"] == service_port["targetPort"] == worker.master_port
    assert container_port["containerPort"] == policy_port["port"] == worker.master_port
    labels = resource("Job", "master")["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"] == policy["spec"]["podSelector"]["matchLabels"] == labels
    (peer,) = rule["from"]
    worker_labels = resource("Job", "worker")["spec"]["template"]["metadata"]["labels"]
    assert peer["podSelector"]["matchLabels"] == worker_labels


def test_prometheus_finds_the_master() -> None:
    host, _, port = parse(container("master")["args"]).exporter_port.partition(":")
    assert host == "0.0.0.0"
    _, rule = resource("NetworkPolicy", "master")["spec"]["ingress"]
    annotations = resource("Job", "master")["spec"]["template"]["metadata"]["annotations"]
    _, container_port = container("master")["ports"]
    (policy_port,) = rule["ports"]
    assert policy_port["port"] == container_port["containerPort"] == int(port)
    assert annotations["prometheus.io/port"] == port


# -- what is safe -----------------------------------------------------------------------------------------


def test_compose_opens_ports_to_this_machine_only() -> None:
    services = compose()
    assert "ports" not in services["worker"]
    assert services["master"]["ports"]
    assert all(port.startswith("127.0.0.1:") for port in services["master"]["ports"])
    assert all("network_mode" not in service for service in services.values())


def environments() -> Iterator[tuple[str, Any]]:
    """Each variable that a container gets, and its value if it is written down."""
    for service in compose().values():
        yield from service["environment"].items()
    for role in ("master", "worker"):
        for variable in container(role)["env"]:
            yield variable["name"], variable.get("value")
    for variable in documents("locusttest.yaml")[0]["spec"].get("env", []):
        yield variable["name"], variable.get("value")


def test_the_key_comes_from_elsewhere() -> None:
    assert [value for name, value in environments() if name == API_KEY_VARIABLE] == [None] * 4
    for role in ("master", "worker"):
        (variable,) = container(role)["env"]
        assert variable["valueFrom"]["secretKeyRef"]["optional"] is True
    for name, arguments in COMMANDS.items():
        options = parse(arguments)
        assert options.api_key is None, name
        assert options.header is None, name


@pytest.mark.parametrize("path", sorted(DEPLOY.iterdir()), ids=lambda path: path.name)
def test_no_secret_is_written_down(path: Path) -> None:
    assert not re.search(
        r"--api-key|--header|--web-login|Bearer|\bsk-|hf_\w|BEGIN [A-Z ]*KEY|\b(?i:password|token)\s*[:=]",
        path.read_text(encoding="utf-8"),
    )
    if path.suffix == ".yaml":
        assert all(document["kind"] != "Secret" for document in documents(path.name) if "kind" in document)


@pytest.mark.parametrize("role", ["master", "worker"])
def test_pods_may_do_nothing_but_measure(role: str) -> None:
    spec = pod(role)
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    for each in spec["containers"]:
        assert each["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert each["resources"]["requests"] == each["resources"]["limits"]
    assert container(role)["resources"]["limits"]["cpu"] == "1"
    named = {volume["name"] for volume in spec["volumes"]}
    assert {mount["name"] for each in spec["containers"] for mount in each["volumeMounts"]} == named


def test_the_image_does_not_run_as_root() -> None:
    (user,) = re.findall(r"^USER (\d+)", text("Dockerfile"), re.MULTILINE)
    assert int(user) == pod("master")["securityContext"]["runAsUser"] == 1000
    assert all(interpolate(service["user"], {}) == "1000:1000" for service in compose().values())


# -- how they end -----------------------------------------------------------------------------------------


def test_containers_have_time_to_finish_what_is_in_flight() -> None:
    for name, arguments in COMMANDS.items():
        assert float(parse(arguments).stop_timeout) + 10 <= LONGEST_STOP_S, name
    for service in compose().values():
        assert int(service["stop_grace_period"].removesuffix("s")) > LONGEST_STOP_S
        assert service["init"] is True, "process 1 ignores SIGTERM until Locust listens to it"
    for role in ("master", "worker"):
        assert pod(role)["terminationGracePeriodSeconds"] >= 120
        assert pod(role)["shareProcessNamespace"] is True, "as above"


def test_a_run_is_not_repeated_and_a_worker_that_ends_does_not_end_the_rest() -> None:
    assert resource("Job", "master")["spec"]["backoffLimit"] == 0
    assert resource("Job", "worker")["spec"]["backoffLimit"] > 0
    assert {pod(role)["restartPolicy"] for role in ("master", "worker")} == {"Never"}
    assert compose()["worker"]["attach"] is False


# -- what is where ----------------------------------------------------------------------------------------


def test_what_the_image_is_made_of_is_there_and_not_ignored() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    copied = [
        source
        for line in re.findall(r"^COPY (?!--from)(.+)$", text("Dockerfile"), re.MULTILINE)
        for source in line.split()[:-1]
    ]
    assert {"vllm_locust", "scenarios", "locustfiles", "pyproject.toml"} <= set(copied)
    for source in copied:
        assert (ROOT / source).exists(), source
        assert f"!{source}" in ignored, source
    assert ignored[1] == "*", "nothing else is sent to the builder"


def test_paths_in_compose_lead_to_the_checkout() -> None:
    for service in compose().values():
        context = (DEPLOY / service["build"]["context"]).resolve()
        assert context == ROOT
        assert (context / service["build"]["dockerfile"]).is_file()
    (results,) = compose()["master"]["volumes"]
    assert (DEPLOY / results["source"]).resolve() == ROOT / "results"
    assert results["target"] == f"{APP}results"
    assert f"WORKDIR {APP.rstrip('/')}\n" in text("Dockerfile")


def test_results_in_kubernetes_outlive_the_master() -> None:
    (keeper,) = [each for each in pod("master")["containers"] if each["name"] == "results"]
    (mount,) = keeper["volumeMounts"]
    assert mount in container("master")["volumeMounts"]
    assert mount["mountPath"] == f"{APP}results"


def test_one_image_everywhere() -> None:
    images = {each["image"] for role in ("master", "worker") for each in pod(role)["containers"]}
    assert images == {documents("locusttest.yaml")[0]["spec"]["image"]}


def test_the_operators_resource_has_only_fields_that_it_knows() -> None:
    """Those of version 0.1.6, in charts/locust-operator/crds: others would be dropped without a word."""
    (document,) = documents("locusttest.yaml")
    assert (document["apiVersion"], document["kind"]) == ("locust.io/v1", "LocustTest")
    assert document["spec"].keys() <= set(
        "annotations labels image imagePullPolicy imagePullSecrets workers args env master worker locustfile "
        "metrics".split()
    )
    for role in ("master", "worker"):
        assert document["spec"][role].keys() <= {"labels", "annotations", "resources"}
        assert document["spec"][role]["resources"].keys() <= {"requests", "limits"}
    assert document["spec"]["locustfile"].keys() in ({"content"}, {"configMap"}), "one of them"


def test_files_that_the_page_names_are_there() -> None:
    page = (ROOT / "docs" / "many-workers.md").read_text(encoding="utf-8")
    for name in set(re.findall(r"scripts/deploy/[\w.-]+", page)):
        assert (ROOT / name).is_file(), name
    for variable in set(re.findall(r"\$\{(\w+):", text("compose.yaml"))):
        assert f"`{variable}`" in page, variable
