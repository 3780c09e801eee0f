"""Relax arrangements of larger cells with a labelled model, as the starts of DFT's single points.

``python -m campaigns.naxfepo4_gpaw.supercell_starts --model-dir DIR`` writes ``supercells.jsonl``, which
the part ``cell_supercells`` reads. The model must know charge states and give stress, at the level that
stands; positions and cells are relaxed. ``--again KEY`` adds one arrangement as this model relaxes it to
those that are there: of two geometries the lower energy of DFT is the better bound.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ase import Atoms

from campaigns.naxfepo4_gpaw.diagonal import NAME, diagonal_order, sheared_olivine
from campaigns.naxfepo4_gpaw.level_parts import CHOSEN
from campaigns.naxfepo4_gpaw.states import olivine
from campaigns.naxfepo4_gpaw.supercell import KIND
from campaigns.naxfepo4_gpaw.supercell_parts import JOBS
from workflow_lib.core.errors import UserError
from workflow_lib.dft.calculation import Calculation
from workflow_lib.dft.jobs import read_jobs, write_jobs

ARRANGEMENTS = (
    "1x2x1:Na11111010:Fe22232223",
    "1x3x1:Na111111100100:Fe222233222233",
    NAME,
    "1x3x1:Na111100100111:Fe222332222233",
    "1x3x1:Na111110100011:Fe222332222323",
    "1x3x1:Na111110010011:Fe223322222323",
)
"""In the order of their worth. At x = 3/4 what two labelled models put lowest, 26 meV per formula unit
apart (docs/phase-diagram.md), as each relaxes it. At x = 2/3 the three lowest of the screened search
(docs/screening.csv), the diagonal vacancies of the literature, and what the first level's models had
lowest."""
MESHES = {2: (1, 2, 2), 3: (1, 1, 2)}
"""k-points of a cell repeated along b, all shifted: of the small one they are 4 and 3 along b."""
DISTORTION = 0.06  # A, of the Fe-O bonds of a start
FMAX, SMAX = 0.05, 0.2  # eV/A, GPa
STEPS = 800


def main() -> int:
    """Relax all and write the jobs, or nothing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model-dir", type=Path, required=True)
    parser.add_argument("--again", metavar="KEY")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    try:
        if options.again:
            jobs = with_another(read_jobs(JOBS), *starts(options.model_dir, [options.again]))
        else:
            jobs = starts(options.model_dir)
        print(f"{write_jobs(jobs, JOBS)} calculations in {JOBS.name}")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def with_another(jobs: Sequence[Calculation], other: Calculation) -> list[Calculation]:
    """Return the jobs with ``other`` after the first of its arrangement, from whose density it starts.

    Raises UserError where there is none.
    """
    place = next((n for n, job in enumerate(jobs, 1) if job.group == other.group), None)
    if place is None:
        raise UserError(f"{JOBS.name} has no {other.group}; relax all arrangements first, without --again")
    first = jobs[place - 1]
    second = replace(
        other,
        name=f"{other.name} by {other.provenance['model']}",
        provenance={**other.provenance, "start": first.digest},
    )
    return [*jobs[:place], second, *jobs[place:]]


def starts(model: Path, keys: Sequence[str] = ARRANGEMENTS) -> list[Calculation]:
    """Return the single points of arrangements; raise UserError where a relaxation does not end."""
    from workflow_lib.models.trained import TrainedModel
    from workflow_lib.simulation.relaxation import relax

    network = TrainedModel.load(model)
    found = []
    for key in keys:
        start, repeats = _start(key)
        logging.info("relaxing %s, %d atoms", key, len(start))
        [end] = relax(network, [start], fmax=FMAX, smax=SMAX, max_steps=STEPS, batch_size=1, cell=True)
        if end.status != "converged":
            raise UserError(f"{network.name} does not relax {key}: {end.reason or end.status}")
        found.append(
            Calculation(
                name=f"supercell {key}",
                group=key,
                kind=KIND,
                task="single",
                numbers=end.atoms.numbers,
                positions=end.atoms.positions,
                cell=end.atoms.cell[:],
                oxidation_states=end.atoms.get_array("oxidation_states"),
                level=CHOSEN.model_copy(update={"kpoints": MESHES[repeats]}),
                formula_units=4 * repeats,
                charges=False,
                provenance={"model_energy_ev": end.energy, "model": network.name},
            )
        )
    return found


def _start(key: str) -> tuple[Atoms, int]:
    """Return the distorted start of an arrangement, and how many small cells it has."""
    small = olivine()
    if key == NAME:
        host = sheared_olivine(small)
        return host.build(diagonal_order(host, small), polaron_distortion=DISTORTION), 3
    arrangement = small.parse(key)
    return small.build(arrangement, polaron_distortion=DISTORTION), arrangement.cells


if __name__ == "__main__":
    sys.exit(main())
