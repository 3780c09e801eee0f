"""The files of a run: figures and documents, and all that a command writes, tables included."""

from __future__ import annotations

from workflow_lib.results_schema import TABLES

DOCUMENTS: dict[str, tuple[str, ...]] = {
    "sources": ("frames.parquet", "summary.json"),
    "dataset": ("frames.parquet", "splits.json", "summary.json"),
    "train": ("card.json", "model.safetensors", "labels.json"),
    "charge-order-reference": ("reference.extxyz", "known_states.json"),
    "charge-order": ("scores.json", "structures.extxyz"),
    "search": ("summary.json", "found.extxyz"),
    "embedding": ("scores.json",),
    "report": ("index.html", "answer.json"),
    "phase-diagram-fit": ("decorated.json", "plain.json", "summary.json"),
    "charge-inference": ("summary.json",),
    "dynamics": ("summary.json",),
    "dynamics-study": ("study.json",),
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
        for name in ("hull", "voltage", "found", "hull_controls", "voltage_controls")
    },
    "embedding/pca": ("embedding/{model}/pca", "embedding"),
    "embedding/overview": ("embedding/overview", "embedding-overview"),
    "phase_diagram/fit": ("phase_diagram/{model}/fit", "phase-diagram-fit"),
    **{
        f"phase_diagram/{name}": (f"phase_diagram/{name}", "phase-diagram")
        for name in ("diagram", "entropy", "isotherms")
    },
    "comparison": ("comparison/comparison", "comparison"),
    "ablation": ("ablation/ablation", "ablation"),
    "charge_inference/charges": ("charge_inference/{model}/charges", "charge-inference"),
    "dynamics/moments": ("dynamics/{model}/moments", "dynamics-study"),
    "dynamics/diffusion": ("dynamics/{model}/diffusion", "dynamics-study"),
    "dynamics/hopping": ("dynamics/{model}/hopping", "dynamics-study"),
}
"""Figures by name: file without suffix (each is there as SVG and PNG), and the command that draws it."""


def files_of(command: str) -> list[str]:
    """Return the names of all files that a command may write into its folder, except timings."""
    tables = [t.file for t in TABLES.values() if t.command == command and t.sealed]
    stems = [stem for stem, by in FIGURES.values() if by == command]
    figures = [f"{stem}{suffix}" for stem in stems for suffix in (".svg", ".png")]
    names = [path.rpartition("/")[2] for path in (*tables, *figures)]
    return sorted({*names, *DOCUMENTS.get(command, ())})
