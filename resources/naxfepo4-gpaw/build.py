"""Make frames.parquet and provenance.json from the original extended XYZ.

The original (0.8 MB) is not part of the repository; its checksum is, and this script refuses any
other file. Run after ``make venv``:
``.venv/bin/python resources/naxfepo4-gpaw/build.py FRAMES.extxyz``.
"""

from __future__ import annotations

import argparse
import sys
from importlib.metadata import version
from pathlib import Path

import ase.io

from workflow_lib.errors import UserError
from workflow_lib.foreign import read_frames, write_frames
from workflow_lib.frames import Frame, with_labels
from workflow_lib.io import sha256, write_json

HERE = Path(__file__).parent
ORIGINAL_SHA256 = "da4bdcc80396e5c407af79e40a8e04f0ee135a77010586bf642bfd1be69bedeb"
ENERGY_REFERENCE = "GPAW/PBE+U(Fe 5.3)/PW500/Gamma"
SOURCE = "naxfepo4-gpaw"
ORBITAL = "a"
"""The minority-spin orbital each Fe2+ was steered to; all energies of this set belong to it."""


def build(original: Path) -> list[Frame]:
    """The frames with names, level and steered orbital; nothing is assigned or dropped here."""
    if not original.is_file():
        raise UserError(f"{original} does not exist; give the path of the original frames.extxyz")
    found = sha256(original)
    if found != ORIGINAL_SHA256:
        raise UserError(f"{original} has sha256 {found}, the original has {ORIGINAL_SHA256}")
    steps = [int(atoms.info["step"]) for atoms in ase.io.read(original, index=":")]
    labelled = read_frames(
        original, energy_reference=ENERGY_REFERENCE, formula_units=4, stress_unit="eV/A^3"
    )
    frames = []
    for frame, step in zip(labelled, steps, strict=True):
        frames.append(
            with_labels(
                frame,
                frame_id=f"{frame.group}-{frame.kind}-{step:02d}",
                source=SOURCE,
                orbital=ORBITAL,
                stress_converged=False,
            )
        )
    return frames


def main() -> int:
    """Write both files beside this script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("original", type=Path, metavar="FRAMES.extxyz")
    try:
        frames = build(parser.parse_args().original)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    write_frames(frames, HERE / "frames.parquet")
    write_json(
        HERE / "provenance.json",
        {
            "original": {"name": "frames.extxyz", "sha256": ORIGINAL_SHA256},
            "frames": {"name": "frames.parquet", "sha256": sha256(HERE / "frames.parquet")},
            "frame_count": len(frames),
            "group_count": len({frame.group for frame in frames}),
            "energy_reference": ENERGY_REFERENCE,
            "computed_with": {"gpaw": "26.7", "gpaw-data": "1.2.1", "bader": "pybader"},
            "made_by": "resources/naxfepo4-gpaw/build.py",
            "written_with": {"ase": version("ase"), "pyarrow": version("pyarrow")},
            "stress_converged": False,
        },
    )
    print(f"{len(frames)} frames written to {HERE / 'frames.parquet'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
