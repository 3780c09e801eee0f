"""Tables of the level that stands: which it is, the states relaxed at it, voltages; from the store.

``python -m campaigns.naxfepo4_gpaw.tables --store DIR`` writes ``level*.csv``, ``level.png``,
``cells.csv``, ``voltage.csv``, ``failures.csv``, ``same_positions.csv``, ``lithium.csv``,
``cathodes.csv``, ``magnetism.csv`` and ``supercells.csv`` to ``docs/dft``, and the table of states
into ``docs/dft.md``; what is not computed yet is left out, and the states say so.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from campaigns.naxfepo4_gpaw.cathodes_table import write_cathodes
from campaigns.naxfepo4_gpaw.level_parts import CHOSEN, REFERENCE
from campaigns.naxfepo4_gpaw.lithium_table import write_lithium
from campaigns.naxfepo4_gpaw.magnetism_table import write_magnetism
from campaigns.naxfepo4_gpaw.page import cells_table, fill
from campaigns.naxfepo4_gpaw.relaxation_estimate import relaxation_estimate
from campaigns.naxfepo4_gpaw.same_positions import write_same_positions
from campaigns.naxfepo4_gpaw.states import POOR, RICH, ROOT, olivine
from campaigns.naxfepo4_gpaw.supercell import KIND as SUPERCELL
from campaigns.naxfepo4_gpaw.supercell import Gain, known_gains, supercell_figure, supercell_table
from campaigns.naxfepo4_gpaw.truth import failures, truth_figure, truth_table
from workflow_lib.core.errors import UserError
from workflow_lib.core.io import write_csv
from workflow_lib.dft.level_choice import level_figure, level_table, verdict
from workflow_lib.dft.store import Record, Store
from workflow_lib.lattice.host import Host
from workflow_lib.lattice.hull import lower_hull
from workflow_lib.lattice.voltage import voltage_profile

TABLES = ROOT / "docs" / "dft"
MESH = (16, 16, 16)


def sodium_energy(records: list[Record]) -> float | None:
    """Energy of bcc Na, eV per atom: the lowest over lattice constants on the dense mesh."""
    energies = [
        record.frames[-1]["energy"]
        for record in records
        if record.calculation.group == "Na"
        and record.status == "done"
        and record.calculation.level.cutoff == CHOSEN.cutoff
        and record.calculation.level.kpoints == MESH
    ]
    return min(energies, default=None)


def voltages(states: pd.DataFrame, sodium: float, host: Host) -> pd.DataFrame:
    """Average voltage of each step between neighbours on the hull of what is relaxed, and of the whole."""
    sites = host.n_mobile((1, 1, 1))
    done = states.dropna(subset=["energy_ev"])
    done = done[done["status"] == "done"]
    filled = np.round(done["x"].to_numpy() * sites)
    hull = lower_hull(
        filled, np.full(len(done), sites), done["energy_ev"], mobile=host.mobile, where="the DFT store"
    )
    profile = voltage_profile(hull, mobile_energy=sodium)
    rows = [*zip(profile.x[:-1], profile.x[1:], profile.volts, strict=True)]
    if len(rows) > 1:
        rows.append((profile.x[0], profile.x[-1], profile.average))
    return pd.DataFrame(rows, columns=["x_low", "x_high", "voltage_v"])


def main() -> int:
    """Write what there is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--store", type=Path, required=True)
    store, host = Store(parser.parse_args().store), olivine()
    try:
        records = list(store.records())
        table = level_table(records, REFERENCE, empty=POOR, full=RICH)
        write_csv(table, TABLES / "level.csv")
        write_csv(verdict(table), TABLES / "level_verdict.csv")
        level_figure(table, TABLES / "level")
        states = truth_table(records, host, CHOSEN)
        write_csv(states, TABLES / "cells.csv")
        earlier = pd.read_csv(TABLES / "first_level.csv")
        truth_figure(states, host, TABLES / "cells", earlier=earlier)
        fill(TABLES.with_suffix(".md"), cells_table(states, earlier))
        large = [record for record in records if record.calculation.level.cutoff == CHOSEN.cutoff]
        if any(record.calculation.kind == SUPERCELL for record in large):
            path = TABLES / "supercells.csv"
            gain: Gain = relaxation_estimate
            if path.exists():
                gain = known_gains(pd.read_csv(path), gain)
            larger = supercell_table(large, empty=POOR, full=RICH, gain=gain)
            write_csv(larger, path)
            supercell_figure(larger, states, host, TABLES / "supercells")
        at_level = [record for record in records if record.calculation.level == CHOSEN]
        write_csv(failures(at_level), TABLES / "failures.csv")
        write_same_positions(at_level, TABLES)
        write_lithium(at_level, states, TABLES)
        write_cathodes(at_level, states, TABLES)
        write_magnetism(records, states, CHOSEN, TABLES)
        sodium = sodium_energy(records)
        if sodium is not None:
            write_csv(voltages(states, sodium, host), TABLES / "voltage.csv")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
