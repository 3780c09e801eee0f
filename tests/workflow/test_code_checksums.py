"""What a rule's code checksum covers: the import closure of its command, no more and no less."""

from __future__ import annotations

from pathlib import Path

import pytest

from workflow_lib.core.code import imported
from workflow_lib.workflow.code import code_of, command_modules

ROOT = Path(__file__).parents[2]
COMMANDS = [
    *("sources", "dataset", "train", "charge-order-reference", "charge-order", "charge-order-ewald"),
    *("charge-order-identical", "charge-order-overview", "search", "search-overview", "dft-plan"),
    *("dft-run", "dft-energies", "thermodynamics", "embedding", "embedding-overview", "comparison"),
    "fetch",
]
# What the command line itself and the configuration load; rules have their resolved settings as
# parameters, and ``cli/`` computes nothing.
FRAME = {"workflow_lib", "workflow_lib.__main__", "workflow_lib.config", "workflow_lib.cli"}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_imports_what_it_runs_inside_its_function(command: str) -> None:
    assert command_modules(command)
    assert len(code_of(command)) == 16


def test_a_command_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(ValueError, match="charge-odrer"):
        code_of("charge-odrer")


def test_an_engine_of_dft_does_not_touch_the_searches() -> None:
    engine = "workflow_lib.dft.engines.gpaw.engine"
    for command in ("search-overview", "search", "train", "charge-order", "embedding"):
        assert engine not in imported(command_modules(command)), command
    assert engine in imported(command_modules("dft-run"))
