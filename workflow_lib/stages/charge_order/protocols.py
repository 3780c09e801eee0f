"""The three protocols of the charge-order stage: a model's input, and the table of its results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from workflow_lib.core.errors import UserError
from workflow_lib.frames.splits import Role, Splits
from workflow_lib.lattice.formation import formation_mev_fu
from workflow_lib.lattice.orientation import smallest_keys
from workflow_lib.lattice.polaron import bond_gap
from workflow_lib.lattice.redox import LABELS, RedoxRule
from workflow_lib.results_schema import DIVERGED, MOVED, TABLES, WITHOUT_ENERGY, Protocol

if TYPE_CHECKING:
    from ase import Atoms

    from workflow_lib.lattice.arrangement import Arrangement
    from workflow_lib.lattice.host import Host
    from workflow_lib.models.predictor import Predictor
    from workflow_lib.simulation.cache import RelaxationCache
    from workflow_lib.simulation.relaxation import Relaxation
    from workflow_lib.simulation.settings import Stop

SINGLE_POINT = "single-point"


def state_roles(splits: Splits, fold: int | None, states: pd.DataFrame, host: Host) -> list[Role]:
    """Return what a model of one fold knows each state as: train, validation, test or none.

    ``states`` has ``state_key`` and ``frame_id``. A state in a supercell that repeats a smaller cell is
    known as that of the smallest one; test is one of which the model has seen no frame. For a potential
    that was not trained on these frames (no fold) every state is in no set. Raises UserError for a fold
    that the splits do not hold.
    """
    if fold is None:
        return ["none"] * len(states)
    chosen = splits.fold(fold)
    smallest = smallest_keys(states["state_key"], host)
    return list(map(chosen.role, states["state_key"].map(smallest), states["frame_id"]))


def arrangement_of(host: Host, atoms: Atoms) -> Arrangement:
    """Return the canonical arrangement of a reference structure with its charge states."""
    return host.canonical(host.locate(atoms, atoms.arrays[LABELS]))


def single_points(
    model: Predictor, structures: Sequence[Atoms], batch_size: int
) -> tuple[pd.DataFrame, list[Atoms]]:
    """Return energies (eV) and largest forces (eV/A) at the DFT geometries: protocol (a)."""
    rows = []
    for item in model.predict(structures, batch_size=batch_size):
        fmax = float(np.linalg.norm(item.forces, axis=1).max())
        finite = bool(np.isfinite([item.energy, fmax]).all())
        status = SINGLE_POINT if finite else DIVERGED
        rows.append({"status": status, "steps": 0, "fmax_ev_a": fmax, "energy_ev": item.energy})
    return pd.DataFrame(rows), [atoms.copy() for atoms in structures]


def relaxed_states(
    model: Predictor,
    host: Host,
    arrangements: Sequence[Arrangement],
    *,
    polaron_distortion: float,
    stop: Stop,
    batch_size: int,
    cache: RelaxationCache,
    progress: str | None,
) -> tuple[pd.DataFrame, list[Atoms]]:
    """Relax from starts distorted by ``polaron_distortion`` A and return the ends: protocols (b) and (c).

    Structures are returned labelled with the wanted charge states, even if a charge-blind model
    relaxed one structure for all orders on it. The status of one that ended as another arrangement is
    moved.
    """
    from workflow_lib.simulation.cache import moved, relax_arrangements

    relaxations: list[Relaxation] = relax_arrangements(
        model,
        host,
        arrangements,
        polaron_distortion=polaron_distortion,
        stop=stop,
        batch_size=batch_size,
        cache=cache,
        progress=progress,
    )
    rows, ends = [], []
    for arrangement, item in zip(arrangements, relaxations, strict=True):
        status = MOVED if moved(host, arrangement, item) else item.status
        rows.append(
            {"status": status, "steps": item.steps, "fmax_ev_a": item.fmax, "energy_ev": item.energy}
        )
        atoms = item.atoms.copy()
        # The canonical ions of an arrangement are the same with and without its charge states, so
        # the labels of the wanted order fit the atoms of the shared relaxation.
        atoms.set_array(LABELS, host.build(arrangement).arrays[LABELS])
        ends.append(atoms)
    return pd.DataFrame(rows), ends


def orders_shown(
    model: Predictor, host: Host, structures: Sequence[Atoms], batch_size: int
) -> list[dict[str, Any]]:
    """Return the charge order that the predicted moments of each structure show.

    Each has ``order``, ``realised_key`` and ``moment_gap_mub`` (None if the model predicts no
    moments).
    """
    empty = {"order": None, "realised_key": None, "moment_gap_mub": None}
    predictions = model.predict(structures, batch_size=batch_size) if structures else []
    rule, level = host.rule, str(model.level)
    return [
        empty if item.magmoms is None else _order(atoms, item.magmoms, host, rule, level)
        for atoms, item in zip(structures, predictions, strict=True)
    ]


def _order(atoms: Atoms, magmoms: np.ndarray, host: Host, rule: RedoxRule, level: str) -> dict[str, Any]:
    wanted = atoms.arrays[LABELS]
    moments = np.abs(magmoms)
    low, high = moments[wanted == rule.low], moments[wanted == rule.high]
    gap = round(float(high.mean() - low.mean()), 6) + 0.0 if len(low) and len(high) else None
    row: dict[str, Any] = {"order": "ambiguous", "realised_key": None, "moment_gap_mub": gap}
    states, _ = rule.assign(atoms.numbers, magmoms, level)
    if states is None:
        return row
    try:
        row["realised_key"] = host.key(host.locate(atoms, states))
    except UserError:
        return row | {"order": "off-site"}
    # The sites themselves are compared, not the key: an equivalent order elsewhere is another order.
    return row | {"order": "kept" if np.array_equal(states, wanted) else "changed"}


def protocol_table(
    owner: Mapping[str, Any],
    protocol: Protocol,
    answers: pd.DataFrame,
    structures: Sequence[Atoms],
    *,
    reference: pd.DataFrame,
    roles: Sequence[str],
    host: Host,
    orders: Sequence[Mapping[str, Any]] | None,
    level: str,
) -> pd.DataFrame:
    """Return one row per state, see ``charge_order/states`` of ``results_schema``.

    ``owner``: the columns of the model. Formation energies are relative to its own end members; ``level``
    is that of its energies, which may differ from the reference's. ``answers`` rows, ``structures``,
    ``roles`` and ``orders`` follow the rows of ``reference``. The energy of a relaxation that diverged or
    moved is written as missing; if an end member is missing, so is every formation energy.
    """
    table = reference[["state_key", "ion_key", "x", "group", "degeneracy", "formula_units"]].copy()
    table["protocol"], table["level"] = protocol, level
    table = table.assign(**owner)
    table["role"] = list(roles)
    table["seen"] = [role in ("train", "validation") for role in roles]
    for name in ("status", "steps", "fmax_ev_a", "energy_ev"):
        table[name] = answers[name].to_numpy()
    table.loc[table["status"].isin(WITHOUT_ENERGY), "energy_ev"] = np.nan
    table.loc[table["status"] == DIVERGED, "fmax_ev_a"] = np.nan
    table["dft_energy_ev"] = reference["energy_ev"]
    table["dft_formation_mev_fu"] = reference["formation_mev_fu"]
    table["dft_fmax_ev_a"] = reference["fmax_ev_a"]
    table["dft_bond_gap_a"] = reference["bond_gap_a"]
    table["volume_a3"] = [atoms.get_volume() for atoms in structures]
    table["formation_mev_fu"] = formation_mev_fu(table["energy_ev"], table["formula_units"], table["x"])
    table["bond_gap_a"] = [bond_gap(atoms, host, atoms.arrays[LABELS]) for atoms in structures]
    for name in ("order", "realised_key", "moment_gap_mub"):
        table[name] = None if orders is None else [row[name] for row in orders]
    return table[list(TABLES["charge_order/states"].columns)]
