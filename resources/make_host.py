"""Make hosts/olivine-nafepo4.json from the end members of the embedded frames.

Takes the last relaxation frame of x = 0 and x = 1, averages the positions over the operations of
Pnma found within 0.1 A, and writes both as fractional coordinates on common sites. Run:
``python resources/make_host.py``.
"""

from pathlib import Path

import numpy as np
import spglib

from workflow_lib.core.io import write_json
from workflow_lib.frames.table import Frame, read_parquet

HERE = Path(__file__).parent


def symmetrised(frame: Frame) -> np.ndarray:
    """Scaled positions [n, 3] averaged over the space group found within 0.1 A."""
    scaled = frame.positions @ np.linalg.inv(frame.cell)
    dataset = spglib.get_symmetry_dataset((frame.cell, scaled, frame.numbers), symprec=0.1)
    assert dataset is not None
    assert dataset.international == "Pnma", dataset.international
    # Pnma with its origin where these cells have it: the translations are exact fractions.
    translations = np.round(dataset.translations * 24) / 24
    total = np.zeros_like(scaled)
    for rotation, translation in zip(dataset.rotations, translations, strict=True):
        image = scaled @ rotation.T + translation
        gap = image[:, None] - scaled[None]
        gap -= np.round(gap)
        cost = np.linalg.norm(gap @ frame.cell, axis=-1)
        cost[frame.numbers[:, None] != frame.numbers[None]] = 99.0
        partner = cost.argmin(axis=1)
        assert sorted(partner) == list(range(len(scaled)))
        total[partner] += scaled[partner] + gap[np.arange(len(scaled)), partner]
    return total / len(dataset.rotations)


def main() -> None:
    """Write the host file."""
    frames = read_parquet(HERE / "naxfepo4-gpaw/frames.parquet")

    def last(group: str) -> Frame:
        return [f for f in frames if f.group == group and f.kind == "relaxation"][-1]

    full, empty = last("x100_s0"), last("x000_s0")
    mobile = full.numbers == 11
    assert np.array_equal(full.numbers[~mobile], empty.numbers)
    scaled_full = symmetrised(full)
    scaled_full[mobile] = np.round(scaled_full[mobile] * 2) / 2  # Na is on the inversion centres
    scaled_empty = scaled_full.copy()
    scaled_empty[~mobile] = symmetrised(empty)
    write_json(
        HERE / "hosts/olivine-nafepo4.json",
        {
            "name": "olivine NaFePO4 (Pnma, 28 atoms)",
            "provenance": "last relaxation frames of x100_s0 and x000_s0 in naxfepo4-gpaw, "
            "symmetrised in Pnma within 0.1 A by resources/make_host.py; cells as in those frames "
            "(PBE+U lattice parameters)",
            "mobile": "Na",
            "redox": "Fe",
            "oxidation_states": [2, 3],
            "formula_units": 4,
            "numbers": full.numbers,
            "cell_full": full.cell,
            "cell_empty": empty.cell,
            "scaled_full": np.round(scaled_full, 8),
            "scaled_empty": np.round(scaled_empty, 8),
        },
    )


if __name__ == "__main__":
    main()
