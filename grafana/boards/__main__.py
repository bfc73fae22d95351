"""Writes `grafana/dashboards/NAME.json` for each board."""

from collections.abc import Mapping
from pathlib import Path

from . import capacity, client_vs_server, load_test
from .board import Board

DASHBOARDS = Path(__file__).parents[1] / "dashboards"


def boards() -> Mapping[str, Board]:
    """Each board by the name of its file."""
    return {
        "load-test": load_test.board(),
        "client-vs-server": client_vs_server.board(),
        "capacity": capacity.board(),
    }


def main() -> None:
    DASHBOARDS.mkdir(exist_ok=True)
    for name, board in boards().items():
        (DASHBOARDS / f"{name}.json").write_text(board.to_json(), encoding="utf-8")


if __name__ == "__main__":
    main()
