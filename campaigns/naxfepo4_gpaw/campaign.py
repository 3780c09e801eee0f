"""The DFT campaign behind frames.parquet: writes the job files of its parts.

``python -m campaigns.naxfepo4_gpaw.campaign PART --store DIR --out jobs.jsonl`` lists one part;
``python -m workflow_lib dft-run --jobs jobs.jsonl --store DIR`` computes them. Parts that start from
relaxed states read them from the store, so ``truth_cells`` comes first; it starts from what the first
level (500 eV, Gamma) left in ``store.tar.xz``. Random displacements take their seed from the part and
the state: the same command writes the same jobs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from campaigns.naxfepo4_gpaw.cell_parts import (
    cell_grids,
    cell_lower,
    cell_magnetism,
    cell_noise,
    cell_orbitals,
    cell_sodium,
    truth_cells,
)
from campaigns.naxfepo4_gpaw.frame_parts import (
    cell_others,
    cell_paths,
    cell_same_positions,
    cell_strains,
    cell_symmetric,
)
from campaigns.naxfepo4_gpaw.level_parts import levels
from campaigns.naxfepo4_gpaw.lithium_parts import (
    lithium_metal,
    lithium_states,
    lithium_strains,
    lithium_symmetric,
)
from campaigns.naxfepo4_gpaw.supercell_parts import cell_supercells
from workflow_lib.core.errors import UserError
from workflow_lib.dft.calculation import Calculation
from workflow_lib.dft.jobs import write_jobs
from workflow_lib.dft.store import Store

PARTS: dict[str, Callable[[Store], Iterator[Calculation]]] = {
    part.__name__: part
    for part in (
        levels,
        truth_cells,
        cell_sodium,
        cell_orbitals,
        cell_grids,
        cell_lower,
        cell_magnetism,
        cell_noise,
        cell_strains,
        cell_symmetric,
        cell_paths,
        cell_others,
        cell_same_positions,
        cell_supercells,
        lithium_states,
        lithium_strains,
        lithium_symmetric,
        lithium_metal,
    )
}


def main() -> int:
    """Write the job file of one part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    try:
        calculations = list(PARTS[options.part](Store(options.store)))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{write_jobs(calculations, options.out)} calculations in {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
