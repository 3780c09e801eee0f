"""A run folder with everything that the report page shows, made in seconds from DFT's own states.

Models answer DFT's energies, moved by known amounts. Texts of the user carry markup, which must stay text.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from ase.io import write
from naming import naming
from samples import HOST, REFERENCE, RULE
from sealed import write_sealed

from workflow_lib.core.io import read_json, write_csv, write_json
from workflow_lib.frames.frame import Frame
from workflow_lib.frames.table import write_parquet
from workflow_lib.lattice.host import Host
from workflow_lib.lattice.redox import RedoxRule
from workflow_lib.results_reading import read_reference, seal, write_table
from workflow_lib.results_schema import TABLES
from workflow_lib.stages.charge_order.reference import build_reference
from workflow_lib.stages.thermodynamics import figures
from workflow_lib.stages.thermodynamics.run import run_thermodynamics
from workflow_lib.stages.thermodynamics.settings import ThermodynamicsSettings

HOSTILE = "</script><img src=x onerror=alert(1)>&<b>level"
MODELS = {  # id: shift of the energies with x in eV a cell, and of the order Fe2233
    "mace-baseline-f0-s1": (0.30, 0.4),
    "mace-entropy-f0-s1": (0.05, 0.1),
    "painn-baseline-f0-s1": (-0.20, -0.3),
    "painn-entropy-f0-s1": (0.10, 0.2),
}
SYSTEMS = ("NaxFePO4", "LixFePO4")
FRAMES = 40
E_NA = -1.3238


def configuration() -> dict:
    """The configuration as a run folder has it."""
    named = naming(*MODELS)
    return named | {
        "run": "toy",
        "redox": RULE,
        "dataset": named["dataset"] | {"energy_reference": HOSTILE, "split_by": "state"},
        "charge_order": {"identical_atoms": "identical.parquet"},
        "training": {"epochs": 3, "max_steps": None},
        "report": {"beside": None},
        "phase_diagram": {
            "systems": [{"name": name} for name in SYSTEMS],
            "sampling": {"replicas": 1},
        },
        "note": HOSTILE,
    }


def make_run(folder: Path, frames: list[Frame], host: Host) -> Path:
    """Write the run to ``folder`` and return it."""
    write_json(folder / "config.json", configuration())
    write_json(
        folder / "provenance.json",
        {
            "configuration": configuration(),
            "made_with": [
                {"commit": HOSTILE, "python": "3.12", "machine": "toy", "versions": {"torch": "2.13"}}
            ],
            "data_sha256": {HOSTILE: "0" * 64},
        },
    )
    some = [frame for frame in frames if frame.state_key][:: max(1, len(frames) // FRAMES)][:FRAMES]
    _dataset(folder / "dataset", some)
    write_parquet(frames, folder / "work/frames.parquet")
    build_reference(folder / "work/frames.parquet", host, folder / "charge_order")
    for model, (tilt, bump) in MODELS.items():
        _charge_order(folder, model, tilt, bump)
        _search(folder, model, host)
        _training(folder, model, some)
        _embedding(folder, model, some)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "draw_all", lambda *_, **__: None)  # the page draws its own
        run_thermodynamics(
            reference_dir=folder / "charge_order",
            charge_order_dirs=[folder / "charge_order" / model for model in MODELS],
            search_dirs=[folder / "search" / model for model in MODELS],
            dft_dir=write_sealed("dft/energies", folder / "dft", pd.DataFrame()).parent,
            host=Host.load(HOST, RedoxRule.model_validate(RULE)),
            cells="fixed",
            settings=ThermodynamicsSettings.model_validate(
                {"metals": [{"element": "Na", "level": REFERENCE, "energy_ev": E_NA, "source": "bcc"}]}
            ),
            out=folder / "thermodynamics",
        )
    _identical(folder)
    _comparison(folder)
    write_sealed(
        "checks", folder / "checks", pd.DataFrame({"check": ["hull"], "violations": [0], "first": [None]})
    )
    return folder


def configure(folder: Path, changed: dict) -> None:
    """Give a finished run another configuration."""
    write_json(folder / "config.json", changed)
    provenance = read_json(folder / "provenance.json")
    write_json(folder / "provenance.json", provenance | {"configuration": changed})


def _dataset(folder: Path, frames: list[Frame]) -> None:
    write_parquet(frames, folder / "frames.parquet")
    write_json(
        folder / "summary.json",
        {
            "frames": {"kept": len(frames), "read": len(frames)},
            "frames_by_composition": {"NaFePO4": len(frames)},
            "source": {"path": HOSTILE},
        },
    )
    picture = '<svg xmlns="http://www.w3.org/2000/svg" width="90" height="40">{}</svg>'
    (folder / "redox.svg").write_text(picture.format('<rect width="90" height="40"/>'))
    for system in SYSTEMS:  # a stage that the page knows nothing of
        (folder.parent / "phase_diagram" / system).mkdir(parents=True)
        (folder.parent / "phase_diagram" / system / "fit.svg").write_text(picture.format(""))
        seal(folder.parent / "phase_diagram" / system, "phase-diagram-fit", source=system)
    seal(folder, "dataset")


def _charge_order(folder: Path, model: str, tilt: float, bump: float) -> None:
    table, structures = read_reference(folder / "charge_order")
    dft = table["energy_ev"]
    order = table["state_key"].str.endswith("Fe2233")
    rows = table.assign(
        **_identity(model),
        **{"protocol": "distorted", "status": "converged", "role": "test"},
        energy_ev=dft + tilt * table["x"] + bump * order,
        dft_energy_ev=dft,
        dft_formation_mev_fu=table["formation_mev_fu"],
        dft_fmax_ev_a=table["fmax_ev_a"],
        seen=table["x"] != 0.5,
        fmax_ev_a=0.031,
    )
    out = folder / "charge_order" / model
    write_csv(
        rows.assign(**dict.fromkeys(set(TABLES["charge_order/states"].columns) - set(rows))),
        out / "states.csv",
    )
    for atoms, key in zip(structures, table["state_key"], strict=True):
        atoms.calc = None
        atoms.info = {"protocol": "distorted", "state_key": key, "status": "converged"}
        atoms.arrays = {
            k: v for k, v in atoms.arrays.items() if k in ("numbers", "positions", "oxidation_states")
        }
    write(out / "structures.extxyz", structures, format="extxyz")
    seal(out, "charge-order", source=model)


def _search(folder: Path, model: str, host: Host) -> None:
    table, _ = read_reference(folder / "charge_order")
    energy = table.set_index("x")["energy_ev"]
    line = 3 * (float(energy[0.0]) / 3 + 2 * float(energy[1.0]) / 3)
    rng = np.random.default_rng(5)
    rows, found = [], []
    for number in range(4):
        arrangement = host.random((1, 3, 1), 8, charges=True, rng=rng)
        key = host.key(arrangement)
        row = {"id": model, "cell": "1x3x1", "state_key": key, "x": 2 / 3, "n_occupied": 8}
        row |= {"method": ("ga", "random")[number % 2], "status": "converged", "degeneracy": 12}
        rows.append(row | {"energy_ev": line + 0.3 * number, "protocol": "search", "formula_units": 12})
        if number == 0:
            atoms = host.build(arrangement)
            atoms.info = {"state_key": key}
            found.append(atoms)
    out = folder / "search" / model
    write_sealed("search/found", out, pd.DataFrame(rows))
    write(out / "found.extxyz", found, format="extxyz")
    seal(out, "search", source=model)


def leave_behind(folder: Path, frames: list[Frame]) -> None:
    """Add what an earlier configuration left: a model, another seed, a system, a study of a stage."""
    for model in ("chgnet-baseline-f0-s1", "mace-baseline-f0-s9"):
        _training(folder, model, frames[:FRAMES])
    picture = '<svg xmlns="http://www.w3.org/2000/svg" width="90" height="40"/>'
    for place, command in (
        ("phase_diagram/KxFePO4/fit.svg", "phase-diagram-fit"),
        ("dynamics/old/hopping.svg", "dynamics-study"),
        ("ablation/ablation.svg", "ablation"),
    ):
        path = folder / place
        path.parent.mkdir(parents=True)
        path.write_text(picture)
        seal(path.parent, command)
    cited = {"source": "old", "citation": "An earlier set of frames", "license": "none", "frames": 3}
    write_sealed("sources/citations", folder / "sources", pd.DataFrame([cited]))


def _training(folder: Path, model: str, frames: list[Frame]) -> None:
    out = folder / "training" / model
    out.mkdir(parents=True)
    write_json(out / "card.json", {})
    error = 0.004 if "entropy" in model else 0.007
    parity = pd.DataFrame({"frame_id": [frame.frame_id for frame in frames]})
    dft = np.array([frame.energy / len(frame) for frame in frames])
    parity = parity.assign(
        **{
            "set": ["train", "test"] * (len(frames) // 2),
            "kind": "relaxation",
            "label": "energy",
            "atom": -1,
        },
        **{"component": "", "redox": False, "dft_value": dft, "model_value": dft + error},
    )
    write_table("training/parity", parity, out, owner=_identity(model))
    history = pd.DataFrame({"epoch": [1, 2, 3], "learning_rate": 1e-3, "train_loss": [3.0, 2, 1]})
    history = history.assign(validation_loss=[4.0, 3, 2])
    history["validation_forces_mae_mev_a"] = [300.0, 200, 1e5 * error]
    write_table("training/history", history, out, owner=_identity(model))
    seal(out, "train", source=model)


def _embedding(folder: Path, model: str, frames: list[Frame]) -> None:
    rows = [
        {"origin": "frame", "frame_id": frame.frame_id, "state_key": frame.state_key, "kind": frame.kind}
        | {"set": "train", "reference": False, "step": -1, "atom": int(atom), "network": "trained"}
        | {
            "oxidation_state": int(state),
            "pc1": float(state) + 0.01 * k * (1 + list(MODELS).index(model)),
            "pc2": 0.1 * k,
        }
        for k, frame in enumerate(frames)
        for atom, state in enumerate(frame.oxidation_states)
        if state
    ]
    out = folder / "embedding" / model
    out.mkdir(parents=True)
    write_table("embedding/points", pd.DataFrame(rows), out, owner=_identity(model))
    seal(out, "embedding", source=model)


def _identity(model: str) -> dict:
    name, variant, fold, seed = model.split("-")
    return {
        "id": model,
        "model": name,
        "family": name,
        "variant": variant,
        "fold": int(fold[1:]),
        "seed": int(seed[1:]),
    }


def _identical(folder: Path) -> None:
    rows, scores = [], []
    for model in MODELS:
        for key, dft in (("1x1x1:Na1001:Fe2323", -10.0), ("1x1x1:Na1001:Fe2233", 10.0)):
            own = 0.0 if "baseline" in model else 0.6 * dft
            rows.append(
                _identity(model)
                | {"atoms": "1x1x1:Na1001", "state_key": key, "frame_id": HOSTILE, "role": "test"}
                | {"status": "ok", "dft_mev_fu": dft, "model_mev_fu": own}
            )
        error = 20.0 if "baseline" in model else 8.0
        scores.append(
            _identity(model) | {"mae_mev_fu": error, "orders": 2, "pairs": 1, "blind_mae_mev_fu": 20.0}
        )
    out = folder / "charge_order/identical"
    write_sealed("charge_order/identical", out, pd.DataFrame(rows))
    write_sealed("charge_order/identical_scores", out, pd.DataFrame(scores))


def _comparison(folder: Path, *, decided: bool = False) -> None:
    rows = [
        _identity(model)
        | {
            "init": "scratch",
            "status": "ok",
            "parameters": 1000,
            "relaxations": 20,
        }
        | {
            "train_frames": 257 if "entropy" in model else 330,
            "energy_mae_mev_atom": 4.0 if "entropy" in model else 7.0,
        }
        for model in MODELS
    ]
    write_sealed("comparison", folder / "comparison", pd.DataFrame(rows))
    write_contrasts(folder, decided=decided)


def write_contrasts(folder: Path, *, decided: bool) -> None:
    """Write the contrasts of the toy models: decided for both, or for none."""
    rows = [
        {"endpoint": endpoint, "model": model, "family": model, "init": "scratch"}
        | {
            "variant_without": "baseline",
            "variant_with": "entropy",
            "trainings": 3 if decided else 1,
            "folds": 1,
            "states": 7,
        }
        | {"error_without": 7.0, "error_with": 4.0, "difference": -3.0, "low": -5.0, "high": -1.0}
        | {
            "decided": decided,
            "reason": "given the training set of 1 fold" if decided else "trained 1 time",
        }
        for endpoint in ("energy_mae_mev_atom", "states_mae_mev_fu")
        for model in ("mace", "painn")
    ]
    write_sealed("comparison/contrasts", folder / "comparison", pd.DataFrame(rows))
