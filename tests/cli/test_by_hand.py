"""The commands a user runs by hand: evaluate, predict, relax, convert."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from ase.io import read, write
from networks import learnt
from samples import REFERENCE, ROOT

from workflow_lib.__main__ import main
from workflow_lib.config_files import load_config
from workflow_lib.frames.foreign import write_frames
from workflow_lib.frames.frame import Frame, frame_to_atoms, with_labels
from workflow_lib.frames.table import read_parquet
from workflow_lib.lattice.redox import RedoxRule
from workflow_lib.models.registry import FAMILIES
from workflow_lib.models.species import species_alphabet
from workflow_lib.models.trained import TrainedModel, species_to_card


class Said(NamedTuple):
    """What a command printed and its exit status."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """The command line, called in this process."""

    def call(*arguments: object) -> Said:
        capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        return Said(status, *capsys.readouterr())

    return call


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory, rule: RedoxRule) -> Path:
    """A charge-labelled cPaiNN with random weights: it predicts every kind of label."""
    config = load_config(ROOT / "config/smoke.yaml")
    hyperparameters = config.hyperparameters("cpainn")
    species = species_alphabet(rule, [8, 11, 15, 26], "surrogate")
    potential = FAMILIES["cpainn"].load().build(hyperparameters, species, init="scratch", seed=3)
    card = {
        "name": "cpainn",
        "family": "cpainn",
        "init": "scratch",
        "hyperparameters": hyperparameters.model_dump(mode="json"),
        "species": species_to_card(species),
        "redox_embedding": "surrogate",
        "redox": rule.model_dump(mode="json"),
        "energy_reference": REFERENCE,
        "status": "ok",
        "training": learnt("energy", "forces", "magmoms", "charges"),
    }
    folder = tmp_path_factory.mktemp("model")
    TrainedModel(potential, card).save(folder)
    return folder


@pytest.fixture
def half(frames: list[Frame]) -> Frame:
    """One frame at x = 1/2."""
    return next(frame for frame in frames if frame.group == "x050_s1")


@pytest.mark.parametrize("suffix", [".parquet", ".extxyz"])
def test_evaluate_prints_the_columns_of_the_table(
    cli: Callable[..., Said], tmp_path: Path, model_dir: Path, frames: list[Frame], suffix: str
) -> None:
    chosen = [with_labels(f, charges=None) for f in frames[:4]]
    write_frames(chosen, tmp_path / f"frames{suffix}")
    done = cli("evaluate", model_dir, tmp_path / f"frames{suffix}", "--json")
    assert done.returncode == 0, done.stderr
    values = json.loads(done.stdout)
    assert values["frames"] == 4
    assert values["charge_mae_e"] is None  # the file has no charges
    model = TrainedModel.load(model_dir)
    predicted = model.predict([frame_to_atoms(f) for f in chosen])
    expected = np.mean([abs(p.energy - f.energy) / len(f) for p, f in zip(predicted, chosen, strict=True)])
    assert values["energy_mae_mev_atom"] == pytest.approx(1e3 * expected, rel=1e-6)  # same numbers, printed
    assert values["force_rmse_mev_a"] >= values["force_mae_mev_a"] > 0


def test_evaluate_refuses_another_level_of_theory(
    cli: Callable[..., Said], tmp_path: Path, model_dir: Path, frames: list[Frame]
) -> None:
    write_frames([with_labels(frames[0], energy_reference="VASP/PBE/520")], tmp_path / "f.parquet")
    done = cli("evaluate", model_dir, tmp_path / "f.parquet")
    assert done.returncode == 2
    assert "different levels" in done.stderr
    assert done.stderr.count("\n") == 1


def test_predict_json(cli: Callable[..., Said], tmp_path: Path, model_dir: Path, half: Frame) -> None:
    atoms = frame_to_atoms(half)
    write(tmp_path / "a.extxyz", atoms)
    done = cli("predict", model_dir, tmp_path / "a.extxyz", "--json")
    assert done.returncode == 0, done.stderr
    values = json.loads(done.stdout)
    assert set(values) == {"energy", "forces", "magmoms", "charges", "oxidation_states"}
    assert np.shape(values["forces"]) == (len(atoms), 3)
    assert values["oxidation_states"] == half.oxidation_states.tolist()


def test_predict_without_labels_explains_and_searches(
    cli: Callable[..., Said], tmp_path: Path, model_dir: Path, half: Frame
) -> None:
    atoms = frame_to_atoms(with_labels(half, oxidation_states=None, magmoms=None))
    write(tmp_path / "a.extxyz", atoms)
    refused = cli("predict", model_dir, tmp_path / "a.extxyz", "--json")
    assert refused.returncode == 2
    assert "--assign search" in refused.stderr
    searched = cli("predict", model_dir, tmp_path / "a.extxyz", "--json", "--assign", "search")
    assert searched.returncode == 0, searched.stderr
    states = np.array(json.loads(searched.stdout)["oxidation_states"])
    assert sorted(states[states > 0]) == [2, 2, 3, 3]


@pytest.mark.parametrize("given", ["labels", "moments", None])
def test_a_search_that_was_none_is_said(
    cli: Callable[..., Said], tmp_path: Path, model_dir: Path, half: Frame, given: str | None
) -> None:
    """The charge states of the file are used, and a line says how to search all the same."""
    left_out = {"labels": {"magmoms": None}, "moments": {"oxidation_states": None}}
    nothing = {"oxidation_states": None, "magmoms": None}
    atoms = frame_to_atoms(with_labels(half, **left_out.get(given, nothing)))
    write(tmp_path / "a.extxyz", atoms)
    for rest in (("--json",), (tmp_path / "b.extxyz", "--max-steps", 0)):
        name = "predict" if "--json" in rest else "relax"
        done = cli(name, model_dir, tmp_path / "a.extxyz", *rest, "--assign", "search")
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("nothing was searched: remove its array") == (given is not None)
        if name == "predict" and given:
            assert json.loads(done.stdout)["oxidation_states"] == half.oxidation_states.tolist()


def test_predict_refuses_a_charged_cell(
    cli: Callable[..., Said], tmp_path: Path, model_dir: Path, half: Frame
) -> None:
    states = half.oxidation_states.copy()
    states[states == 3] = 2
    write(tmp_path / "a.extxyz", frame_to_atoms(with_labels(half, oxidation_states=states)))
    done = cli("predict", model_dir, tmp_path / "a.extxyz")
    assert done.returncode == 2
    assert "not neutral" in done.stderr


def test_relax_writes_a_structure_in_its_cell(
    cli: Callable[..., Said], tmp_path: Path, model_dir: Path, half: Frame
) -> None:
    atoms = frame_to_atoms(half)
    write(tmp_path / "a.extxyz", atoms)
    out = tmp_path / "b.extxyz"
    done = cli("relax", model_dir, tmp_path / "a.extxyz", out, "--max-steps", 3)
    # What a long relaxation shows on the way: steps, energy, largest force.
    which, first, last = done.stderr.splitlines()
    assert which.startswith("the last structure of ") and which.endswith(f", {len(atoms)} atoms")
    assert "relaxing a.extxyz: 0 of 3 steps" in first
    assert "3 of 3 steps in" in last and "energy -" in last and "largest force" in last
    assert done.returncode == 0, done.stderr
    relaxed = read(out)
    assert np.array_equal(relaxed.cell[:], atoms.cell[:])
    assert not np.allclose(relaxed.positions, atoms.positions, atol=1e-6)
    assert relaxed.get_potential_energy() < TrainedModel.load(model_dir).predict([atoms])[0].energy


def test_convert_there_and_back(cli: Callable[..., Said], tmp_path: Path, frames: list[Frame]) -> None:
    write_frames(frames[:5], tmp_path / "a.parquet")
    for source, target in (("a.parquet", "b.extxyz"), ("b.extxyz", "c.db"), ("c.db", "d.parquet")):
        done = cli("convert", tmp_path / source, tmp_path / target)
        assert done.returncode == 0, done.stderr
        assert f"5 frames written to {tmp_path / target}: forces 5, stress " in done.stdout
        assert f"; level {frames[0].energy_reference}" in done.stdout
    done = cli("convert", tmp_path / "b.extxyz", tmp_path / "b.extxyz")
    assert done.returncode == 2 and "is the file that is read" in done.stderr
    back = read_parquet(tmp_path / "d.parquet")
    for before, after in zip(frames[:5], back, strict=True):
        assert after.energy_reference == before.energy_reference
        # extended XYZ keeps 8 decimals of positions and forces
        assert np.allclose(after.positions, before.positions, atol=1e-7)
        assert np.allclose(after.forces, before.forces, atol=1e-7)
        assert np.array_equal(after.oxidation_states, before.oxidation_states)


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (lambda folder: (folder / "card.json").unlink(), "card.json is missing"),
        (lambda folder: (folder / "card.json").write_text("{"), "not valid JSON"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 100), "damaged"),
        (
            lambda folder: (folder / "card.json").write_text(
                (folder / "card.json").read_text().replace('"family": "cpainn"', '"family": "mace"')
            ),
            "mace",
        ),
    ],
)
def test_damaged_model_folder(
    cli: Callable[..., Said], tmp_path: Path, model_dir: Path, half: Frame, prepare: object, words: str
) -> None:
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(model_dir, folder)
    prepare(folder)  # type: ignore[operator]
    write(tmp_path / "a.extxyz", frame_to_atoms(half))
    done = cli("predict", folder, tmp_path / "a.extxyz")
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1


def test_missing_structure(cli: Callable[..., Said], tmp_path: Path, model_dir: Path) -> None:
    done = cli("predict", model_dir, tmp_path / "none.cif")
    assert done.returncode == 2
    assert "none.cif" in done.stderr
    assert done.stderr.count("\n") == 1


def test_predict_prints_units_and_an_atom_a_row(
    cli: Callable[..., Said], tmp_path: Path, model_dir: Path, half: Frame
) -> None:
    atoms = frame_to_atoms(half)
    write(tmp_path / "a.extxyz", atoms)
    done = cli("predict", model_dir, tmp_path / "a.extxyz")
    assert done.returncode == 0, done.stderr
    values = json.loads(cli("predict", model_dir, tmp_path / "a.extxyz", "--json").stdout)
    energy, largest, head, *rows = done.stdout.splitlines()
    assert energy == f"energy {values['energy']:.6f} eV, {values['energy'] / len(atoms):.6f} eV per atom"
    assert largest == f"largest force {np.linalg.norm(values['forces'], axis=1).max():.4f} eV/A"
    assert head.split()[:3] == ["atom", "element", "Fx"] and head.endswith("oxidation state")
    assert len(rows) == len(atoms)
    for number, row in enumerate(rows):
        cells = row.split()
        assert cells[:2] == [str(number), atoms.symbols[number]]
        assert cells[2:5] == [f"{value:.4f}" for value in values["forces"][number]]
        assert cells[-1] == str(values["oxidation_states"][number])


def test_evaluate_prints_units_and_few_digits(
    cli: Callable[..., Said], tmp_path: Path, model_dir: Path, frames: list[Frame]
) -> None:
    write_frames([with_labels(f, charges=None) for f in frames[:2]], tmp_path / "f.parquet")
    done = cli("evaluate", model_dir, tmp_path / "f.parquet")
    assert done.returncode == 0, done.stderr
    said = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert said["frames"] == "2" and said["charge_mae_e"] == "none"
    number, unit = said["force_mae_mev_a"].split(maxsplit=1)
    assert unit == "meV/A" and len(number.replace(",", "").replace(".", "")) < 9


def test_relax_says_what_a_cif_cannot_hold(
    cli: Callable[..., Said], tmp_path: Path, model_dir: Path, half: Frame
) -> None:
    write(tmp_path / "a.extxyz", frame_to_atoms(half))
    done = cli("relax", model_dir, tmp_path / "a.extxyz", tmp_path / "b.cif", "--max-steps", 1)
    assert done.returncode == 0, done.stderr
    assert "b.cif may have no charge states, energy or forces: .extxyz has them" in done.stderr
    assert len(read(tmp_path / "b.cif")) == len(half)


def test_relax_refuses_a_format_before_it_relaxes(
    cli: Callable[..., Said], tmp_path: Path, model_dir: Path, half: Frame
) -> None:
    write(tmp_path / "a.extxyz", frame_to_atoms(half))
    done = cli("relax", model_dir, tmp_path / "a.extxyz", tmp_path / "b.foo")
    assert done.returncode == 2 and "ASE knows no format of this suffix" in done.stderr
    assert "relaxing" not in done.stderr
    (tmp_path / "file").touch()
    for out, words in (
        (tmp_path / "a.extxyz", "is the structure"),
        (tmp_path / "file/b.cif", "cannot write"),
    ):
        done = cli("relax", model_dir, tmp_path / "a.extxyz", out)
        assert done.returncode == 2 and words in done.stderr and "relaxing" not in done.stderr


@pytest.mark.parametrize(("converged", "count"), [(False, 0), (True, 3)])
def test_reading_says_which_labels_it_found(
    cli: Callable[..., Said], frames: list[Frame], tmp_path: Path, converged: bool, count: int
) -> None:
    """A folder of VASP runs without their OUTCAR had no moments, and nobody was told."""
    some = [with_labels(frame, magmoms=None) for frame in frames[:3]]
    write_frames(some, tmp_path / "in.extxyz")
    option = ["--stress-converged"] if converged else []
    said = cli("read", "--in", tmp_path / "in.extxyz", "--out", tmp_path / "out", *option)
    assert said.returncode == 0
    last = said.stdout.splitlines()[-1]
    assert last.startswith("frames with energy 3, forces 3, stress 3, magmoms 0,")
    assert last.endswith(f"stress converged {count}; level {REFERENCE} (3)")
