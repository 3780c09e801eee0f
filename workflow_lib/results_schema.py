"""The tables of a run: one schema per table, the same column name for the same quantity.

This file is part of the code checksum of nearly every stage. Descriptions and units of the columns stand in
``results_meanings``, which no stage imports, so that a better description makes no result outdated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Protocol = Literal["single-point", "distorted", "undistorted"]
PROTOCOLS: tuple[Protocol, ...] = ("single-point", "distorted", "undistorted")
"""How a model computes the charge-ordered states: (a) at the DFT geometries, (b) relaxed from a
distorted start, (c) relaxed from the undistorted host."""
HEADLINE: Protocol = "distorted"
"""Protocol whose scores enter the comparison table: how a model is used in practice."""
DFT = "dft"
"""``source`` of energies that DFT gave; all others are ids of models, or ``ewald``."""
REFERENCE, SEARCH, LARGER = "reference", "search", "larger"
"""``protocol`` of DFT's answers to the charge-ordered states of the smallest cell, of what a search
evaluated, and of DFT's answers beyond the former: frames of larger cells, and calculations that a search
asked for."""
BEYOND = (SEARCH, LARGER)
"""Protocols of the scope ``searched`` of a hull; the others are ``enumerated``."""
CONVERGED, UNCONVERGED, DIVERGED, MOVED = "converged", "unconverged", "diverged", "moved"
WITHOUT_ENERGY = (DIVERGED, MOVED)
"""``status`` of relaxations whose arrangement has no energy: they diverged, or ended as another one."""


def status_of(converged: bool) -> str:
    """Return the ``status`` of a relaxation that has an energy: whether it is at rest."""
    return CONVERGED if converged else UNCONVERGED


Kind = Literal["text", "number", "count", "flag"]
"""``count`` is a whole number, ``flag`` true or false; any of them may be missing in a row."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table of a run: its file, the command that writes it, and the columns that every reader may use.

    ``file`` is relative to the run folder; ``{model}`` stands for the id of a trained model or
    the name of a study. A table may hold more columns than ``columns``; these it must have. ``command``
    is that of the command line.
    Timings are not ``sealed``: they differ from run to run.
    """

    file: str
    command: str
    columns: Mapping[str, Kind]
    sealed: bool = True

    @property
    def per_model(self) -> bool:
        """Whether there is one table for each trained model."""
        return "{model}" in self.file


MODEL: dict[str, Kind] = {
    **{"id": "text", "model": "text", "family": "text", "variant": "text", "fold": "count", "seed": "count"}
}
"""Columns that begin every table whose rows belong to a model, so that any two of them can be joined."""
ENERGIES: dict[str, Kind] = MODEL | {
    **{"protocol": "text", "state_key": "text", "ion_key": "text", "x": "number"},
    **{"formula_units": "count", "energy_ev": "number", "fmax_ev_a": "number", "volume_a3": "number"},
    **{"status": "text", "level": "text"},
}
"""Columns of every table of energies: charge_order, search and dft write them, thermodynamics and the
comparison filter them."""


def _columns(text: str = "", number: str = "", count: str = "", flag: str = "") -> dict[str, Kind]:
    kinds: dict[Kind, str] = {"text": text, "number": number, "count": count, "flag": flag}
    return {name: kind for kind, names in kinds.items() for name in names.split()}


_THERMAL = (
    "free_energy_ev_site free_energy_error_ev_site energy_ev_site entropy_k_site heat_capacity_k_site"
)
_ENTROPIES = "total_k_site ions_k_site charges_k_site mutual_k_site"

TABLES: dict[str, Table] = {
    "sources/citations": Table("sources/citations.csv", "sources", _columns("source")),
    "sources/duplicates": Table(
        "sources/duplicates.csv", "sources", _columns("frame_id file same_as", "energy_difference_ev")
    ),
    "sources/set_aside": Table(
        "sources/set_aside.csv", "sources", _columns("file reason", count="frame line")
    ),
    "dataset/set_aside": Table(
        "dataset/set_aside.csv",
        "dataset",
        _columns("frame_id group kind source category reason", "energy_ev"),
    ),
    "dataset/composition": Table(
        *("dataset/composition.csv", "dataset"),
        _columns("composition kind", count="frames states states_of_composition"),
    ),
    "dataset/energy": Table(
        *("dataset/energy.csv", "dataset"),
        _columns("frame_id state composition kind", "energy_ev_atom fmax_ev_a above_lowest_mev_atom"),
    ),
    "dataset/coverage": Table("dataset/coverage.csv", "dataset", _columns("label", "share", "frames")),
    "dataset/charge_states": Table(
        "dataset/charge_states.csv", "dataset", _columns("material", count="groups frames labelled")
    ),
    "dataset/redox": Table(
        *("dataset/redox.csv", "dataset"),
        _columns("quantity state", "low high", "sites disagreeing"),
    ),
    "dataset/elements": Table(
        "dataset/elements.csv", "dataset", _columns("element", count="z frames atoms")
    ),
    "training/history": Table(
        *("training/{model}/history.csv", "train"),
        MODEL | _columns(number="learning_rate train_loss validation_loss", count="epoch"),
    ),
    "training/metrics": Table(
        *("training/{model}/metrics.csv", "train"),
        MODEL | _columns("set kind label metric unit status", "value low high", "count"),
    ),
    "training/frames": Table(
        *("training/{model}/frames.parquet", "train"), MODEL | _columns("frame_id set")
    ),
    "training/parity": Table(
        *("training/{model}/parity.parquet", "train"),
        MODEL | _columns("frame_id set kind label component", "dft_value model_value", "atom", "redox"),
    ),
    "charge_order/reference": Table(
        *("charge_order/reference.csv", "charge-order-reference"),
        ENERGIES
        | _columns(
            "group frame_id orbital",
            "formation_mev_fu bond_gap_a",
            "paths degeneracy",
            "stress_converged",
        ),
    ),
    "charge_order/larger_cells": Table(
        *("charge_order/larger_cells.csv", "charge-order-reference"),
        ENERGIES | _columns("group frame_id orbital", "formation_mev_fu", "paths", "stress_converged"),
    ),
    "charge_order/states": Table(
        *("charge_order/{model}/states.csv", "charge-order"),
        ENERGIES
        | _columns(
            "group role order realised_key",
            "formation_mev_fu dft_energy_ev dft_formation_mev_fu dft_fmax_ev_a moment_gap_mub bond_gap_a "
            "dft_bond_gap_a",
            "steps degeneracy",
            "seen",
        ),
    ),
    "charge_order/overview": Table(
        *("charge_order/overview.csv", "charge-order-overview"),
        MODEL | _columns("init protocol", "states_spearman states_mae_mev_fu", flag="headline"),
    ),
    "charge_order/pooled": Table(
        *("charge_order/pooled.csv", "charge-order-overview"),
        _columns(
            "model family variant init protocol",
            "spearman mae_mev_fu",
            "folds seeds states ground_states_seeds",
        ),
    ),
    "charge_order/identical": Table(
        *("charge_order/identical/identical.csv", "charge-order-identical"),
        MODEL | _columns("atoms state_key frame_id role status", "dft_mev_fu model_mev_fu"),
    ),
    "charge_order/identical_scores": Table(
        *("charge_order/identical/identical_scores.csv", "charge-order-identical"),
        MODEL | _columns("", "mae_mev_fu spread_ratio pairs_ordered", "orders pairs"),
    ),
    "search/found": Table(
        *("search/{model}/found.csv", "search"),
        ENERGIES | _columns("cell method", "formation_mev_fu", "order n_occupied steps degeneracy"),
    ),
    "search/history": Table(
        *("search/{model}/history.csv", "search"),
        MODEL
        | _columns(
            "cell method operator state_key",
            "x formation_mev_fu best_mev_fu",
            "evaluation generation n_occupied",
        ),
    ),
    "search/overview": Table(
        *("search/overview.csv", "search-overview"),
        MODEL | _columns("arranged cell", "x ga_mev_fu random_mev_fu", "n_occupied budget", "shown"),
    ),
    "search/pending": Table(
        *("search/pending.csv", "search-overview"),
        _columns("cell state_key charge_order asked_by formation_mev_fu", "x", "n_occupied models"),
    ),
    "dft/energies": Table(
        *("dft/energies.csv", "dft-energies"),
        ENERGIES | _columns("cell asked_key reason digest orbital", "formation_mev_fu", "n_occupied"),
    ),
    "thermodynamics/formation": Table(
        *("thermodynamics/formation.csv", "thermodynamics"),
        MODEL
        | _columns(
            "protocol method cell state_key status level",
            "x energy_ev formation_mev_fu above_hull_mev_fu fmax_ev_a",
            "degeneracy",
            "seen on_hull",
        ),
    ),
    "thermodynamics/hull": Table(
        *("thermodynamics/hull.csv", "thermodynamics"),
        MODEL | _columns("scope state_key cell protocol", "x formation_mev_fu"),
    ),
    "thermodynamics/voltage": Table(
        *("thermodynamics/voltage.csv", "thermodynamics"),
        MODEL | _columns("scope", "x_low x_high voltage_v"),
    ),
    "thermodynamics/scores": Table(
        *("thermodynamics/scores.csv", "thermodynamics"),
        MODEL
        | _columns(
            "status", "hull_mae_mev_fu voltage_mae_mv average_voltage_v", "compositions compositions_dft"
        ),
    ),
    "thermodynamics/summary": Table(
        "thermodynamics/summary.csv",
        "thermodynamics",
        _columns("model family variant", "hull_mae_mev_fu_mean"),
    ),
    "embedding/points": Table(
        *("embedding/{model}/points.parquet", "embedding"),
        MODEL
        | _columns(
            "origin frame_id state_key kind set network",
            "pc1 pc2",
            "step atom oxidation_state",
            "reference",
        ),
    ),
    "embedding/overview": Table(
        *("embedding/overview.csv", "embedding-overview"),
        MODEL | _columns("status", "redox_silhouette redox_accuracy"),
    ),
    "phase_diagram/structures": Table(
        *("phase_diagram/{model}/structures.csv", "phase-diagram-fit"),
        _columns(
            "asked_key state_key order status level",
            "x energy_ev formation_mev_fu fmax_ev_a",
            "formula_units round",
        ),
    ),
    "phase_diagram/fit": Table(
        *("phase_diagram/{model}/fit.csv", "phase-diagram-fit"),
        _columns(
            "system expansion",
            "rmse_mev_fu cross_validation_mev_fu held_out_rmse_mev_fu held_out_rmse_mev_site dielectric "
            "pairs_ordered",
            "structures orbits functions ground_states ground_states_found out_of_steps",
        ),
    ),
    "phase_diagram/replica_isotherms": Table(
        *("phase_diagram/{model}/isotherms.csv", "phase-diagram-sample"),
        _columns(
            "expansion direction",
            "temperature_k mu_ev x x_error energy_ev_site energy_error_ev_site heat_capacity_k_site "
            "autocorrelation",
            flag="equilibrated",
        ),
    ),
    "phase_diagram/replica_thermal": Table(
        *("phase_diagram/{model}/thermal.csv", "phase-diagram-sample"),
        _columns("expansion", f"temperature_k x {_THERMAL}"),
    ),
    "phase_diagram/replica_entropy": Table(
        *("phase_diagram/{model}/entropy.csv", "phase-diagram-sample"),
        _columns("", f"temperature_k x {_ENTROPIES}"),
    ),
    "phase_diagram/boundaries": Table(
        *("phase_diagram/boundaries.csv", "phase-diagram"),
        _columns(
            "system expansion rule scan",
            "temperature_k x_low x_low_std x_high x_high_std mu_ev mu_ev_std",
            "replicas",
        ),
    ),
    "phase_diagram/isotherms": Table(
        *("phase_diagram/isotherms.csv", "phase-diagram"),
        _columns(
            "system expansion direction",
            "temperature_k mu_ev x x_error energy_ev_site heat_capacity_k_site voltage_v",
            "replica",
            flag="single_phase",
        ),
    ),
    "phase_diagram/free_energy": Table(
        *("phase_diagram/free_energy.csv", "phase-diagram"),
        _columns("system expansion", f"temperature_k x {_THERMAL}"),
    ),
    "phase_diagram/entropy": Table(
        *("phase_diagram/entropy.csv", "phase-diagram"),
        _columns("system", f"temperature_k x {_ENTROPIES}"),
    ),
    "phase_diagram/features": Table(
        *("phase_diagram/features.csv", "phase-diagram"),
        _columns("system expansion kind", "eutectoid_k eutectoid_x closed_k hysteresis_v"),
    ),
    "comparison": Table(
        *("comparison/comparison.csv", "comparison"),
        MODEL
        | _columns(
            "init status level redox_states",
            "energy_mae_mev_atom force_mae_mev_a states_spearman hull_mae_mev_fu step_voltage_mae_mv "
            "redox_silhouette",
            "parameters train_frames relaxations",
        ),
    ),
    "comparison/contrasts": Table(
        *("comparison/contrasts.csv", "comparison"),
        _columns(
            "model family init endpoint variant_without variant_with reason",
            "error_without error_with difference low high p_value p_together",
            "trainings folds states",
            "decided",
        ),
    ),
    "ablation": Table(
        *("ablation/ablation.csv", "ablation"),
        _columns(
            "study label unit model_without model_changed reason",
            "error_without error_with difference low high p_value p_together published_without "
            "published_with",
            "trainings folds states",
            "decided",
        ),
    ),
    "charge_inference/atoms": Table(
        *("charge_inference/{model}/atoms.csv", "charge-inference"),
        _columns("stage", "moment_mub pc1 pc2", "removal atom state"),
    ),
    "charge_inference/removals": Table(
        *("charge_inference/{model}/removals.csv", "charge-inference"),
        _columns(
            "formula status host_status",
            "fmax_ev_a volume_a3 smaller_moment_mub larger_moment_mub gap_mub silhouette_moments "
            "silhouette_features silhouette_moments_before",
            "removal steps sites neutral_larger smaller larger ambiguous",
        ),
    ),
    "dynamics/series": Table(
        *("dynamics/{model}/series.csv", "dynamics-study"),
        _columns(
            "",
            "time_ps energy_ev temperature_k tetrahedral octahedral tetrahedral_moment_mub "
            "octahedral_moment_mub moment_mub",
        ),
    ),
    "dynamics/patterns": Table(
        *("dynamics/{model}/patterns.csv", "dynamics-study"), _columns("", "time_ps two_theta intensity")
    ),
    "dynamics/peaks": Table(*("dynamics/{model}/peaks.csv", "dynamics-study"), _columns("", "time_ps")),
    "dynamics/msd": Table(
        *("dynamics/{model}/msd.csv", "dynamics-study"),
        _columns("system", "temperature_k asked_k time_ps msd_a2 msd_error_a2 framework_msd_a2", "replica"),
    ),
    "dynamics/diffusion": Table(
        *("dynamics/{model}/diffusion.csv", "dynamics-study"),
        _columns(
            "system start_status reason",
            "temperature_k asked_k diffusivity_cm2_s diffusivity_error_cm2_s hops exponent",
            "replica ions",
        ),
    ),
    "dynamics/activation": Table(
        *("dynamics/{model}/activation.csv", "dynamics-study"),
        _columns("system paper", "activation_mev activation_error_mev prefactor_cm2_s", "temperatures"),
    ),
    "dynamics/hopping": Table(
        *("dynamics/{model}/hopping.csv", "dynamics-study"),
        _columns(
            "system start_status reason",
            "temperature_k asked_k electron_stay_ps electron_stay_low_ps electron_stay_high_ps ion_stay_ps "
            "ion_stay_low_ps ion_stay_high_ps near_reduced near_oxidised correlation correlation_low "
            "correlation_high p_value",
            "replica electrons electron_hops ions ion_hops exchanges_tried exchanges_accepted",
        ),
    ),
    "dynamics/occupation": Table(
        *("dynamics/{model}/occupation.csv", "dynamics-study"),
        _columns("system", "temperature_k asked_k time_ps", "replica"),
    ),
    "checks": Table(
        *("checks/checks.csv", "checks"),
        _columns("check first", count="violations"),
    ),
    "comparison/timings": Table("comparison/timings.csv", "comparison", MODEL, sealed=False),
}
