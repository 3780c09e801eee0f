"""The naive ranking: formal point charges on the undistorted host, summed by Ewald's method.

Without training, relaxation or screening: the charge-order energetics that remain if Fe2+ and Fe3+
are only charges of +2 and +3 e at the sites of the interpolated host.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from workflow_lib.core.errors import UserError
from workflow_lib.core.io import write_json
from workflow_lib.frames.splits import Splits
from workflow_lib.lattice.ewald import ewald_energy
from workflow_lib.lattice.formation import at_x
from workflow_lib.lattice.redox import LABELS
from workflow_lib.models.identity import EWALD, UNTRAINED
from workflow_lib.results_reading import read_reference, seal, write_table
from workflow_lib.results_schema import CONVERGED, Protocol
from workflow_lib.stages.charge_order.figures import states_figure
from workflow_lib.stages.charge_order.protocols import (
    SINGLE_POINT,
    arrangement_of,
    protocol_table,
    state_roles,
)
from workflow_lib.stages.charge_order.score import FITTED, TIE, Scores, score_states
from workflow_lib.stages.charge_order.settings import ChargeOrderSettings

if TYPE_CHECKING:
    from workflow_lib.lattice.host import Host
    from workflow_lib.lattice.redox import RedoxRule

PROTOCOL: Protocol = "undistorted"
NOTE = (
    "Formal-charge Ewald energies of the undistorted starts, multiplied by one factor ewald_scale (an "
    "inverse permittivity). The factor is the least-squares slope through the origin of DFT's against "
    "Ewald's relative energies at the compared composition, over all its states: MAE, formation "
    "energies and redox_spread_ratio are therefore fitted, in-fold numbers, and so is which ground "
    "states count in ground_states_found, _total and _chance, because their margin is held against the "
    "error of the scaled energies. Rank correlation, the order of pairs and ground_states_found_all are "
    "those of the unscaled energies and use no DFT at all. Where the slope is not positive the energies "
    "stay unscaled, ewald_scale and the fitted numbers are null. Scores count the states that some fold of "
    "the run holds out, as those of its models together do."
)


def fitted_scale(ewald: np.ndarray, dft: np.ndarray) -> float:
    """Return the slope through the origin of DFT's against Ewald's relative energies.

    The slope is sum(e d) / sum(e^2), with both sets of energies relative to their mean. Raises
    ValueError if all Ewald energies are equal, because no slope exists then.
    """
    if len(ewald) < 2 or np.allclose(ewald, ewald[0], rtol=0, atol=TIE):
        raise ValueError("a scale needs two states of different Ewald energy")
    first, second = ewald - ewald.mean(), dft - dft.mean()
    return float(first @ second / (first @ first))


def _scores(states: pd.DataFrame, compared_x: float, *, fits: bool) -> Scores:
    """Return the scores of the unscaled energies, the :data:`score.FITTED` ones those of the scaled ones.

    The latter are None unless the factor ``fits``.
    """
    scores = score_states(states.assign(energy_ev=states["ewald_ev"]), compared_x, PROTOCOL)
    fitted = score_states(states, compared_x, PROTOCOL)
    own, scaled = scores["protocols"][PROTOCOL], fitted["protocols"][PROTOCOL]
    for part, other in ((scores, fitted), (own, scaled)):
        part |= {name: other[name] if fits else None for name in part if FITTED.fullmatch(name)}
    for row, other in zip(own["ground_states"], scaled["ground_states"], strict=True):
        row |= {name: other[name] if fits else None for name in ("model_error_mev_fu", "counts")}
    return scores


def run_ewald(
    *,
    reference_dir: str | Path,
    host: Host,
    rule: RedoxRule,
    splits_path: str | Path,
    folds: Sequence[int],
    settings: ChargeOrderSettings,
    out: str | Path,
) -> Scores:
    """Rank the reference states by Ewald energies; write the files of a trained model (see :data:`NOTE`).

    ``states.csv`` also has the column ``ewald_ev`` (unscaled, eV per cell); ``energy_ev`` and
    ``formation_mev_fu`` are scaled by the states of ``settings.compared_x``. ``role`` is test for
    a state that one of the ``folds`` of ``splits_path`` holds out, else its set in the first of these, and
    ``seen`` follows from it: unseen are the states that trained models are scored on. Raises UserError if
    the compared composition has too few states to fit the scale.
    """
    reference, structures = read_reference(reference_dir)
    splits = Splits.load(splits_path)
    every = [state_roles(splits, fold, reference, host) for fold in folds]
    roles = ["test" if "test" in own else own[0] for own in zip(*every, strict=True)]
    starts = [host.build(arrangement_of(host, atoms)) for atoms in structures]
    energies = np.array(
        [ewald_energy(atoms, rule.formal(atoms.numbers, atoms.arrays[LABELS])) for atoms in starts]
    )
    compared = at_x(reference["x"], settings.compared_x)
    try:
        scale = fitted_scale(energies[compared], reference["energy_ev"].to_numpy()[compared])
    except ValueError as error:
        raise UserError(
            f"{reference_dir} has too few states at x = {settings.compared_x:g} for the Ewald ranking "
            f"({error}); set charge_order.compared_x to a composition with several states"
        ) from error
    fits = scale > 0
    answers = pd.DataFrame(
        {
            "status": SINGLE_POINT,
            "steps": 0,
            "fmax_ev_a": np.nan,
            "energy_ev": scale * energies if fits else energies,
        }
    )
    owner: dict[str, Any] = {"id": EWALD, "model": EWALD, "family": EWALD, "variant": UNTRAINED.name}
    owner |= dict.fromkeys(("fold", "seed"))
    states = protocol_table(
        owner,
        PROTOCOL,
        answers,
        starts,
        reference=reference,
        roles=roles,
        host=host,
        orders=None,
        level=UNTRAINED.label,
    )
    states["ewald_ev"] = energies
    scores: Scores = owner | {
        "init": "none",
        "model_status": "ok",
        "level": UNTRAINED.label,
        "cells": "fixed",
        "charge_labelled": True,
        "ewald_scale": scale if fits else None,
        "note": NOTE,
        "dft_relaxed": int((reference["status"] == CONVERGED).sum()),
        "dft_states": len(reference),
    }
    scores |= _scores(states, settings.compared_x, fits=fits)
    out = Path(out)
    write_table("charge_order/states", states, out)
    unit = "scaled to DFT at one composition" if fits else "unscaled"
    states_figure(
        states,
        out,
        title=f"Ewald energies of formal charges, {unit}",
        cells="fixed",
        panel_titles={PROTOCOL: "undistorted host, no relaxation"},
    )
    write_json(out / "scores.json", scores)
    seal(out, "charge-order", source=EWALD)
    return scores
