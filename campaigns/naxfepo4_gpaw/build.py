"""Make the frame tables of the level that stands from the store, whatever it holds by then.

``python -m campaigns.naxfepo4_gpaw.build --store DIR --out DIR`` writes ``frames.parquet`` (to learn
from, stress included), ``frames-lithium.parquet`` (LixFePO4), ``frames-cathodes.parquet`` (other cathodes),
``frames-testing.parquet`` (other orbitals, noise, charge orders on identical atoms) and ``provenance.json``
with checksums and counts.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path

from campaigns.naxfepo4_gpaw.level_parts import CHOSEN
from campaigns.naxfepo4_gpaw.truth import LITHIUM, lithium_relaxations, lowest_relaxations, same_orbitals
from workflow_lib.core.errors import UserError
from workflow_lib.core.io import sha256, write_json
from workflow_lib.dft.export import frames_of
from workflow_lib.dft.store import Record, Store
from workflow_lib.frames.foreign import write_frames
from workflow_lib.frames.frame import Frame, with_labels
from workflow_lib.lattice.arrangement import StateKey

SOURCE = "naxfepo4-gpaw"
TRAINING = ("relaxation", "level", "rattle", "path", LITHIUM)
TESTING = ("same-positions", "orbital", "noise")
"""Kinds that would contradict the others for a charge-blind model, or repeat them."""
LI = 3
KEY_MARK = "1x1x1:"
"""In the group of every frame of the host, with Na or Li: the key of its state."""
LEARNT, TESTS, WITH_LITHIUM = "frames.parquet", "frames-testing.parquet", "frames-lithium.parquet"
CATHODES = "frames-cathodes.parquet"
"""Apart, so that models with and without labels learn from the same frames unless a run asks otherwise."""
TABLES = (LEARNT, TESTS, WITH_LITHIUM, CATHODES)


def chosen_frames(records: Iterable[Record]) -> dict[str, list[Frame]]:
    """Return the frames of each table, all at the chosen level and in the charge state that was asked for.

    Of a state only the orbital of its lowest relaxation is learnt from; its other frames test.
    """
    at_level = [record for record in records if record.calculation.level == CHOSEN and record.frames]
    # Of two relaxations of a state the lower one comes last, so that the last frame is its lowest.
    at_level.sort(key=lambda r: (r.calculation.group, r.calculation.kind, -r.frames[-1]["energy"]))
    lowest = {**lowest_relaxations(at_level), **lithium_relaxations(at_level)}
    chosen: dict[str, list[Record]] = {name: [] for name in TABLES}
    for record in at_level:
        calculation = record.calculation
        if calculation.unsteered or calculation.kind not in (*TRAINING, *TESTING):
            continue  # metals, and what only tests the level
        if KEY_MARK not in calculation.group:
            chosen[CATHODES].append(record)
            continue
        ground = lowest.get(calculation.group)
        if calculation.kind == "orbital" and ground and same_orbitals(record.frames[-1], ground.frames[-1]):
            continue  # the seed turned into the ground orbital: a copy of a frame that is learnt from
        if calculation.kind in TESTING or (ground and calculation.orbital != ground.calculation.orbital):
            chosen[TESTS].append(record)
        else:
            chosen[WITH_LITHIUM if LI in calculation.numbers else LEARNT].append(record)
    names = state_names(record.calculation.group for record in at_level)
    numbers: Counter[tuple[str, str]] = Counter()
    return {name: _named(frames_of(own, SOURCE), names, numbers) for name, own in chosen.items()}


def state_names(groups: Iterable[str]) -> dict[str, str]:
    """Short names of arrangements of the small cell: ``x050_s8`` for ``1x1x1:Na1001:Fe2323``.

    Numbered at each composition by their ions (first sites first), then by their charges.
    """
    names: dict[str, str] = {}
    by_composition: dict[int, list[StateKey]] = {}
    for group in set(groups):
        if group.startswith(KEY_MARK):
            key = StateKey.parse(group)
            by_composition.setdefault(key.ions.count("1"), []).append(key)
    for ions, keys in by_composition.items():
        keys.sort(key=lambda key: ([-int(site) for site in key.ions], key.states))
        names |= {str(key): f"x{100 * ions // 4:03d}_s{rank}" for rank, key in enumerate(keys)}
    return names


def _named(frames: list[Frame], names: Mapping[str, str], numbers: Counter[tuple[str, str]]) -> list[Frame]:
    """Frames with the short name of their state as group, numbered by group and kind over all tables."""
    renamed = []
    for frame in frames:
        known = next((key for key in names if frame.group.endswith(key)), None)
        group = frame.group if known is None else frame.group.replace(known, names[known])
        frame_id = f"{group}-{frame.kind}-{numbers[group, frame.kind]:02d}"
        numbers[group, frame.kind] += 1
        renamed.append(with_labels(frame, group=group, frame_id=frame_id))
    return renamed


def main() -> int:
    """Write the tables that have frames, and their provenance."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path, required=True, metavar="DIR")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    options = parser.parse_args()
    try:
        tables = {
            name: frames for name, frames in chosen_frames(Store(options.store).records()).items() if frames
        }
        for name, frames in tables.items():
            write_frames(frames, options.out / name)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    counts = {name: dict(Counter(frame.kind for frame in frames)) for name, frames in tables.items()}
    write_json(
        options.out / "provenance.json",
        {
            "tables": {name: sha256(options.out / name) for name in tables},
            "frames": counts,
            "energy_reference": CHOSEN.energy_reference,
            "level": CHOSEN.model_dump(mode="json"),
            "computed_with": {"gpaw": "26.7.0", "gpaw-data": "1.2.1", "pybader": "0.3.12"},
            "made_by": "campaigns/naxfepo4_gpaw/build.py",
            "written_with": {"pyarrow": version("pyarrow")},
            "stress_converged": True,
        },
    )
    for name, kinds in counts.items():
        print(f"{name}: {sum(kinds.values())} frames, {kinds}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
