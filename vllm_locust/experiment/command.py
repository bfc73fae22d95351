"""`vllm-locust experiment`: a matrix of server configurations, workloads and loads, measured unattended."""

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_locust.errors import UsageError, VllmLocustError

if TYPE_CHECKING:
    from vllm_locust.experiment.definition import Experiment
    from vllm_locust.experiment.plan import Session
    from vllm_locust.results.experiment import ExperimentResults

DESCRIPTION = """\
Answer a question about a server by measuring it in several configurations: start it, wait until it is
healthy, warm it up, run every workload under every load, stop it, and so on with the next one, unattended.
The same command goes on where it was interrupted. A configuration that does not start is a result, not the
end. All is described in one file; docs/experiments.md tells how.
"""

EXAMPLES = """\
examples:
  vllm-locust experiment --list                            the experiments that come with the suite
  vllm-locust experiment chunked_prefill                   one of them, on the simulator
  vllm-locust experiment chunked_prefill --server "vllm serve MODEL" --output results/chunked
  vllm-locust experiment --show chunked_prefill > mine.yaml
  vllm-locust experiment mine.yaml --dry-run               what would be done
  vllm-locust experiment mine.yaml --output results/mine --repeats 3

exit codes:
  0  all runs ended well
  1  requests failed in a run, or a run was refused or a server did not start: the table says which
  2  wrong usage: nothing was started
  3  else, if a run missed an --slo
  4  else, if a measurement is invalid or too small for an --slo
  5  the experiment could not go on; the same command tries again
  130  interrupted; the same command goes on
"""

CANNOT_GO_ON = 5
INTERRUPTED = 130

# The first outcome that any run has decides.
_EXIT_CODES = (
    (1, ("failed_requests", "refused", "server_failed", "crashed")),
    (3, ("slo_missed",)),
    (4, ("invalid",)),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "experiment",
        metavar="FILE.yaml|NAME",
        nargs="?",
        help="An experiment's file, or the name of one of ours.",
    )
    parser.add_argument(
        "--output",
        metavar="DIR",
        type=Path,
        help="Folder of all that is left behind; one that was begun is gone on with (default: results/NAME).",
    )
    parser.add_argument(
        "--server",
        metavar="COMMAND",
        help="Start the server so, instead of what the file says (server.start).",
    )
    parser.add_argument(
        "--repeats", metavar="N", type=int, help="Make each run so often (default: the file's)."
    )
    parser.add_argument(
        "--only",
        metavar="CONFIGURATION",
        action="append",
        help="Leave the other configurations for later; may be repeated.",
    )
    parser.add_argument("--dry-run", action="store_true", help="Say what would be done, and do nothing.")
    parser.add_argument("--list", action="store_true", help="List the experiments that come with the suite.")
    parser.add_argument("--show", metavar="NAME", help="Print the file of one of them.")


def run(args: argparse.Namespace) -> int:
    """Make an experiment; UsageError before anything is started."""
    from vllm_locust.experiment import shipped

    if args.list:
        print(shipped.listing(), end="")
        return 0
    if args.show is not None:
        print(shipped.path_of(args.show).read_text(encoding="utf-8"), end="")
        return 0
    if args.experiment is None:
        raise UsageError("say which experiment: a FILE.yaml, or a name that --list shows")
    return _run(args)


def _run(args: argparse.Namespace) -> int:
    from vllm_locust.experiment import shipped
    from vllm_locust.experiment.plan import plan
    from vllm_locust.experiment.reading import read_experiment_file
    from vllm_locust.experiment.rehearsal import rehearse
    from vllm_locust.experiment.store import drawn_seed

    if args.repeats is not None and args.repeats < 1:
        raise UsageError(f"--repeats {args.repeats} is not a whole number of at least 1")
    file = shipped.find(args.experiment)
    folder = args.output or Path("results") / file.stem
    experiment = read_experiment_file(
        file, drawn_seed=drawn_seed(folder), start=args.server, repeats=args.repeats
    )
    sessions = plan(experiment)
    chosen = _only(args.only, sessions)
    rehearse(sessions)
    if args.dry_run:
        from vllm_locust.experiment.dry_run import describe

        print(describe(experiment, chosen), end="")
        return 0
    return _measure(experiment, sessions, chosen, folder)


def _only(names: Sequence[str] | None, sessions: "Sequence[Session]") -> "Sequence[Session]":
    known = list(dict.fromkeys(session.configuration.name for session in sessions))
    wrong = [name for name in names or () if name not in known]
    if wrong:
        raise UsageError(*(f"--only {name}: there are {', '.join(known)}" for name in wrong))
    return [session for session in sessions if not names or session.configuration.name in names]


def _measure(
    experiment: "Experiment", sessions: "Sequence[Session]", chosen: "Sequence[Session]", folder: Path
) -> int:
    from vllm_locust.experiment.progress import Progress
    from vllm_locust.experiment.reporting import conclude
    from vllm_locust.experiment.running import Conduct
    from vllm_locust.experiment.store import Store
    from vllm_locust.report.words import counted
    from vllm_locust.results.experiment import read_experiment

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    store = Store(folder, experiment, sessions)
    progress = Progress(sys.stdout)
    try:
        conduct = Conduct(chosen, experiment.timing, store, progress)
        done = f", {len(store.finished)} of them done before" if store.finished else ""
        to_make = counted(conduct.left, "run")
        progress.say(f"{experiment.question or experiment.name}\n{to_make} to make{done}: {folder}")
        conduct.run()
    except KeyboardInterrupt:
        progress.say(
            "Interrupted, and all that was started is stopped. The same command goes on; "
            f"vllm-locust report {folder} shows what there is."
        )
        return INTERRUPTED
    except (VllmLocustError, OSError) as error:
        progress.say(f"{error}\nThe experiment cannot go on; the same command tries again ({folder}).")
        return CANNOT_GO_ON
    finally:
        store.close()
    results = read_experiment(folder)
    conclude(results)
    return exit_code(results)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def exit_code(results: "ExperimentResults") -> int:
    """What became of the worst run decides."""
    outcomes = {run.outcome for run in results.runs}
    return next((code for code, bad in _EXIT_CODES if outcomes.intersection(bad)), 0)
