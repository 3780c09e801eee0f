"""Units and descriptions of the columns of a run's tables, for people.

No stage imports this file (tested), so a description can be improved without a result becoming outdated.
"""

from __future__ import annotations

UNITS = {
    "_ev_site": "eV per mobile site",
    "_k_site": "k per mobile site",
    "_mev_fu": "meV per formula unit",
    "_mev_atom": "meV per atom",
    "_ev_atom": "eV per atom",
    "_mev_a": "meV/A",
    "_ev_a": "eV/A",
    "_mev_site": "meV per site",
    "_mev": "meV",
    "_ev": "eV",
    "_mv": "mV",
    "_v": "V",
    "_a3": "A^3",
    "_a2": "A^2",
    "_cm2_s": "cm^2/s",
    "_ps": "ps",
    "_k": "K",
    "_a": "A",
    "_mub": "muB",
    "_e": "e",
    "_mb": "MB",
    "_seconds": "s",
}


def unit_of(column: str) -> str:
    """Return the unit of a column by the end of its name; empty if it has none."""
    name = column
    for suffix in ("_mean", "_std", "_all", "_unseen"):
        name = name.removesuffix(suffix)
    return next((unit for end, unit in UNITS.items() if name.endswith(end)), "")


MEANINGS = {
    "id": "who says so: `dft`, the id of a trained model, or `ewald` (formal charges)",
    "system": "system of the study, as the configuration names it",
    "asked_k": "temperature asked for; `temperature_k` is the thermostat's, in NVE the mean of production",
    "model": "name of the model in the configuration",
    "family": "family of the network",
    "init": "scratch or pretrained",
    "variant": "which frames train and what the network sees of charge states",
    "fold": "fold of the splits",
    "seed": "seed of the training",
    "protocol": "how the energy came about: single-point, distorted, undistorted, reference (DFT of the "
    "enumerated states), larger (DFT beyond them) or search",
    "method": "ga, random, screened (by a cluster expansion) or enumeration",
    "cell": "supercell of the host, e.g. 1x3x1",
    "state_key": "arrangement of ions and charge states; of ions alone where a charge-blind model asked",
    "ion_key": "arrangement of the mobile ions alone",
    "x": "occupied fraction of the mobile sites",
    "n_occupied": "number of mobile ions in the cell",
    "formula_units": "formula units in the cell",
    "energy_ev": "energy of the cell",
    "formation_mev_fu": "formation energy against the end members of the same id",
    "above_hull_mev_fu": "distance to the convex hull of the same id",
    "fmax_ev_a": "largest force on an atom at the end",
    "volume_a3": "volume of the cell",
    "start_status": "of the relaxed start of the trajectory: converged or unconverged (out of steps)",
    "status": "converged, unconverged (out of steps), diverged, or moved (an ion or the framework left its "
    "sites, or ions ended in another arrangement: the energy is not this one's and is left out); of DFT "
    "calculations that of the store: "
    "done, failed, running, interrupted, pending",
    "level": "level of theory of the energies: code/functional/U/cut-off/mesh/magnetic order; of a "
    "potential trained elsewhere its own. Energies of two levels are never subtracted: such rows are "
    "compared by formation energies and by differences within one id",
    "degeneracy": "equivalent arrangements in the cell",
    "seen": "whether a frame of the state trained the model or chose its epoch",
    "role": "set of the state in the model's fold: train, validation, test or none",
    "frame_id": "frame of the dataset",
    "steps": "steps of the relaxation",
    "expansion": "decorated: over ions and charge states; plain: over the ions alone",
    "direction": "up: filling, from the empty host; down: emptying, from the full one",
    "mu_ev": "chemical potential of a mobile ion",
    "heat_capacity_k_site": "at fixed x in tables of free energies, at fixed mu in isotherms",
    "total_k_site": "entropy of ions and charges together",
    "ions_k_site": "S'(A): entropy of the ions, the charges frozen",
    "charges_k_site": "S'(e): entropy of the charges, the ions frozen",
    "mutual_k_site": "I(A,e): what the two share",
    "compositions": "compositions between the end members at which the model has an energy of DFT's lowest "
    "state; the errors of hull and steps are means over these",
    "compositions_dft": "compositions between the end members at which DFT has one",
    "scope": "enumerated: states that DFT knows; searched: these and all that the searches evaluated",
}
"""Columns that mean the same in every table."""

