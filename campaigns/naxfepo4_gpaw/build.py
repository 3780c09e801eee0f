"""Make the tables of resources/naxfepo4-gpaw from the original extended XYZ and the store of the campaign.

Neither is part of the repository (the original is 0.8 MB, the store some MB of logs); the checksum
of the original is, and this script refuses any other file. Run after ``make venv``:
``.venv/bin/python -m campaigns.naxfepo4_gpaw.build FRAMES.extxyz --store results/dft/store``.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import ase.io

from campaigns.naxfepo4_gpaw.convergence import write_convergence
from campaigns.naxfepo4_gpaw.lattice_constants import lattice_table
from campaigns.naxfepo4_gpaw.same_positions import write_same_positions
from campaigns.naxfepo4_gpaw.states import DATA, ROOT, olivine
from campaigns.naxfepo4_gpaw.supercell import supercell_table
from campaigns.naxfepo4_gpaw.truth import lowest_relaxations, write_truth
from workflow_lib.core.errors import UserError
from workflow_lib.core.io import sha256, write_csv, write_json
from workflow_lib.dft.export import frames_of
from workflow_lib.dft.level import Level
from workflow_lib.dft.store import Record, Store
from workflow_lib.frames.foreign import read_frames, write_frames
from workflow_lib.frames.frame import Frame, with_labels

TABLES = ROOT / "docs" / "dft"
ORIGINAL_SHA256 = "da4bdcc80396e5c407af79e40a8e04f0ee135a77010586bf642bfd1be69bedeb"
LEVEL = Level()
SOURCE, CAMPAIGN = "naxfepo4-gpaw", "naxfepo4-campaign"
ORBITAL = "a"
"""The minority-spin orbital each Fe2+ of the original was steered to."""
TRAINING = ("relaxation", "rattle", "rattle-relaxation", "dynamics")
TESTING = ("same-positions", "orbital", "noise", "supercell", "magnetism")
"""Kinds that models may learn from, and kinds that would contradict those for a charge-blind model,
belong to another state, or are of another effective k-mesh."""
EMPTY, FULL = "1x1x1:Na0000:Fe3333", "1x1x1:Na1111:Fe2222"
LATTICES = {
    EMPTY: {"PBE+U, published": (9.913, 5.914, 4.860)},
    FULL: {
        "PBE+U, published": (10.567, 6.299, 5.018),
        "experiment, Moreau 2010": (10.4063, 6.2187, 4.9469),
    },
}
"""Lattice constants in A. For FePO4 no experimental ones were at hand."""


def original_frames(original: Path) -> list[Frame]:
    """The first data set with names, level and steered orbital; nothing is assigned or dropped."""
    if not original.is_file():
        raise UserError(f"{original} does not exist; give the path of the original frames.extxyz")
    found = sha256(original)
    if found != ORIGINAL_SHA256:
        raise UserError(f"{original} has sha256 {found}, the original has {ORIGINAL_SHA256}")
    steps = [int(atoms.info["step"]) for atoms in ase.io.read(original, index=":")]
    labelled = read_frames(
        original, energy_reference=LEVEL.energy_reference, formula_units=4, stress_unit="eV/A^3"
    )
    return [
        with_labels(
            frame,
            frame_id=f"{frame.group}-{frame.kind}-{step:02d}",
            source=SOURCE,
            orbital=ORBITAL,
            stress_converged=False,
        )
        for frame, step in zip(labelled, steps, strict=True)
    ]


def campaign_frames(records: list[Record]) -> tuple[list[Frame], list[Frame]]:
    """Training and testing frames of the store; states go by the group names of the original."""
    groups = {
        record.calculation.state_key: record.calculation.name.split()[-1]
        for record in records
        if record.calculation.name.startswith("truth ")
    }
    ground = {
        key: record.calculation.orbital
        for key, record in lowest_relaxations(r for r in records if r.calculation.level == LEVEL).items()
    }
    chosen: dict[bool, list[Record]] = {True: [], False: []}
    for record in records:
        calculation = record.calculation
        # Excited orbitals on the same ions would contradict the ground state.
        lowest = calculation.orbital == ground.get(calculation.group, ORBITAL)
        learnable = calculation.level == LEVEL and lowest
        if calculation.kind in TRAINING and learnable and len(calculation) < 40:
            chosen[True].append(record)
        elif calculation.kind in (*TRAINING, *TESTING):
            chosen[False].append(record)
    training, testing = (
        [
            with_labels(frame, group=groups.get(frame.group, frame.group))
            for frame in frames_of(chosen[which], CAMPAIGN)
        ]
        for which in (True, False)
    )
    return training, testing


def main() -> int:
    """Write the frame tables and their provenance here, the tables of the campaign to docs/dft."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("original", type=Path, metavar="FRAMES.extxyz")
    parser.add_argument("--store", type=Path, required=True, metavar="DIR")
    options = parser.parse_args()
    try:
        records = list(Store(options.store).records())
        training, testing = campaign_frames(records)
        frames = original_frames(options.original) + training
        write_frames(frames, DATA / "frames.parquet")
        write_frames(testing, DATA / "frames-testing.parquet")
        write_truth(records, olivine(), LEVEL, TABLES)
        write_same_positions(records, TABLES)
        write_csv(lattice_table(records, LATTICES), TABLES / "lattice.csv")
        write_csv(
            supercell_table(
                [r for r in records if r.calculation.level.cutoff == LEVEL.cutoff], empty=EMPTY, full=FULL
            ),
            TABLES / "supercell.csv",
        )
        write_convergence(records, TABLES, empty=EMPTY, full=FULL, sites=4)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    counts = {
        kind: dict(Counter(f.kind for f in table))
        for kind, table in (("training", frames), ("testing", testing))
    }
    write_json(
        DATA / "provenance.json",
        {
            "original": {"name": "frames.extxyz", "sha256": ORIGINAL_SHA256},
            "tables": {name: sha256(DATA / name) for name in ("frames.parquet", "frames-testing.parquet")},
            "frames": counts,
            "energy_reference": LEVEL.energy_reference,
            "level": LEVEL.model_dump(mode="json"),
            "computed_with": {"gpaw": "26.7.0", "gpaw-data": "1.2.1", "pybader": "0.3.12"},
            "made_by": "campaigns/naxfepo4_gpaw",
            "written_with": {"ase": version("ase"), "pyarrow": version("pyarrow")},
            "stress_converged": False,
        },
    )
    print(f"{len(frames)} training and {len(testing)} testing frames: {counts}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
