"""The charge-inference stage: relax random removals and read charge states from predicted moments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from ase import Atoms

from workflow_lib.core.elements import SYMBOLS, atomic_number
from workflow_lib.core.errors import UserError
from workflow_lib.core.io import write_csv, write_json
from workflow_lib.lattice.redox import IMPOSSIBLE, reduced_sites
from workflow_lib.models.moment_features import moment_features
from workflow_lib.models.outside import load_predictor
from workflow_lib.models.predictor import Predictor
from workflow_lib.models.trained import TrainedModel
from workflow_lib.results_reading import seal
from workflow_lib.results_schema import CONVERGED, status_of
from workflow_lib.simulation.analysis.charges import Assignment, by_gap, by_window, separation
from workflow_lib.simulation.dynamics.run import weights_identity
from workflow_lib.simulation.start import relaxed_start
from workflow_lib.stages.charge_inference.figures import draw
from workflow_lib.stages.charge_inference.settings import ChargeInferenceStudy

BEFORE, AFTER = "before", "after"
ATOM_COLUMNS = ["removal", "stage", "atom", "moment_mub", "state", "pc1", "pc2"]


def run_charge_inference(
    study: ChargeInferenceStudy, *, seed: int, work: str | Path, out: str | Path, device: str = "cpu"
) -> dict[str, Any]:
    """Write ``atoms.csv``, ``removals.csv``, ``summary.json`` and the figure of a study to ``out``.

    The host's cell is relaxed first; each removal is then relaxed from its ideal sites. Relaxed structures
    are kept in ``work``, so that a killed job goes on with the next. Removal i draws with ``seed + i``.
    Returns the summary. Raises UserError for a model without moments or that is given charge states, a
    host without the redox element, and a composition that no assignment makes neutral or that a gap cannot
    divide, before anything is relaxed.
    """
    work, out = Path(work), Path(out)
    model = load_predictor(study.potential, device)
    model.origin.require_trained()
    if isinstance(model, TrainedModel) and model.rule is not None:
        raise UserError(
            f"{model.name} is given the charge states that are read from moments here; take a model that "
            "is given none, such as a baseline or chgnet-0.2.0"
        )
    if "magmoms" not in model.predicts:
        raise UserError(f"{model.name} predicts no magnetic moments; take one that does, such as chgnet")
    unit = study.crystal.unit()
    larger = neutral_split(study, study.crystal.build(np.random.default_rng(seed), unit))
    identity = weights_identity(model)

    def relax(atoms: Atoms, name: str) -> Atoms:
        return relaxed_start(
            model,
            atoms,
            study.start,
            identity=identity,
            path=work / f"{name}.extxyz",
            title=f"{study.name}, {name}",
        )

    host = relax(unit, "host")
    rows, tables, features = [], [], []
    for removal in range(study.removals):
        ideal = study.crystal.build(np.random.default_rng(seed + removal), host)
        relaxed = relax(ideal, f"removal-{removal}")
        sites = np.flatnonzero(ideal.numbers == atomic_number(study.element))
        found = {BEFORE: _read(model, ideal, sites, study), AFTER: _read(model, relaxed, sites, study)}
        for stage, (moments, assignment, seen) in found.items():
            tables.append(
                pd.DataFrame(
                    {
                        "removal": removal,
                        "stage": stage,
                        "atom": sites,
                        "moment_mub": moments,
                        "state": assignment.states,
                    }
                )
            )
            features.append(seen)
        row = {"removal": removal, "host_status": status_of(host.info["converged"])}
        rows.append(row | _removal_row(study, ideal, relaxed, found, larger))
    atoms = pd.concat(tables, ignore_index=True)
    explained = _project(atoms, features)
    removals = pd.DataFrame(rows)
    summary = _summary(study, host, removals, explained, model)
    write_csv(atoms[ATOM_COLUMNS], out / "atoms.csv")
    write_csv(removals, out / "removals.csv")
    write_json(out / "summary.json", summary)
    draw(atoms, summary, out / "charges")
    seal(out, "charge-inference", source=out.name)
    return summary


def neutral_split(study: ChargeInferenceStudy, atoms: Atoms) -> int:
    """Return how many redox sites of a composition are in the state of larger moments, by neutrality.

    Raises UserError where the redox element is missing, an ion has no formal charge, no whole number of
    sites balances, or all balance in one state and a gap is to divide them.
    """
    numbers = np.asarray(atoms.numbers)
    sites = int((numbers == atomic_number(study.element)).sum())
    if not sites:
        raise UserError(
            f"{study.name}: {atoms.symbols} holds no {study.element}, the redox element; check both"
        )
    others = {SYMBOLS[z] for z in set(numbers.tolist())} - {study.element}
    without = sorted(others - set(study.formal_charges))
    if without:
        raise UserError(f"{study.name}: formal_charges has none for {', '.join(without)}; add it")
    charge = sum(study.formal_charges[str(symbol)] for symbol in atoms.symbols if symbol != study.element)
    low, high = sorted(study.states)
    reduced = int(reduced_sites(low, high, sites, charge))
    if reduced == IMPOSSIBLE:
        raise UserError(
            f"{study.name}: no assignment of {study.element}{low}+/{study.element}{high}+ to {sites} sites "
            f"makes {atoms.symbols} neutral (the other ions carry {charge:+d} e); remove another fraction"
        )
    if study.assign == "gap" and reduced in (0, sites):
        one = f"{study.element}{low if reduced else high}+"
        raise UserError(
            f"{study.name}: neutrality makes all {sites} {study.element} of {atoms.symbols} {one}, which a "
            "gap always divides in two; give windows (assign: window), or remove another fraction"
        )
    return reduced if study.states[1] == low else sites - reduced


def as_neutral(removals: pd.DataFrame) -> pd.Series:
    """Return which removals have every site in a state, and as many in each as neutrality asks for."""
    return (removals["larger"] == removals["neutral_larger"]) & (removals["ambiguous"] == 0)


def _read(
    model: Predictor, atoms: Atoms, sites: np.ndarray, study: ChargeInferenceStudy
) -> tuple[np.ndarray, Assignment, np.ndarray | None]:
    """Return moments [n] of the redox sites, their charge states, and the features behind them [n, d]."""
    [prediction] = model.predict([atoms])
    assert prediction.magmoms is not None
    moments = prediction.magmoms[sites].astype(float)
    if study.windows is not None:
        assignment = by_window(moments, study.states, study.windows)
    else:
        assignment = by_gap(moments, study.states)
    seen = moment_features(model, [atoms])
    return moments, assignment, None if seen is None else seen[0][sites]


def _removal_row(
    study: ChargeInferenceStudy,
    ideal: Atoms,
    relaxed: Atoms,
    found: dict[str, tuple[np.ndarray, Assignment, np.ndarray | None]],
    larger: int,
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "formula": ideal.symbols.formula.format("hill"),
        "status": status_of(relaxed.info["converged"]),
        "steps": relaxed.info.get("steps"),
        "fmax_ev_a": relaxed.info.get("fmax"),
        "volume_a3": relaxed.get_volume(),
        "sites": len(found[AFTER][0]),
        "neutral_larger": larger,
    }
    for stage, (moments, assignment, seen) in found.items():
        after = "" if stage == AFTER else f"_{BEFORE}"
        groups = [moments[assignment.states == state] for state in study.states]
        row |= {
            f"smaller{after}": len(groups[0]),
            f"larger{after}": len(groups[1]),
            f"ambiguous{after}": len(moments) - len(groups[0]) - len(groups[1]),
            f"smaller_moment{after}_mub": groups[0].mean() if len(groups[0]) else np.nan,
            f"larger_moment{after}_mub": groups[1].mean() if len(groups[1]) else np.nan,
            f"gap{after}_mub": assignment.gap,
            f"spread{after}_mub": moments.std(),
            f"silhouette_moments{after}": separation(moments, assignment.states),
            f"silhouette_features{after}": None if seen is None else separation(seen, assignment.states),
        }
    return row


def _project(atoms: pd.DataFrame, features: list[np.ndarray | None]) -> list[float]:
    """Add the first two principal components of all features to the table; return their shares."""
    from sklearn.decomposition import PCA

    atoms["pc1"] = atoms["pc2"] = np.nan
    seen = [item for item in features if item is not None]
    if len(seen) < len(features) or not seen:
        return []
    points = np.concatenate(seen).astype(float)
    if len(points) < 3:
        return []
    pca = PCA(n_components=2, svd_solver="full")
    atoms[["pc1", "pc2"]] = pca.fit_transform(points)
    return [float(share) for share in pca.explained_variance_ratio_]


def _summary(
    study: ChargeInferenceStudy,
    host: Atoms,
    removals: pd.DataFrame,
    explained: list[float],
    model: Predictor,
) -> dict[str, Any]:
    """Return the numbers of the study: means and spreads over the removals, and how many are as neutral."""

    def mean(column: str) -> dict[str, float | None]:
        values = removals[column].astype(float).dropna()
        spread = float(values.std(ddof=1)) if len(values) > 1 else None
        return {"mean": float(values.mean()) if len(values) else None, "std": spread}

    names = [f"{study.element}{state}+" for state in study.states]
    return {
        "source": study.name,
        "label": study.label or study.name,
        "potential": model.name,
        "element": study.element,
        "states": names,
        "assign": study.assign,
        "formula": removals["formula"].iloc[0],
        "atoms": int(len(study.crystal.unit()) * np.prod(study.crystal.repeat)),
        "sites": int(removals["sites"].iloc[0]),
        "removals": len(removals),
        "converged": int((removals["status"] == CONVERGED).sum()),
        "host_cell_a": np.array(host.cell.lengths()),
        "host_converged": bool(host.info["converged"]),
        "neutral_larger": int(removals["neutral_larger"].iloc[0]),
        "larger": removals["larger"].tolist(),
        "as_neutral": int(as_neutral(removals).sum()),
        **{
            column: mean(column)
            for column in map(str, removals)
            if column.startswith(("silhouette", "gap", "spread", "smaller_moment", "larger_moment"))
        },
        "explained_variance": explained,
        "differs": study.differs,
    }
