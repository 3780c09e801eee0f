"""First of the stage's three commands: relax structures and fit the expansions of a system.

``replica`` samples them, replicas side by side; ``diagram`` joins all.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from workflow_lib.core.errors import UserError
from workflow_lib.core.io import write_csv, write_json
from workflow_lib.core.locks import alone
from workflow_lib.core.progress import say
from workflow_lib.lattice.formation import formation_mev_fu
from workflow_lib.lattice.host import Host
from workflow_lib.models.identity import ModelId
from workflow_lib.results_reading import clear, read_table, seal, stress_converged
from workflow_lib.results_schema import DFT
from workflow_lib.simulation.settings import RelaxationSettings
from workflow_lib.stages.phase_diagram.fit import Fitted, fit_row, fit_system
from workflow_lib.stages.phase_diagram.fit_figure import draw_fit
from workflow_lib.stages.phase_diagram.settings import FIT, SUMMARY, PhaseDiagramSettings, SystemSettings
from workflow_lib.stages.phase_diagram.structures import (
    DftSource,
    ModelSource,
    Source,
    end_energies,
    unconverged,
)

SEARCHED = {
    True: "nothing lower was predicted in the last round",
    False: "the last round still predicted lower ones",
    None: "not searched for new ones",
}


def source_of(
    system: SystemSettings,
    host: Host,
    settings: PhaseDiagramSettings,
    *,
    relaxation: RelaxationSettings,
    reference_dir: Path,
    trainings: Path,
    cache: Path,
    accept_unconverged: bool,
    device: str,
) -> DftSource | Source:
    """Return what gives the energies of a system; raise UserError if there is no such potential."""
    if system.potential == DFT:
        return DftSource(reference_dir, host, accept_unconverged=accept_unconverged)
    from workflow_lib.models.outside import load_predictor

    try:
        ModelId.parse(system.potential)
    except UserError:
        potential = load_predictor(system.potential, device)
    else:
        from workflow_lib.results_models import load_model

        potential = load_model(trainings / system.potential, device)
    potential.origin.require_trained()
    reference = read_table("charge_order/reference", reference_dir)
    own = relaxation.model_copy(update={"cell": system.cell} if system.cell else {})
    structures = settings.structures
    stop = replace(
        own.stop(stress_converged=stress_converged(reference)),
        fmax=structures.fmax or own.fmax,
        max_steps=structures.max_steps or own.max_steps,
    )
    return ModelSource(
        potential,
        host,
        relaxation=own,
        stop=stop,
        cache=cache,
        accept_unconverged=accept_unconverged,
    )


def run_fit(
    *,
    system: SystemSettings,
    host: Host,
    settings: PhaseDiagramSettings,
    relaxation: RelaxationSettings,
    seed: int,
    reference_dir: Path,
    trainings: Path,
    cache: Path,
    out: Path,
    accept_unconverged: bool = True,
    device: str = "cpu",
) -> None:
    """Relax structures, fit both expansions and write them to ``out``, the folder of the system.

    Writes ``structures.csv``, ``fit.csv``, ``decorated.json`` (unless the potential knows no charge
    states) and ``plain.json`` in smol's format, ``summary.json`` and ``fit.*``. Relaxations are kept
    in ``cache``; those that ran out of steps count if ``accept_unconverged``. Raises UserError where the
    data cannot carry an expansion.
    """
    source = source_of(
        system,
        host,
        settings,
        relaxation=relaxation,
        reference_dir=reference_dir,
        trainings=trainings,
        cache=cache,
        accept_unconverged=accept_unconverged,
        device=device,
    )
    rng = np.random.default_rng([seed, *system.name.encode()])
    with alone(cache / f"phase-diagram-{system.name}", "phase-diagram"):
        fitted = fit_system(source, host, system, settings.structures, rng)
    table = structure_table(fitted, source, host)
    fits = pd.DataFrame([fit_row(name, fitted, host) for name in fitted.expansions])
    fits.insert(0, "system", system.name)
    fits["out_of_steps"] = unconverged(fitted.answers)
    clear(out, FIT)  # a charge-blind model has one expansion, others two
    write_csv(table, out / "structures.csv")
    write_csv(fits, out / "fit.csv")
    for name, expansion in fitted.expansions.items():
        expansion.save(out / f"{name}.json")
    orders = Counter(answer.order for answer in fitted.answers)
    left_out = sum(answer.became is None for answer in fitted.answers)
    counted = ", ".join(f"{number} {order}" for order, number in orders.items())
    say(
        f"{system.name}: {len(fitted.answers)} structures ({counted}), {left_out} left out, "
        f"{unconverged(fitted.answers)} out of steps; {SEARCHED[fitted.converged]}"
        + (f", {fitted.refused} of which had relaxed to something else" if fitted.refused else "")
    )
    write_json(
        out / SUMMARY,
        {
            "system": system.name,
            "label": system.label or system.name,
            "potential": source.name,
            "level": source.level,
            "mobile": host.mobile,
            "charge": host.mobile_charge,
            "expansions": list(fitted.expansions),
            "end_energies_ev_site": end_energies(fitted.answers, host),
            "orders": dict(orders),
            "left_out": left_out,
            "out_of_steps": unconverged(fitted.answers),
            "rounds": max(fitted.rounds),
            "no_new_ground_state": fitted.converged,
            "refused": fitted.refused,
        },
    )
    draw_fit(fitted, host, system.label or system.name, out / "fit")
    seal(out, FIT, source=out.name)


def structure_table(fitted: Fitted, source: DftSource | Source, host: Host) -> pd.DataFrame:
    """Return the table ``phase_diagram/structures``: one row for each structure that was asked for."""
    rows = []
    for answer, number in zip(fitted.answers, fitted.rounds, strict=True):
        became = answer.became
        rows.append(
            {
                "asked_key": host.key(answer.asked),
                "state_key": None if became is None else host.key(became),
                "order": answer.order,
                "x": host.composition(answer.asked),
                "formula_units": answer.asked.cells * host.formula_units,
                "energy_ev": answer.energy if np.isfinite(answer.energy) else np.nan,
                "fmax_ev_a": answer.fmax,
                "status": answer.status,
                "level": source.level,
                "round": number,
            }
        )
    table = pd.DataFrame(rows)
    counts = table["state_key"].notna()
    table["formation_mev_fu"] = np.nan
    good = table[counts]
    table.loc[counts, "formation_mev_fu"] = formation_mev_fu(
        good["energy_ev"], good["formula_units"], good["x"]
    )
    return table
