"""Read the tables of the charge-order stage and the search into one table of structures and energies.

Columns of that table: ``id`` (trained model, or ``dft``), ``model``, ``family``, ``variant``, ``fold``,
``seed``, ``protocol`` (reference, larger, distorted, search), ``method``, ``cell``, ``state_key``, ``x``,
``filled`` and ``sites`` (mobile sites of the cell), ``energy_ev`` (of the cell), ``degeneracy``, ``seen``,
``status``, ``fmax_ev_a``, ``level`` of theory of the energy.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from workflow_lib.core.errors import UserError
from workflow_lib.lattice.arrangement import StateKey
from workflow_lib.lattice.formation import MEV, end_energies
from workflow_lib.models.identity import EWALD, ModelId
from workflow_lib.results_reading import read_table
from workflow_lib.results_schema import (
    CONVERGED,
    DFT,
    HEADLINE,
    LARGER,
    MODEL,
    REFERENCE,
    SEARCH,
    UNCONVERGED,
    WITHOUT_ENERGY,
)

COLUMNS = (
    *MODEL,
    "protocol",
    "method",
    "cell",
    "state_key",
    "x",
    "filled",
    "sites",
    "energy_ev",
    "degeneracy",
    "seen",
    "status",
    "fmax_ev_a",
    "level",
)


def _complete(table: pd.DataFrame, name: str, protocol: str, where: Path) -> pd.DataFrame:
    """Add identity and occupation columns; raise UserError if x and key disagree."""
    model, variant, fold, seed = (name, "", None, None) if name in (DFT, EWALD) else ModelId.parse(name)
    known = [StateKey.parse(key) for key in table["state_key"]]
    table = table.assign(
        id=name,
        model=model,
        variant=variant,
        fold=fold,
        seed=seed,
        protocol=protocol,
        cell=[item.cell for item in known],
        filled=[item.filled for item in known],
        sites=[item.sites for item in known],
    )
    wrong = np.flatnonzero(np.abs(table["filled"] / table["sites"] - table["x"]) > 1e-6)
    if len(wrong):
        row = table.iloc[int(wrong[0])]
        raise UserError(
            f"{where}: x = {row['x']} does not belong to the key {row['state_key']}; make it again"
        )
    table = table.assign(x=table["filled"] / table["sites"])
    for column in COLUMNS:
        if column not in table:
            table[column] = None
    return table[list(COLUMNS)]


def read_reference(folder: Path) -> pd.DataFrame:
    """Read the DFT reference: ``reference.csv`` of the charge-order stage."""
    table = read_table("charge_order/reference", folder)
    return _complete(table.assign(method=DFT), DFT, REFERENCE, folder)


class ReferenceInfo(NamedTuple):
    """``sites_per_fu``: mobile sites in one formula unit; ``level``: level of theory.

    ``ends``: energies of the end members, eV per formula unit.
    """

    sites_per_fu: float
    level: str
    ends: tuple[float, float]


def reference_info(folder: Path) -> ReferenceInfo:
    """Return formula unit and level of the reference energies; raise UserError if either varies."""
    table = read_table("charge_order/reference", folder)
    ratios = {
        StateKey.parse(key).sites / units
        for key, units in zip(table["state_key"], table["formula_units"], strict=True)
    }
    levels = set(table["level"])
    if len(ratios) != 1 or len(levels) != 1:
        raise UserError(
            f"{folder} mixes hosts or levels of theory; one hull needs one of each: make it again"
        )
    ends = end_energies(table["energy_ev"] / table["formula_units"], table["x"])
    return ReferenceInfo(ratios.pop(), levels.pop(), ends)


def read_larger(reference: Path, asked: Path, info: ReferenceInfo) -> pd.DataFrame:
    """Read what DFT knows beyond the states of the smallest cell, of each arrangement the lowest energy.

    Frames of larger cells, and the calculations in the folder ``asked`` that the searches asked for and
    that are done, as far as they are at the level of the reference. The latter's energies (eV of the
    cell) are those of their formation energies, which are against end members at the equivalent mesh.
    """
    frames = read_table("charge_order/larger_cells", reference)
    answers = read_table("dft/energies", asked)
    answers = answers[answers["formation_mev_fu"].notna() & (answers["level"] == info.level)]
    empty, full = info.ends
    between = (1 - answers["x"]) * empty + answers["x"] * full
    answers = answers.assign(
        status=CONVERGED,
        energy_ev=answers["formula_units"] * (answers["formation_mev_fu"] / MEV + between),
    )
    known = [
        _complete(table.assign(method=DFT), DFT, LARGER, folder).astype(object)
        for table, folder in ((frames, reference), (answers, asked))
    ]
    every = pd.concat(known, ignore_index=True).sort_values("energy_ev", kind="stable")
    return every.drop_duplicates("state_key").sort_values(["x", "state_key"], ignore_index=True)


def read_charge_order(folder: Path, reference: pd.DataFrame) -> pd.DataFrame:
    """Read one model's relaxed states, with the degeneracies of the reference."""
    table = read_table("charge_order/states", folder)
    table = table[table["protocol"] == HEADLINE].reset_index(drop=True)
    degeneracy = dict(zip(reference["state_key"], reference["degeneracy"], strict=True))
    table = table.assign(degeneracy=table["state_key"].map(degeneracy), method="enumeration")
    return _complete(table, folder.name, HEADLINE, folder)


def read_search(folder: Path) -> pd.DataFrame:
    """Read all structures that one model's searches evaluated."""
    return _complete(read_table("search/found", folder), folder.name, SEARCH, folder)


def usable(table: pd.DataFrame, *, accept_unconverged: bool) -> np.ndarray:
    """Return which rows may enter a hull: not diverged or moved, energy finite, converged if asked."""
    barred = [*WITHOUT_ENERGY, *([] if accept_unconverged else [UNCONVERGED])]
    energy = pd.to_numeric(table["energy_ev"], errors="coerce")
    return (~table["status"].isin(barred) & np.isfinite(energy)).to_numpy()
