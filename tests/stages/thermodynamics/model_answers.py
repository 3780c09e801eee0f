"""What models and searches answered, made from DFT's own states, and the stage on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from samples import HOST, REFERENCE, RULE
from sealed import write_sealed

from workflow_lib.lattice.host import Host
from workflow_lib.lattice.redox import RedoxRule
from workflow_lib.stages.thermodynamics.run import run_thermodynamics
from workflow_lib.stages.thermodynamics.settings import ThermodynamicsSettings

LEVEL = REFERENCE
E_NA = -1.3231  # eV, of the embedded level
SETTINGS = ThermodynamicsSettings.model_validate(
    {"metals": [{"element": "Na", "level": LEVEL, "energy_ev": E_NA, "source": "bcc"}]}
)


def write_charge_order(
    reference_dir: Path,
    folder: Path,
    shift: float | np.ndarray = 0.0,
    drop: pd.Series | None = None,
    **changes: object,
) -> Path:
    """A model with DFT's energies, each moved by ``shift`` (eV a cell); without the states to ``drop``."""
    states = pd.read_csv(reference_dir / "reference.csv")
    states = states.assign(protocol="distorted", status="converged", steps=3, fmax_ev_a=0.04, seen=False)
    states["energy_ev"] += shift
    states = states.assign(**changes)
    states = states if drop is None else states[~drop]
    other = states.assign(protocol="undistorted", energy_ev=0.0)
    write_sealed("charge_order/states", folder, pd.concat([other, states]))
    return folder


def write_search(folder: Path, reference_dir: Path, host: Host) -> Path:
    """A search that found a stable phase at x = 2/3 of the 1x3x1 cell, 40 meV below the ends."""
    states = pd.read_csv(reference_dir / "reference.csv").set_index("x")["energy_ev"]
    line = 3 * (float(states[0.0]) / 3 + 2 * float(states[1.0]) / 3)
    rng = np.random.default_rng(3)
    rows = []
    for number in range(6):
        found = host.random((1, 3, 1), 8, charges=True, rng=rng)
        rows.append(
            {
                "cell": "1x3x1",
                "state_key": host.key(found),
                "x": 2 / 3,
                "n_occupied": 8,
                "method": "ga" if number % 2 == 0 else "random",
                "energy_ev": line + 12 * (-0.04 + 0.03 * number),
                "status": "converged",
                "degeneracy": host.degeneracy(found),
            }
        )
    write_sealed("search/found", folder, pd.DataFrame(rows))
    return folder


def run(
    reference_dir: Path,
    charge_orders: list[Path],
    searches: list[Path],
    out: Path,
    settings: ThermodynamicsSettings = SETTINGS,
    answers: pd.DataFrame | None = None,
) -> Path:
    """Run the stage; ``answers``: what DFT says of the arrangements that the searches asked for."""
    table = pd.DataFrame() if answers is None else answers
    run_thermodynamics(
        reference_dir=reference_dir,
        charge_order_dirs=charge_orders,
        search_dirs=searches,
        dft_dir=write_sealed("dft/energies", out.parent / f"{out.name}-dft", table).parent,
        host=Host.load(HOST, RedoxRule.model_validate(RULE)),
        settings=settings,
        cells="fixed",
        out=out,
    )
    return out
