"""How near the answers of capacity searches come to the truth when something goes wrong on the way.

Each line is so many searches for p95_tpot_ms<50 of the server of `tests.whole.virtual_load`, by other seeds.
"""

import argparse
from collections.abc import Callable, Mapping
from itertools import count
from random import Random

from tests.whole.virtual_load import Driver, Trouble, found, met_by_the_truth, parsed
from vllm_locust.core.search import Answer

SLOS = parsed("p95_tpot_ms<50")
TROUBLES: Mapping[str, Callable[[Random], Trouble]] = {
    "nothing": lambda random: Trouble(),
    "a hiccup of 2 s": lambda random: Trouble(hiccups_at_s=[random.uniform(0, 300)]),
    "a hiccup of 5 s": lambda random: Trouble(hiccups_at_s=[random.uniform(0, 300)], hiccup_s=5.0),
    "a hiccup of 2 s in which all fail": lambda random: Trouble(
        hiccups_at_s=[random.uniform(0, 300)], failing=99
    ),
    "two hiccups of 2 s": lambda random: Trouble(hiccups_at_s=[random.uniform(0, 300) for _ in range(2)]),
    "connections refused for 2 s": lambda random: Trouble(outage_at_s=random.uniform(0, 300)),
    "connections refused above 8": lambda random: Trouble(full_above=7.0),
    "5 % slower over 500 s": lambda random: Trouble(slower_per_s=1e-4),
    "a bad island": lambda random: Trouble(island=(random.randint(3, 10),)),
    "a client blind above 8": lambda random: Trouble(blind_above=8.0),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=20, help="searches a line")
    parser.add_argument("--only", choices=TROUBLES, help="one line alone")
    arguments = parser.parse_args()
    truth = next(users - 1 for users in count(1) if not met_by_the_truth(True, users, SLOS))
    print(f"The truth is {truth:g} users.\n")
    print("| trouble | within 1 user | within 2 | below by more | undecided | probes | virtual s |")
    print("|---|---|---|---|---|---|---|")
    for name in [arguments.only] if arguments.only else TROUBLES:
        drivers = [Driver(seed, True, TROUBLES[name](Random(seed))) for seed in range(arguments.times)]
        answers = [found(driver, SLOS) for driver in drivers]
        print(_row(name, answers, drivers, truth), flush=True)


def _row(name: str, answers: list[Answer], drivers: list[Driver], truth: float) -> str:
    off = [(answer.level or 0) - truth for answer in answers]
    cells = [
        sum(abs(by) <= 1 for by in off),
        sum(abs(by) <= 2 for by in off),
        sum(by < -2 for by in off),
        sum(answer.undecided is not None for answer in answers),
    ]
    probes = sum(len(answer.probes) for answer in answers) / len(answers)
    seconds = sum(driver.virtual_s for driver in drivers) / len(answers)
    shares = [f"{cell * 100 / len(answers):.0f} %" for cell in cells]
    return f"| {' | '.join([name, *shares, f'{probes:.1f}', f'{seconds:.0f}'])} |"


if __name__ == "__main__":
    main()
