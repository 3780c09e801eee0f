"""Go on with the campaign at the level that stands: what is missing, in the order of its worth.

``python -m campaigns.naxfepo4_gpaw.go_on --store DIR`` computes until all is done; stop it when you
like and start it again, here or in a second process beside it. Each part is listed when its turn comes,
from what the store then holds. ``--list`` says what is missing; ``--part`` (repeatable) keeps to some
parts; ``--archive FILE.tar.xz`` packs the records of the new levels, without densities, and computes
nothing.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tarfile
from pathlib import Path

from campaigns.naxfepo4_gpaw.campaign import PARTS
from campaigns.naxfepo4_gpaw.level_parts import CHOSEN
from workflow_lib.core.errors import UserError
from workflow_lib.core.io import atomic_path
from workflow_lib.dft.calculation import Calculation
from workflow_lib.dft.jobs import run_jobs
from workflow_lib.dft.store import Store

ORDER = (
    "truth_cells",
    "cell_sodium",
    "cell_strains",
    "lithium_metal",
    "lithium_states",
    "cell_symmetric",
    "lithium_symmetric",
    "cell_paths",
    "cell_orbitals",
    "cell_lower",
    "cell_magnetism",
    "cell_same_positions",
    "cell_grids",
    "cell_supercells",
    "cell_others",
    "lithium_strains",
    "cell_noise",
    "levels",
)
STARTED = ("truth_cells", "levels", "lithium_states", "cell_others", "cell_strains")
"""Parts whose starts come from models or averages: what was begun under a name is gone on with, though
another machine might round the start otherwise. And strained cells, of which the first states have more.
Another orbital is another calculation: that of Na1001:Fe2332 was found to be lower late."""
FORMAL = {"Na": 1, "Li": 1, "P": 5, "O": -2, "Si": 4}


def main() -> int:
    """Compute, list or pack."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--part", action="append", choices=ORDER)
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--archive", type=Path)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    store = Store(options.store)
    try:
        if options.archive:
            print(f"{archive(store, options.archive)} records in {options.archive}")
            return 0
        for part in options.part or ORDER:
            calculations = wanted(part, store)
            if options.list:
                states = [store.get(calculation).status for calculation in calculations]
                counts = ", ".join(f"{states.count(s)} {s}" for s in dict.fromkeys(states)) or "nothing yet"
                print(f"{part}: {counts}")
            else:
                print(f"{part}: {run_jobs(calculations, store, formal_charges=FORMAL)}", flush=True)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def wanted(part: str, store: Store) -> list[Calculation]:
    """The calculations of a part."""
    calculations = list(PARTS[part](store))
    if part not in STARTED:
        return calculations

    def named(calculation: Calculation) -> tuple[str, str, str]:
        return calculation.name, calculation.level.digest, calculation.orbital

    begun = {named(record.calculation): record.calculation for record in store.records()}
    return [begun.get(named(calculation), calculation) for calculation in calculations]


def archive(store: Store, path: Path) -> int:
    """Pack the records of shifted meshes and of the metals at the chosen cut-off; returns their number.

    Failures are among them, with or without a geometry: they are results too.
    """
    chosen = [
        store.path(record.calculation)
        for record in store.records()
        if (record.frames or record.status == "failed")
        and (
            record.calculation.level.shifted
            or (record.calculation.unsteered and record.calculation.level.cutoff == CHOSEN.cutoff)
        )
    ]
    with atomic_path(path) as temporary, tarfile.open(temporary, "w:xz", preset=9) as pack:
        for log in chosen:
            pack.add(log, arcname=f"store/{log.name}")
    return len(chosen)


if __name__ == "__main__":
    sys.exit(main())
