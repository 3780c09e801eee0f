"""The cleaning rules of the CHGNet paper (Deng et al. 2023, Methods A) as an optional filter.

What carries over from task documents to a frame table: frames need forces (rule 2), energies lie
between 10 meV/atom below and 1 eV/atom above the relaxed structure of their material, the lowest one
of several relaxations (rule 3), and
near-duplicates of one material go (rule 4), found by pymatgen's StructureMatcher and an energy matcher
that both become more stringent as more frames of the material are kept. The paper gives no tolerances
for rule 4: those of :class:`CleanSettings` are ours. Rule 1 (equal calculation settings) is what the
dataset stage enforces anyway: one energy reference. Frames for testing obey rule 4 alone, and among
duplicates one of them stays: they mark their state as one that never trains.

StructureMatcher alone compares every pair. Here only pairs of equal composition are, whose energies and
whose radial fingerprints are close, which a k-d tree finds; and each cell is reduced once, not once a
pair. docs/speed.md has the times.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from workflow_lib.frames.frame import RELAXATION, TESTING, Frame
from workflow_lib.frames.subset import reduced_composition
from workflow_lib.stages.dataset.settings import CleanSettings

if TYPE_CHECKING:
    from pymatgen.core import Structure

Material = tuple[str, tuple[tuple[int, int], ...]]
REACH = 5.0  # A
SHELLS = np.linspace(1.0, REACH, 24)
BLUR = 0.15  # A
RULES = ("no forces", "above the energy window", "below the relaxed structure", "duplicate")


def fingerprint(frame: Frame) -> np.ndarray:
    """Return the blurred radial distribution, one row per element pair, as a flat vector.

    It does not depend on the order of atoms or the choice of cell. Distances reach 5 A, weighted so
    that vectors of equal composition can be compared by their norm.
    """
    from matscipy.neighbours import neighbour_list

    first, second, distance = neighbour_list(
        "ijd", cutoff=REACH, positions=frame.positions, cell=frame.cell, pbc=np.ones(3, dtype=bool)
    )
    elements = np.unique(frame.numbers)
    kind = np.searchsorted(elements, frame.numbers)
    a, b = np.sort([kind[first], kind[second]], axis=0)
    rows = np.zeros((len(elements) ** 2, len(SHELLS)))
    pair = a * len(elements) + b
    order = np.argsort(pair, kind="stable")
    found, starts = np.unique(pair[order], return_index=True)
    distance = distance[order, None]
    weight = np.exp(-(((distance - SHELLS) / BLUR) ** 2) / 2) / distance**2
    if len(found):  # otherwise every atom is alone within REACH
        rows[found] = np.add.reduceat(weight, starts)
    upper = np.ravel_multi_index(np.triu_indices(len(elements)), (len(elements),) * 2)
    return (rows[upper] / len(frame)).ravel()


def _structure(frame: Frame) -> Structure:
    """Return the frame for the matcher, its cell reduced; each charge state of an element is a species."""
    from pymatgen.core import Lattice, Species, Structure

    from workflow_lib.core.elements import SYMBOLS

    states = np.zeros(len(frame), int) if frame.oxidation_states is None else frame.oxidation_states
    order = np.lexsort((states, frame.numbers))  # the matcher compares runs of equal species
    kinds = {
        (z, q): Species(SYMBOLS[z], q) for z, q in zip(frame.numbers.tolist(), states.tolist(), strict=True)
    }
    species = [kinds[int(frame.numbers[i]), int(states[i])] for i in order]
    whole = Structure(Lattice(frame.cell), species, frame.positions[order], coords_are_cartesian=True)
    return whole.get_reduced_structure()


def _material(frame: Frame) -> Material:
    """Return group and reduced composition of a frame; only within these are energies per atom compared."""
    return frame.group, reduced_composition(frame.numbers)


def _energy_rules(frames: Sequence[Frame], settings: CleanSettings) -> dict[int, str]:
    """Apply the rules on forces and energies, relative to the lowest relaxation end of each material."""
    removed: dict[int, str] = {}
    ends: dict[Material, dict[str, float]] = defaultdict(dict)
    lowest: dict[Material, float] = {}
    materials = [_material(frame) for frame in frames]
    for frame, material in zip(frames, materials, strict=True):
        energy = frame.energy / len(frame)
        lowest[material] = min(lowest.get(material, np.inf), energy)
        if frame.kind != RELAXATION:
            continue
        paths = ends[material]
        if frame.path is not None:
            paths[frame.path] = energy  # the last of the path
        else:  # the calculation it ends is unknown, but the lowest frame certainly ends one
            paths[""] = min(paths.get("", np.inf), energy)
    relaxed = lowest | {material: min(paths.values()) for material, paths in ends.items()}
    for index, (frame, material) in enumerate(zip(frames, materials, strict=True)):
        if frame.kind == TESTING:
            continue
        above = frame.energy / len(frame) - relaxed[material]
        if frame.forces is None:
            removed[index] = f"{RULES[0]}"
        elif above > settings.above:
            removed[index] = f"{RULES[1]}: {above:.3f} eV/atom above the relaxed structure"
        elif above < -settings.below:
            removed[index] = f"{RULES[2]}: {-above:.3f} eV/atom below it"
    return removed


def _candidates(
    frames: Sequence[Frame], members: list[int], settings: CleanSettings
) -> dict[int, list[int]]:
    """Return, for each frame, those before it in ``members`` that may be duplicates.

    They have the same composition and magnetic order, and similar energy and fingerprint.
    """
    from scipy.spatial import cKDTree

    near: dict[int, list[int]] = defaultdict(list)
    alike: dict[tuple[bytes, str | None], list[int]] = defaultdict(list)
    for index in members:
        frame = frames[index]
        alike[np.sort(frame.numbers).tobytes(), frame.magnetic_order].append(index)
    for group in alike.values():
        energies = np.array([frames[i].energy / len(frames[i]) for i in group]) / settings.energy_tolerance
        prints = np.array([fingerprint(frames[i]) for i in group])
        # A site tolerance s moves distances by about s times the free length per atom: one unit.
        scale = settings.site_tolerance * np.linalg.norm(prints, axis=1).mean()
        points = np.column_stack([energies, prints / scale])
        for i, j in cKDTree(points).query_pairs(np.sqrt(2.0)):
            near[group[max(i, j)]].append(group[min(i, j)])
    return near


def _duplicates(frames: Sequence[Frame], members: list[int], settings: CleanSettings) -> dict[int, str]:
    """Return the duplicates in one material: frames that match one that is kept.

    Kept are frames for testing before others, and lower ones before higher ones.
    """
    from pymatgen.analysis.structure_matcher import StructureMatcher

    def rank(index: int) -> tuple[bool, float, int]:
        frame = frames[index]
        return frame.kind != TESTING, frame.energy / len(frame), index

    members = sorted(members, key=rank)
    near = _candidates(frames, members, settings)
    structures: dict[int, Structure] = {}
    removed: dict[int, str] = {}
    kept = 0
    for index in members:
        stringency = 1 / (1 + kept / settings.crowd)
        matcher = StructureMatcher(
            stol=settings.site_tolerance * stringency, primitive_cell=False, scale=False
        )
        for other in sorted(near.get(index, ())):
            step = abs(frames[index].energy - frames[other].energy) / len(frames[index])
            if other in removed or step > settings.energy_tolerance * stringency:
                continue
            for i in (index, other):
                if i not in structures:
                    structures[i] = _structure(frames[i])
            if matcher.fit(structures[index], structures[other], skip_structure_reduction=True):
                removed[index] = f"{RULES[3]} of {frames[other].frame_id}"
                break
        else:
            kept += 1
    return removed


def clean(frames: Sequence[Frame], settings: CleanSettings) -> dict[int, str]:
    """Return the frames that the rules remove: place in ``frames`` -> rule and detail.

    Deterministic: of duplicates a frame for testing is kept, if there is one, then the lowest frame, of
    equal ones the first. Materials (``group``) are cleaned one at a time.
    """
    from tqdm import tqdm

    removed = _energy_rules(frames, settings)
    materials: dict[str, list[int]] = defaultdict(list)
    for index, frame in enumerate(frames):
        if index not in removed:
            materials[frame.group].append(index)
    for members in tqdm(materials.values(), desc="duplicates", unit="material", leave=False, disable=None):
        removed |= _duplicates(frames, members, settings)
    return dict(sorted(removed.items()))
