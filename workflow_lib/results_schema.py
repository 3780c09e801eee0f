"""The tables of a run: one schema per table, the same column name for the same quantity.

The end of a column's name gives the unit of a number (:func:`unit_of`); :data:`MEANINGS`, or the
table's own schema if it differs from table to table, gives the meaning of a column.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Protocol = Literal["single-point", "distorted", "undistorted"]
PROTOCOLS: tuple[Protocol, ...] = ("single-point", "distorted", "undistorted")
"""How a model computes the charge-ordered states: (a) at the DFT geometries, (b) relaxed from a
distorted start, (c) relaxed from the undistorted host."""
HEADLINE: Protocol = "distorted"
"""Protocol whose scores enter the comparison table: how a model is used in practice."""
DFT = "dft"
"""``source`` of energies that DFT gave; all others are ids of models, or ``ewald``."""
REFERENCE, SEARCH, RELAXATION = "reference", "search", "relaxation"
"""``protocol`` of DFT's answers to the charge-ordered states, of what a search evaluated, and of DFT
calculations asked for by a search."""
CONVERGED, UNCONVERGED, DIVERGED = "converged", "unconverged", "diverged"

UNITS = {
    "_mev_fu": "meV per formula unit",
    "_mev_atom": "meV per atom",
    "_ev_atom": "eV per atom",
    "_mev_a": "meV/A",
    "_ev_a": "eV/A",
    "_mev": "meV",
    "_ev": "eV",
    "_mv": "mV",
    "_v": "V",
    "_a3": "A^3",
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
    "source": "who says so: `dft`, the id of a trained model, or `ewald` (formal charges)",
    "model": "name of the model in the configuration",
    "family": "family of the network",
    "init": "scratch or pretrained",
    "variant": "which frames train and what the network sees of charge states",
    "fold": "fold of the splits",
    "seed": "seed of the training",
    "protocol": "how the energy came about: single-point, distorted, undistorted, reference, search, "
    "relaxation",
    "method": "ga, random or enumeration",
    "cell": "supercell of the host, e.g. 1x3x1",
    "state_key": "arrangement of ions and charge states; of ions alone where a charge-blind model asked",
    "ion_key": "arrangement of the mobile ions alone",
    "x": "occupied fraction of the mobile sites",
    "n_occupied": "number of mobile ions in the cell",
    "formula_units": "formula units in the cell",
    "energy_ev": "energy of the cell",
    "formation_mev_fu": "formation energy against the end members of the same source",
    "above_hull_mev_fu": "distance to the convex hull of the same source",
    "fmax_ev_a": "largest force on an atom at the end",
    "volume_a3": "volume of the cell",
    "status": "converged, unconverged (out of steps) or diverged; of DFT calculations that of the store: "
    "done, failed, running, interrupted, pending",
    "level": "level of theory: code/functional/U/cut-off/mesh/magnetic order",
    "degeneracy": "equivalent arrangements in the cell",
    "seen": "whether a frame of the state trained the model or chose its epoch",
    "role": "set of the state in the model's fold: train, validation, test or none",
    "frame_id": "frame of the dataset",
    "steps": "steps of the relaxation",
    "scope": "enumerated: states that DFT knows; searched: these and all that the searches evaluated",
}

Kind = Literal["text", "number", "count", "flag"]
"""``count`` is a whole number, ``flag`` true or false; any of them may be missing in a row."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table of a run: its file, the command that writes it, and the columns that every reader may use.

    ``file`` is relative to the run folder; ``{model}`` stands for the id of a trained model. A table
    may hold more columns than ``columns``; these it must have. ``command`` is that of the command line.
    Timings are not ``sealed``: they differ from run to run.
    """

    file: str
    command: str
    columns: Mapping[str, Kind]
    meanings: Mapping[str, str] = field(default_factory=dict)
    sealed: bool = True

    @property
    def per_model(self) -> bool:
        """Whether there is one table for each trained model."""
        return "{model}" in self.file

    def meaning_of(self, column: str) -> str:
        """Return the meaning of a column, with its unit; empty if the name is clear by itself."""
        text = self.meanings.get(column, MEANINGS.get(column, ""))
        unit = unit_of(column)
        return f"{text} ({unit})" if text and unit else text or unit


IDENTITY: dict[str, Kind] = {
    **{"source": "text", "model": "text", "variant": "text", "fold": "count", "seed": "count"}
}
ENERGIES: dict[str, Kind] = {
    **{"source": "text", "protocol": "text", "state_key": "text", "ion_key": "text", "x": "number"},
    **{"formula_units": "count", "energy_ev": "number", "fmax_ev_a": "number", "volume_a3": "number"},
    **{"status": "text", "level": "text"},
}
"""Columns of every table of energies: charge_order, search and dft write them, thermodynamics and the
comparison filter them."""


def _columns(text: str = "", number: str = "", count: str = "", flag: str = "") -> dict[str, Kind]:
    kinds: dict[Kind, str] = {"text": text, "number": number, "count": count, "flag": flag}
    return {name: kind for kind, names in kinds.items() for name in names.split()}


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
        {"above_lowest_mev_atom": "energy above the lowest frame of the same state"},
    ),
    "dataset/coverage": Table("dataset/coverage.csv", "dataset", _columns("label", "share", "frames")),
    "dataset/charge_states": Table(
        "dataset/charge_states.csv", "dataset", _columns("material", count="groups frames labelled")
    ),
    "dataset/redox": Table(
        *("dataset/redox.csv", "dataset"),
        _columns("quantity state", "low high", "sites disagreeing"),
        {"low": "lower edge of the bin, muB or e", "high": "upper edge of the bin, muB or e"},
    ),
    "dataset/elements": Table(
        "dataset/elements.csv", "dataset", _columns("element", count="z frames atoms")
    ),
    "training/history": Table(
        *("training/{model}/history.csv", "train"),
        _columns(number="learning_rate train_loss validation_loss", count="epoch"),
    ),
    "training/metrics": Table(
        *("training/{model}/metrics.csv", "train"),
        _columns("set kind label metric unit status", "value low high", "count"),
        {"value": "error in `unit`", "low": "lower end of the 95 % interval", "high": "upper end"},
    ),
    "training/parity": Table(
        *("training/{model}/parity.parquet", "train"),
        _columns("frame_id set kind label component", "dft model", "atom", "redox"),
        {
            "dft": "eV/atom, eV/A, eV/A^3, muB or e, by `label`",
            "model": "the model's number, units as `dft`",
            "atom": "index in the frame, -1 for the whole cell",
        },
    ),
    "charge_order/reference": Table(
        *("charge_order/reference.csv", "charge-order-reference"),
        ENERGIES | _columns("group frame_id orbital", "formation_mev_fu bond_gap_a", "paths degeneracy"),
        {
            "paths": "calculations that end in the state",
            "bond_gap_a": "mean bond length of the lower-state redox sites minus that of the others",
        },
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
        {
            "order": "whether predicted moments show the wanted charge order: kept, changed, ambiguous, "
            "off-site (an atom has left its site); empty where the family predicts none",
            "realised_key": "the state that the predicted moments show",
            "moment_gap_mub": "mean predicted moment of the higher-state sites minus that of the others",
            "bond_gap_a": "mean bond length of the lower-state redox sites minus that of the others",
        },
    ),
    "charge_order/overview": Table(
        *("charge_order/overview.csv", "charge-order-overview"),
        IDENTITY | _columns("family init protocol", "states_spearman states_mae_mev_fu", flag="headline"),
    ),
    "charge_order/pooled": Table(
        *("charge_order/pooled.csv", "charge-order-overview"),
        _columns("model family init variant protocol", "spearman mae_mev_fu", "folds seeds states"),
    ),
    "charge_order/identical": Table(
        *("charge_order/identical/identical.csv", "charge-order-identical"),
        IDENTITY | _columns("atoms state_key frame_id role status", "dft_mev_fu model_mev_fu"),
        {
            "atoms": "name of the shared positions",
            "dft_mev_fu": "energy relative to the mean over the orders on the same atoms",
            "model_mev_fu": "the model's, relative to its own mean",
        },
    ),
    "charge_order/identical_scores": Table(
        *("charge_order/identical/identical_scores.csv", "charge-order-identical"),
        IDENTITY | _columns("", "mae_mev_fu spread_ratio pairs_ordered", "orders pairs"),
    ),
    "search/found": Table(
        *("search/{model}/found.csv", "search"),
        ENERGIES | _columns("cell method", "formation_mev_fu", "order n_occupied steps degeneracy"),
        {"order": "counts from 1 within cell and method"},
    ),
    "search/history": Table(
        *("search/{model}/history.csv", "search"),
        _columns(
            "source cell method operator state_key",
            "x formation_mev_fu best_mev_fu",
            "evaluation generation n_occupied",
        ),
        {"best_mev_fu": "lowest formation energy so far at this composition"},
    ),
    "search/overview": Table(
        *("search/overview.csv", "search-overview"),
        _columns("source arranged cell", "x ga_mev_fu random_mev_fu", "n_occupied budget", "shown"),
    ),
    "search/pending": Table(
        *("search/pending.csv", "search-overview"),
        _columns("cell state_key charge_order asked_by formation_mev_fu", "x", "n_occupied models"),
        {
            "charge_order": "given, or open: the lowest order on these ions is asked for",
            "models": "number of models that ask",
            "asked_by": "their ids, divided by ;",
            "formation_mev_fu": "one number a model of `asked_by`, divided by ;",
        },
    ),
    "dft/energies": Table(
        *("dft/energies.csv", "dft-energies"),
        ENERGIES | _columns("cell asked_key reason digest", "formation_mev_fu", "n_occupied"),
        {
            "asked_key": "the arrangement that was asked for, perhaps of ions alone",
            "state_key": "the arrangement that is computed",
            "digest": "name of the calculation in the store",
        },
    ),
    "thermodynamics/formation": Table(
        *("thermodynamics/formation.csv", "thermodynamics"),
        IDENTITY
        | _columns(
            "protocol method cell state_key status",
            "x energy_ev formation_mev_fu above_hull_mev_fu fmax_ev_a",
            "degeneracy",
            "seen on_hull",
        ),
    ),
    "thermodynamics/hull": Table(
        *("thermodynamics/hull.csv", "thermodynamics"),
        IDENTITY | _columns("scope state_key cell protocol", "x formation_mev_fu"),
    ),
    "thermodynamics/voltage": Table(
        *("thermodynamics/voltage.csv", "thermodynamics"),
        IDENTITY | _columns("scope", "x_low x_high voltage_v"),
    ),
    "thermodynamics/scores": Table(
        *("thermodynamics/scores.csv", "thermodynamics"),
        IDENTITY | _columns("status", "hull_mae_mev_fu voltage_mae_mv average_voltage_v", "compositions"),
    ),
    "thermodynamics/summary": Table(
        "thermodynamics/summary.csv", "thermodynamics", _columns("model variant", "hull_mae_mev_fu_mean")
    ),
    "embedding/points": Table(
        *("embedding/{model}/points.parquet", "embedding"),
        _columns(
            "origin frame_id state_key kind set network",
            "pc1 pc2",
            "step atom oxidation_state",
            "reference",
        ),
        {
            "origin": "a DFT `frame`, or a point of the followed `path`",
            "network": "trained or untrained",
            "step": "step of the followed relaxation, -1 for frames",
        },
    ),
    "embedding/overview": Table(
        *("embedding/overview.csv", "embedding-overview"),
        IDENTITY | _columns("status", "redox_silhouette redox_accuracy"),
    ),
    "comparison": Table(
        *("comparison/comparison.csv", "comparison"),
        IDENTITY
        | _columns(
            "family init status",
            "energy_mae_mev_atom force_mae_mev_a states_spearman hull_mae_mev_fu step_voltage_mae_mv "
            "redox_silhouette",
            "parameters train_frames relaxations",
        ),
    ),
    "comparison/contrasts": Table(
        *("comparison/contrasts.csv", "comparison"),
        _columns(
            "endpoint model family init variant_without variant_with reason",
            "error_without error_with difference low high",
            "trainings states",
            "decided",
        ),
        {
            "endpoint": "column of the comparison table; the errors are in its unit",
            "difference": "error with the label minus error without it, on the same DFT numbers",
            "low": "lower end of the 95 % interval over states and trainings",
            "high": "upper end",
            "trainings": "pairs of trainings (folds and seeds) behind the row",
            "decided": "three trainings or more, interval excludes zero; else `reason` says why not",
        },
    ),
    "checks": Table(
        *("checks/checks.csv", "checks"),
        _columns("check first", count="violations"),
        {"first": "the first violation, in words"},
    ),
    "comparison/timings": Table("comparison/timings.csv", "comparison", _columns("source"), sealed=False),
}

DOCUMENTS: dict[str, tuple[str, ...]] = {
    "sources": ("frames.parquet", "summary.json"),
    "dataset": ("frames.parquet", "splits.json", "summary.json"),
    "train": ("card.json", "model.safetensors", "labels.json"),
    "charge-order-reference": ("reference.extxyz",),
    "charge-order": ("scores.json", "structures.extxyz"),
    "search": ("summary.json", "found.extxyz"),
    "embedding": ("scores.json",),
}
"""Files other than tables and figures that a command writes. Timings differ from run to run and are no
part of what is sealed."""

FIGURES: dict[str, tuple[str, str]] = {
    **{
        f"dataset/{name}": (f"dataset/{name}", "dataset")
        for name in ("composition", "redox", "energy", "coverage", "charge_states", "elements")
    },
    "training/learning": ("training/{model}/learning", "train"),
    "training/parity": ("training/{model}/parity", "train"),
    "charge_order/states": ("charge_order/{model}/states", "charge-order"),
    "charge_order/overview": ("charge_order/overview", "charge-order-overview"),
    "charge_order/identical": ("charge_order/identical/identical", "charge-order-identical"),
    "search/progress": ("search/{model}/progress", "search"),
    "search/overview": ("search/overview", "search-overview"),
    **{
        f"thermodynamics/{name}": (f"thermodynamics/{name}", "thermodynamics")
        for name in ("hull", "voltage", "found", "hull_controls", "voltage_controls", "found_controls")
    },
    "embedding/pca": ("embedding/{model}/pca", "embedding"),
    "embedding/overview": ("embedding/overview", "embedding-overview"),
    "comparison": ("comparison/comparison", "comparison"),
}
"""Figures by name: file without suffix (each is there as SVG and PNG), and the command that draws it."""


def files_of(command: str) -> list[str]:
    """Return the names of all files that a command may write into its folder, except timings."""
    tables = [t.file for t in TABLES.values() if t.command == command and t.sealed]
    stems = [stem for stem, by in FIGURES.values() if by == command]
    figures = [f"{stem}{suffix}" for stem in stems for suffix in (".svg", ".png")]
    names = [path.rpartition("/")[2] for path in (*tables, *figures)]
    return sorted({*names, *DOCUMENTS.get(command, ())})
