"""Relaxations of arrangements, each done once per model and shared by all stages.

Use in a stage::

    cache = RelaxationCache(folder, model_identity(model))
    relaxations = relax_arrangements(
        model, host, arrangements, polaron_distortion=0.06, stop=Stop(fmax=0.05, max_steps=150),
        batch_size=16, cache=cache,
    )

:func:`relax_arrangements` reduces arrangements to their symmetry-canonical form, so equivalent ones
share one relaxation. A model that is blind to charge states relaxes an undistorted start once for
all charge orders on the same ions.

The store is one SQLite file per model. All relaxations of a batch are stored in one transaction:
after kill -9 a batch is stored completely or not at all, so a rerun forms the same remaining
batches. This matters because the last digits of float32 sums depend on the other structures in a
batch; with complete batches a rerun ends with the same numbers as an uninterrupted run.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from workflow_lib.core.code import SIMULATING, code_checksum, packages_checksum
from workflow_lib.core.elements import SYMBOLS
from workflow_lib.core.errors import UserError
from workflow_lib.core.io import digest_of, to_json
from workflow_lib.core.kept import Kept
from workflow_lib.core.progress import Progress
from workflow_lib.core.strict import parse_json
from workflow_lib.lattice.redox import LABELS

if TYPE_CHECKING:
    from ase import Atoms

    from workflow_lib.lattice.arrangement import Arrangement
    from workflow_lib.lattice.host import Host
    from workflow_lib.models.predictor import Predictor
    from workflow_lib.simulation.relaxation import Relaxation, Snapshot
    from workflow_lib.simulation.settings import Stop

CLOSEST = 0.7
"""Shortest distance of two elements relative to that at the start, below which ions have fallen into one
another. In 424 relaxations of NaxFePO4 by eleven models two were below 0.78: O2 in a hole of a network that
left its data, 1.1 eV per formula unit below all else."""
NEAR = 4.0
"""A, within which distances are compared."""
WATCHED = 10
"""Steps of a relaxation between two reports of its progress."""


def model_identity(model: Predictor) -> str:
    """Return a hash of everything that decides a model's relaxations: the model, the code, the packages.

    The code is that of the model's adapter, of relaxation and of the starts, with all that they import:
    after a change of the optimiser nothing is answered from what the old one made, and a change of
    anything else empties no cache. Raises ValueError for a model that was never saved.
    """
    code = code_checksum("workflow_lib.simulation.cache", "workflow_lib.lattice.host")
    return digest_of([model.identity, code, packages_checksum(*SIMULATING)])


def host_identity(host: Host) -> str:
    """Return a short hash of a host's sites and cells; another host gives other starting structures."""
    sites = [host.numbers, host.cell_full, host.cell_empty, host.scaled_full, host.scaled_empty]
    return digest_of(sites)[:12]


def relaxation_key(host: Host, state_key: str, *, polaron_distortion: float, stop: Stop) -> str:
    """Return the name of a relaxation: the canonical arrangement, its start and its stopping criteria.

    ``polaron_distortion`` is the amplitude of the distorted start in A (0: undistorted), which moves the
    anions that the host's formal charges name.
    """
    start = f"polaron_distortion={polaron_distortion:.6g}"
    if polaron_distortion:
        start += f" of {digest_of([host.shells.anions, host.shells.sizes])[:8]}"
    return f"{host_identity(host)}|{state_key}|{start}|{stop}"


class RelaxationCache:
    """Finished relaxations of one model, kept in ``folder/<model_id_hash>.sqlite``.

    ``model_id_hash`` is :func:`model_identity`. Several processes may share the file; the first
    result stored under a key stays. A damaged file raises UserError naming it.
    """

    def __init__(self, folder: str | Path, model_id_hash: str) -> None:
        self._kept = Kept(Path(folder) / f"{model_id_hash[:32]}.sqlite", "relaxations")
        self.path = self._kept.path

    def get(self, key: str) -> Relaxation | None:
        """Return the relaxation stored under ``key``, or None."""
        return self.get_many([key]).get(key)

    def get_many(self, keys: Iterable[str]) -> dict[str, Relaxation]:
        """Return those of ``keys`` that are stored."""
        return {key: _from_text(value.decode()) for key, value in self._kept.get_many(keys).items()}

    def put_many(self, relaxations: Mapping[str, Relaxation]) -> None:
        """Store several relaxations, all or none; those already stored are kept."""
        self._kept.put_many({key: _to_text(value).encode() for key, value in relaxations.items()})

    def __len__(self) -> int:
        return len(self._kept)


def _to_text(relaxation: Relaxation) -> str:
    """Return the relaxation as JSON; Python writes floats so that they are read back bit for bit."""
    atoms = relaxation.atoms
    value = {
        "numbers": atoms.numbers,
        "positions": atoms.positions,
        "cell": atoms.cell[:],
        "energy": relaxation.energy,
        "fmax": relaxation.fmax,
        "steps": relaxation.steps,
        "status": relaxation.status,
        "smax": relaxation.smax,
        "reason": relaxation.reason,
    }
    if atoms.has(LABELS):
        value[LABELS] = atoms.arrays[LABELS]
    return to_json(value)


def _from_text(text: str) -> Relaxation:
    from ase import Atoms

    from workflow_lib.simulation.relaxation import Relaxation

    def number(item: float | None) -> float:
        return float("nan") if item is None else item

    value = parse_json(text)
    # null (diverged) becomes NaN
    positions, cell = (np.array(value[name], dtype=float) for name in ("positions", "cell"))
    atoms = Atoms(value["numbers"], positions=positions, cell=cell, pbc=True)
    if LABELS in value:
        atoms.set_array(LABELS, np.array(value[LABELS], dtype=np.int64))
    return Relaxation(
        atoms=atoms,
        energy=number(value["energy"]),
        fmax=number(value["fmax"]),
        steps=value["steps"],
        status=value["status"],
        smax=None if value["smax"] is None else number(value["smax"]),
        reason=value["reason"],
    )


