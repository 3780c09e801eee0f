"""Small stand-ins of the public files: their names, format and traps, made from embedded frames.

Moments and energies are the embedded ones, moved a little: nothing here is DFT of the public level.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence

import ase.io
import numpy as np
from ase import Atoms
from ase.units import GPa

from workflow_lib.frames.frame import Frame

NA, P, FE, MN, GA = 11, 15, 26, 25, 31
TRAIN = "Training_dataset/train_NaFeGaPSSiO4_adjusted_charge_magmopm.xyz"
VALIDATION = "Training_dataset/validation_NaFeGaPSSiO4_adjusted_charge_magmopm.xyz"
REFERENCE = "Reference_dataset/lowest_and_highest.xyz"
ORDERS = "Electronic_entropy_reference_dataset/orders.xyz"
POLYANION = "polyanion.zip"
MOMENT_SCALE = 1.02
"""From their moments (3.67, 4.30 muB) towards the published ones (3.78, 4.34)."""
STRESS_SCALE = 0.05
"""The stress of these frames is nearly all Pulay stress, 0.1 eV/A^3."""


def published(
    frame: Frame, *, gallium: bool, sign: float = 1.0, stress_unit: float = 1.0, charges: bool = True
) -> Atoms:
    """A frame as the public files write it: ``bader_charge`` may lack or have the other sign."""
    assert frame.magmoms is not None and frame.stress is not None
    numbers = frame.numbers.copy()
    if gallium:
        numbers[(numbers == FE) & (frame.magmoms > 4.0)] = GA
    atoms = Atoms(numbers, positions=frame.positions, cell=frame.cell, pbc=True)
    atoms.info["energy"] = frame.energy
    atoms.info["stress"] = frame.stress * STRESS_SCALE / stress_unit
    assert frame.forces is not None
    atoms.arrays["forces"] = frame.forces
    atoms.arrays["magmoms"] = frame.magmoms * MOMENT_SCALE
    if charges and frame.charges is not None:
        atoms.arrays["bader_charge"] = sign * np.where(numbers == P, 5.0, frame.charges)
    return atoms


def other_metal(frame: Frame) -> Atoms:
    """The same crystal with manganese, its moment and energy invented."""
    atoms = published(frame, gallium=False, stress_unit=GPa)
    metal = atoms.numbers == FE
    atoms.numbers[metal] = MN
    atoms.arrays["magmoms"][metal] += 0.8
    atoms.info["energy"] -= 0.9 * metal.sum()
    return atoms


def extxyz(images: Sequence[Atoms]) -> bytes:
    text = io.StringIO()
    ase.io.write(text, list(images), format="extxyz")
    return text.getvalue().encode()


def entropy_item(frames: Sequence[Frame]) -> dict[str, bytes]:
    """Item 31812499: Fe3+ written as Ga, one frame in six without charges, one frame damaged."""
    train = [published(f, gallium=True, charges=n % 6 > 0) for n, f in enumerate(frames) if n % 7]
    validation = [published(frame, gallium=True, sign=-1.0) for frame in frames[::7]]
    lines = extxyz(train).splitlines(keepends=True)
    # The fifth atom of the second frame loses a column.
    second = 2 + len(train[0])
    lines[second + 6] = lines[second + 6].rsplit(maxsplit=1)[0] + b"\n"
    # Its name is not public. Two frames of one state, moved a little: no other set may hold the state.
    reference = [published(frames[len(frames) // 2], gallium=False) for _ in range(2)]
    for number, atoms in enumerate(reference, 1):
        atoms.positions[0] += 0.02 * number
    return {
        "README.md": b"A stand-in for tests.\n",
        REFERENCE: extxyz(reference[:1]),
        ORDERS: extxyz(reference[1:]),
        TRAIN: b"".join(lines),
        VALIDATION: extxyz(validation),
    }


def polyanion_item(frames: Sequence[Frame]) -> dict[str, bytes]:
    """Item 27202446: other metals, stress in GPa, and frames that the other item holds too."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("NaMnPO4.xyz", extxyz([other_metal(frame) for frame in frames[::3]]))
        same = [published(frame, gallium=False, stress_unit=GPa) for frame in frames[::5]]
        packed.writestr("NaFePO4.xyz", extxyz(same))
    return {POLYANION: archive.getvalue(), "LICENSE.txt": b"A stand-in for tests.\n"}