CONTRAST = {
    "low": "lower end of the 95 % interval over states and folds (below three folds: over states and "
    "trainings, given the training sets)",
    "high": "upper end",
    "p_value": "of no difference, for this row alone",
    "p_together": "the same with all rows of the question counted together (Holm); below 0.05 for rows "
    "with three trainings or more",
    "decided": "three trainings or more, and p_together below 0.05",
    "reason": "why not decided; or that the interval is given the training sets of the folds, "
    "because there are fewer than three; and which pairs are left out",
}
"""Columns of every table of contrasts."""
IN_TABLES: dict[str, dict[str, str]] = {
    "dataset/energy": {"above_lowest_mev_atom": "energy above the lowest frame of the same state"},
    "dataset/redox": {"low": "lower edge of the bin, muB or e", "high": "upper edge of the bin, muB or e"},
    "training/metrics": {
        "value": "error in `unit`",
        "low": "lower end of the 95 % interval",
        "high": "upper end",
    },
    "training/parity": {
        "dft_value": "eV/atom, eV/A, eV/A^3, muB or e, by `label`",
        "model_value": "the model's number, units as `dft_value`",
        "atom": "index in the frame, -1 for the whole cell",
    },
    "charge_order/reference": {
        "paths": "calculations that end in the state",
        "stress_converged": "whether the stress of the frame is converged",
        "bond_gap_a": "mean bond length of the lower-state redox sites minus that of the others",
    },
    "charge_order/states": {
        "order": "whether predicted moments show the wanted charge order: kept, changed, ambiguous, "
        "off-site (an atom has left its site); empty where the model predicts none",
        "realised_key": "the state that the predicted moments show",
        "moment_gap_mub": "mean predicted moment of the higher-state sites minus that of the others",
        "bond_gap_a": "mean bond length of the lower-state redox sites minus that of the others",
    },
    "charge_order/identical": {
        "atoms": "name of the shared positions",
        "dft_mev_fu": "energy relative to the mean over the orders on the same atoms",
        "model_mev_fu": "the model's, relative to its own mean",
    },
    "search/found": {"order": "counts from 1 within cell and method"},
    "search/history": {"best_mev_fu": "lowest formation energy so far at this composition"},
    "search/pending": {
        "charge_order": "given, or open: the lowest order on these ions is asked for",
        "models": "number of models that ask",
        "asked_by": "their ids, divided by ;",
        "formation_mev_fu": "one number a model of `asked_by`, divided by ;",
    },
    "dft/energies": {
        "asked_key": "the arrangement that was asked for, perhaps of ions alone",
        "state_key": "the arrangement that is computed",
        "digest": "name of the calculation in the store",
        "orbital": "seed of the minority orbitals of the relaxation that counts: the lowest finished one",
    },
    "embedding/points": {
        "origin": "a DFT `frame`, or a point of the followed `path`",
        "network": "trained or untrained",
        "step": "step of the followed relaxation, -1 for frames",
    },
    "comparison/contrasts": {
        "endpoint": "column of the comparison table; the errors are in its unit",
        "error_without": "error without the label; of energies and forces on at most 2,000 held-out frames "
        "of a fold, spread evenly, where the comparison table counts all",
        "error_with": "error with the label, on the same numbers",
        "difference": "error with the label minus error without it, on the same DFT numbers",
        "trainings": "pairs of trainings (folds and seeds) behind the row",
        **CONTRAST,
    },
    "phase_diagram/structures": {
        "asked_key": "the arrangement that was relaxed",
        "state_key": "the arrangement it counts as; empty where it does not count",
        "order": "how its charge states are known: carried, kept, changed, ambiguous, none; or why it "
        "does not count: off-site, unconverged, diverged",
        "round": "0: before any expansion; then the round that predicted it to be lower than what is known",
    },
    "phase_diagram/fit": {
        "functions": "functions that the sparse fit kept",
        "rmse_mev_fu": "on the data of the fit",
        "cross_validation_mev_fu": "on groups left out, at the chosen penalty",
        "held_out_rmse_mev_fu": "on groups left out of the fit and of the choice of its penalty",
        "held_out_rmse_mev_site": "the same, per site of the expansion",
        "dielectric": "the constant that divides the electrostatic energy; empty without that term",
        "pairs_ordered": "share of pairs of equal x in the right order, held out",
        "ground_states": "compositions with several arrangements",
        "ground_states_found": "those whose lowest arrangement is predicted lowest, held out",
        "out_of_steps": "structures of the system that count though their relaxation ran out of steps",
    },
    "phase_diagram/replica_isotherms": {
        "autocorrelation": "sweeps between independent samples",
        "equilibrated": "whether the point counts",
    },
    "phase_diagram/isotherms": {
        "single_phase": "whether the point does not stand between two steep steps",
    },
    "phase_diagram/boundaries": {
        "rule": "jump (of an isotherm), crossing (of grand free energies) or tangent (of free energies)",
        "scan": "up or down: the direction that shows the jump",
        "x_low": "composition of the phase with fewer ions",
        "x_high": "composition of the phase with more",
        "replicas": "replicas that show it",
    },
    "phase_diagram/features": {
        "kind": "solid solution, miscibility gap, eutectoid or compounds, by the common tangents",
        "eutectoid_k": "temperature where a gap divides",
        "eutectoid_x": "composition of the phase that appears there",
        "closed_k": "temperature where the last gap is gone; empty if none is within reach",
        "hysteresis_v": "mean difference of voltage between the scans, nearest to 300 K",
    },
    "ablation": {
        "label": "quantity whose errors are compared",
        "unit": "of all errors of the row",
        "model_without": "model without the change",
        "model_changed": "model with it",
        "difference": "error with the change minus error without it, on the same DFT numbers",
        **CONTRAST,
        "published_without": "the published error without the change",
        "published_with": "the published error with it",
    },
    "charge_inference/atoms": {
        "removal": "number of the random removal",
        "stage": "before or after relaxation",
        "atom": "index in the structure",
        "state": "oxidation state that the moment shows; 0 where it shows none",
        "pc1": "first principal component of the features behind the moments, all atoms together",
        "pc2": "second principal component",
    },
    "charge_inference/removals": {
        "host_status": "of the relaxed host from which the ions are removed, as `status`",
        "sites": "redox atoms",
        "smaller": "atoms in the state of smaller moments",
        "larger": "atoms in the state of larger moments",
        "ambiguous": "atoms whose moment lies in no window",
        "neutral_larger": "atoms that neutrality puts into the state of larger moments",
        "gap_mub": "between the nearest moments of the two groups",
        "smaller_moment_mub": "mean moment of the group",
        "larger_moment_mub": "mean moment of the group",
        "silhouette_moments": "separation of the groups by moments, -1 to 1",
        "silhouette_features": "separation of the groups by the features behind the moments, -1 to 1",
        "silhouette_moments_before": "the same before relaxation",
    },
    "dynamics/series": {
        "energy_ev": "mean potential energy of the interval",
        "tetrahedral": "redox atoms with fewer ligands than an octahedron has",
        "octahedral": "redox atoms with exactly as many ligands as an octahedron has",
        "tetrahedral_moment_mub": "mean moment of these atoms",
        "octahedral_moment_mub": "mean moment of these atoms",
    },
    "dynamics/patterns": {"two_theta": "degrees", "intensity": "of one line, per atom squared"},
    "dynamics/msd": {
        "msd_a2": "mean squared displacement over all time origins",
        "msd_error_a2": "standard error over the ions",
        "framework_msd_a2": "that of all other atoms",
    },
    "dynamics/diffusion": {
        "ions": "diffusing ions in the cell",
        "hops": "effective number of hops seen (He et al. 2018)",
        "exponent": "of MSD ~ t^exponent in the fitted window",
        "reason": "why there is no value; empty where there is one",
    },
    "dynamics/activation": {
        "temperatures": "temperatures with a diffusivity",
        "paper": "activation energy of the study it is held against, meV",
    },
    "dynamics/hopping": {
        "electron_stay_ps": "mean time that a redox atom stays reduced",
        "electron_stay_low_ps": "lower limit of its 95 % interval",
        "electron_stay_high_ps": "upper limit of its 95 % interval; infinite without hops",
        "ion_stay_ps": "mean time that an ion stays on its site",
        "ion_stay_low_ps": "lower limit of its 95 % interval",
        "ion_stay_high_ps": "upper limit of its 95 % interval; infinite without hops",
        "near_reduced": "mean number of ions near a reduced redox atom",
        "near_oxidised": "mean number of ions near an oxidised redox atom",
        "correlation": "of hops of electrons and ions near the same redox atom in the same window, -1 to 1",
        "correlation_low": "lower limit of 95 % of the correlations that chance gives",
        "correlation_high": "upper limit of 95 % of the correlations that chance gives",
        "p_value": "share of shifts in time whose correlation is as far from zero",
        "reason": "why there is no correlation; empty where there is one",
        "exchanges_tried": "exchanges of charge states tried in all replicas",
        "exchanges_accepted": "exchanges of charge states accepted in all replicas",
    },
    "checks": {"first": "the first violation, in words"},
}
"""Columns that mean something of their own in one table, by its name; they come before :data:`MEANINGS`."""


def meaning_of(table: str, column: str) -> str:
    """Return the meaning of a table's column, with its unit; empty if the name is clear by itself."""
    text = IN_TABLES.get(table, {}).get(column, MEANINGS.get(column, ""))
    unit = unit_of(column)
    return f"{text} ({unit})" if text and unit else text or unit