def _still_host(start: Atoms, result: Relaxation) -> Relaxation:
    """Return the relaxation, diverged if the ions of two elements fell into one another."""
    if result.status == "diverged":
        return result
    before, after = shortest_pairs(start), shortest_pairs(result.atoms)
    worst = min(before, key=lambda pair: after.get(pair, np.inf) / before[pair], default=None)
    if worst is None or after.get(worst, np.inf) >= CLOSEST * before[worst]:
        return result
    names = " and ".join(SYMBOLS[z] for z in worst)
    reason = f"{names} came as close as {after[worst]:.2f} A, {before[worst]:.2f} at the start"
    return replace(result, status="diverged", reason=reason)


def moved(host: Host, asked: Arrangement, relaxation: Relaxation) -> bool:
    """Return whether a relaxation has ended as something else than the arrangement ``asked`` of it.

    That is so where an atom, or the whole framework, has left its sites, or where ions have moved to others
    and the result is no equivalent of what was asked for, with the charge states that the atoms carry. Its
    energy belongs to what it became. One that diverged has no energy and is not looked at.
    """
    if relaxation.status == "diverged":
        return False
    labels = relaxation.atoms.arrays.get(LABELS)
    try:
        became = host.locate(relaxation.atoms, labels)
    except UserError:
        return True
    return host.key(became) != host.key(asked if labels is not None else asked.without_charges())


def shortest_pairs(atoms: Atoms) -> dict[tuple[int, int], float]:
    """Return the shortest distance (A) of each pair of atomic numbers, of pairs within :data:`NEAR`."""
    from matscipy.neighbours import neighbour_list

    first, second, distance = neighbour_list("ijd", atoms, NEAR)
    found: dict[tuple[int, int], float] = {}
    for one, other in itertools.combinations_with_replacement(sorted(set(atoms.numbers.tolist())), 2):
        chosen = distance[(atoms.numbers[first] == one) & (atoms.numbers[second] == other)]
        if len(chosen):
            found[one, other] = float(chosen.min())
    return found


def relax_arrangements(
    model: Predictor,
    host: Host,
    arrangements: Sequence[Arrangement],
    *,
    polaron_distortion: float,
    stop: Stop,
    batch_size: int,
    cache: RelaxationCache,
    progress: str | None = None,
) -> list[Relaxation]:
    """Relax arrangements from their Vegard cells and return the results in order; reuse the cache.

    Starts are ``host.build(canonical, polaron_distortion=...)`` (A). A relaxation that ends in another
    structure than the host's has diverged too (:data:`CLOSEST`); whether another still is its arrangement,
    :func:`moved` tells. One that diverges is named on stderr with the reason. For a model that does not
    see charge states an undistorted start is stripped of them, so that all charge orders on the same ions
    share one relaxation. ``progress`` labels the messages on stderr about long work: relaxations done, and
    the state of those running. Every result is the stored one, even if another process stored it first.
    """
    from workflow_lib.simulation.relaxation import relax

    keys: list[str] = []
    todo: dict[str, Arrangement] = {}
    for arrangement in arrangements:
        blind = not model.charge_labelled and polaron_distortion == 0
        canonical = host.canonical(arrangement.without_charges() if blind else arrangement)
        key = relaxation_key(host, host.key(canonical), polaron_distortion=polaron_distortion, stop=stop)
        keys.append(key)
        todo.setdefault(key, canonical)
    found = cache.get_many(todo)
    missing = [key for key in todo if key not in found]
    chunks = [missing[start : start + batch_size] for start in range(0, len(missing), batch_size)]
    with contextlib.ExitStack() as stack:
        shown = None
        if progress is not None and missing:
            shown = stack.enter_context(Progress(progress, len(missing), "relaxation", announce=False))
        for number, chunk in enumerate(chunks):
            starts = [host.build(todo[key], polaron_distortion=polaron_distortion) for key in chunk]
            results = relax(
                model,
                starts,
                **stop.options(),
                batch_size=batch_size,
                record=_Watch(shown, number * batch_size, stop.max_steps) if shown else None,
                record_every=WATCHED,
            )
            results = [_still_host(*pair) for pair in zip(starts, results, strict=True)]
            for key, result in zip(chunk, results, strict=True):
                if result.status == "diverged":
                    name = host.key(todo[key])
                    print(f"{name} diverged after {result.steps} steps: {result.reason}", file=sys.stderr)
            cache.put_many(dict(zip(chunk, results, strict=True)))
            found |= cache.get_many(chunk)
            if shown:
                shown.show(number * batch_size + len(chunk))
    return [found[key] for key in keys]


class _Watch:
    """Sees every tenth step of a batch and reports the progress of its relaxations."""

    def __init__(self, shown: Progress, done: int, max_steps: int) -> None:
        self._shown, self._done, self._max_steps = shown, done, max_steps
        self._forces: dict[int, float] = {}

    def __call__(self, index: int, step: int, snapshot: Snapshot) -> None:
        self._forces[index] = snapshot.fmax
        worst = max(self._forces.values())
        self._shown.show(
            self._done,
            f"{len(self._forces)} at once, step {step} of at most {self._max_steps}, largest force "
            f"{worst:.3g} eV/A",
        )
