"""Charge orders on identical atoms: the same positions, another charge order, another energy.

To a charge-blind model these are one structure, so it gives all of them one energy whatever it
learnt. The frames are for testing only: as labels they would contradict each other for such a
model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from workflow_lib.core.code import code_checksum
from workflow_lib.core.io import sha256
from workflow_lib.core.kept import Arrays, Kept, key_of
from workflow_lib.core.progress import Progress
from workflow_lib.frames.splits import Splits
from workflow_lib.lattice.ewald import ewald_energy
from workflow_lib.lattice.redox import LABELS
from workflow_lib.models.identity import EWALD, UNTRAINED
from workflow_lib.results_reading import seal, write_table
from workflow_lib.results_schema import DIVERGED, TABLES
from workflow_lib.simulation.cache import host_identity
from workflow_lib.stages.charge_order.identical_atoms import read_identical
from workflow_lib.stages.charge_order.protocols import state_roles
from workflow_lib.stages.charge_order.score import redox_spread, usable

if TYPE_CHECKING:
    from ase import Atoms

    from workflow_lib.lattice.host import Host
    from workflow_lib.lattice.redox import RedoxRule
    from workflow_lib.models.predictor import Predictor


def score(rows: pd.DataFrame) -> dict[str, Any]:
    """Return the scores of one model over all pairs of orders on the same atoms.

    ``pairs``, ``spread_ratio`` and ``pairs_ordered`` are as :func:`redox_spread` defines them;
    ``mae_mev_fu`` is the mean absolute error of the pairs' energy differences in meV per formula
    unit, ``blind_mae_mev_fu`` that of a model that gives all orders the same energy.
    """
    good = usable(rows.assign(ion_key=rows["atoms"]))
    spread = redox_spread(good)
    model: list[float] = []
    dft: list[float] = []
    for _, group in good.groupby("atoms"):
        first, second = np.triu_indices(len(group), 1)
        for column, found in (("energy_ev", model), ("dft_energy_ev", dft)):
            values = (group[column] / group["formula_units"]).to_numpy(dtype=float) * 1000
            found.extend(values[first] - values[second])
    differences, wanted = np.array(model), np.array(dft)
    return {
        "orders": len(good),
        "diverged": len(rows) - len(good),
        "pairs": spread["redox_pairs"],
        "pairs_ordered": spread["redox_pairs_ordered"],
        "spread_ratio": spread["redox_spread_ratio"],
        "mae_mev_fu": float(np.abs(differences - wanted).mean()) if len(wanted) else None,
        "blind_mae_mev_fu": float(np.abs(wanted).mean()) if len(wanted) else None,
    }


def run_identical(
    *,
    frames_path: str | Path,
    models: Sequence[str],
    load: Callable[[str], Predictor],
    splits_path: str | Path,
    host: Host,
    rule: RedoxRule,
    level: str,
    work: str | Path,
    out: str | Path,
    batch_size: int = 16,
) -> pd.DataFrame:
    """Evaluate all models on identical atoms; write ``identical.csv``, ``identical_scores.csv``, a figure.

    Energies in ``identical.csv`` (``dft_mev_fu``, ``model_mev_fu``) are relative to the mean over
    the orders on the same atoms, in meV per formula unit. ``role`` is the set that the state's
    other frames belong to in the model's fold. Formal charges (Ewald, unscaled) come last; only
    their order has a meaning. The energies of a model are kept in ``work`` until all are done.
    ``load`` gives each of ``models``: the folder of a trained model, or the id of a potential from
    elsewhere. Returns the scores.
    """
    from workflow_lib.stages.charge_order.identical_figure import identical_figure

    out = Path(out)
    table, structures = read_identical(frames_path, host, rule, level)
    splits = Splits.load(splits_path)
    code = code_checksum("workflow_lib.stages.charge_order.identical")
    asked = key_of(code, host_identity(host), rule.model_dump(), level, batch_size, sha256(frames_path))
    kept = Kept(Path(work) / f"{asked}.sqlite", "energies on identical atoms")
    answers: list[pd.DataFrame] = []
    scores: list[dict[str, Any]] = []
    with Progress("charge orders on identical atoms", len(models), "model") as progress:
        for number, source in enumerate(models, 1):
            model = load(source)
            origin = model.origin
            identity = origin.columns(Path(source).name) | {"charge_labelled": model.charge_labelled}
            status = origin.status
            energies = np.full(len(table), np.nan)
            if status != DIVERGED:
                answer = partial(_energies, model, structures, batch_size)
                energies = kept.arrays(model.identity, answer)["ev"]
            rows = table.assign(
                energy_ev=energies,
                status=np.where(np.isfinite(energies), status, DIVERGED),
                role=state_roles(splits, origin.fold, table, host),
                **identity,
            )
            answers.append(rows)
            scores.append(identity | score(rows))
            progress.show(number, Path(source).name)
    charges = [rule.formal(atoms.numbers, atoms.arrays[LABELS]) for atoms in structures]
    ewald = table.assign(
        energy_ev=[ewald_energy(atoms, q) for atoms, q in zip(structures, charges, strict=True)],
        status="reference",
    )
    unscaled = dict.fromkeys(("spread_ratio", "mae_mev_fu"))
    own = dict.fromkeys(("id", "model", "family"), EWALD) | {"variant": UNTRAINED.name}
    scores.append(own | score(ewald) | unscaled)
    orders = pd.concat(answers, ignore_index=True)
    for source, relative in (("dft_energy_ev", "dft_mev_fu"), ("energy_ev", "model_mev_fu")):
        per_unit = orders[source] / orders["formula_units"] * 1000
        orders[relative] = per_unit - per_unit.groupby([orders["id"], orders["atoms"]]).transform("mean")
    name = "charge_order/identical"
    write_table(name, orders[[*TABLES[name].columns, "charge_labelled"]], out)
    result = pd.DataFrame(scores)
    write_table("charge_order/identical_scores", result, out)
    identical_figure(orders, result, out)
    seal(out, "charge-order-identical")
    kept.remove()
    return result


def _energies(model: Predictor, structures: Sequence[Atoms], batch_size: int) -> Arrays:
    return {"ev": np.array([item.energy for item in model.predict(structures, batch_size=batch_size)])}
