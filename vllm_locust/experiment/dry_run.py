"""What an experiment would do, in words and commands."""

from collections.abc import Iterator, Sequence

from vllm_locust.core.urls import without_secrets
from vllm_locust.experiment.configurations import PORT
from vllm_locust.experiment.definition import Experiment
from vllm_locust.experiment.plan import HOST_VARIABLE, Session, locust_command, runs_of, server_command, shown
from vllm_locust.report.words import counted


def describe(experiment: Experiment, sessions: Sequence[Session]) -> str:
    """All sessions in their order, the commands of each configuration once."""
    runs = list(runs_of(sessions))
    lines = [
        experiment.question or experiment.name,
        f"{counted(len(runs), 'run')} in {counted(len(sessions), 'session')}, order {experiment.order}. "
        "Nothing is started.",
        "",
    ]
    described: set[str] = set()
    for session in sessions:
        if session.configuration.name in described:
            lines.append(f"{session.name}: the same with other seeds: {', '.join(_pairs(session))}")
            continue
        described.add(session.configuration.name)
        lines += [f"{session.name}:", *(f"  {line}" for line in _commands(session))]
    return "\n".join(lines) + "\n"


def _commands(session: Session) -> Iterator[str]:
    known = session.configuration
    if known.url is not None:
        url = without_secrets(known.url)
        yield f"server there already: {url}"
    else:
        url = f"http://127.0.0.1:{PORT}"
        variables = "".join(f"{name}={value} " for name, value in known.environment.items())
        yield variables + shown(server_command(known, PORT))
    host = f"{HOST_VARIABLE}={url}"
    if session.warmup is not None:
        locustfile, options = session.warmup
        yield f"warm-up: {host} {shown(locust_command(locustfile, options, None))}"
    for run in session.runs:
        yield f"{run.key}: {host} {shown(locust_command(run.locustfile, run.options, None))}"


def _pairs(session: Session) -> list[str]:
    return [f"{run.workload} {run.load}" for run in session.runs]
