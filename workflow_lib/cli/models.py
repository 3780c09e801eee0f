"""Commands on a trained model: its errors on frames, its results for one structure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from workflow_lib.cli.common import FILE, LEVEL_HELP, Positive, command, json_option
from workflow_lib.core.digits import with_unit
from workflow_lib.core.errors import UserError, printable
from workflow_lib.core.io import read_json, require_writable, to_json
from workflow_lib.results_meanings import unit_of

if TYPE_CHECKING:
    from ase import Atoms

    from workflow_lib.models.predictor import Predictor
    from workflow_lib.simulation.settings import Optimiser

type Assign = Literal["labels", "search"]
assign_option = click.option(
    "--assign",
    type=click.Choice(["labels", "search"]),
    default="labels",
    show_default=True,
    help="charge states given in the file (labels, or moments) are used; without any, search tries every "
    "neutral assignment and takes that of lowest energy",
)


device_option = click.option(
    "--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True, help="where it runs"
)


def _model(model: str, device: str) -> Predictor:
    """Load a potential; a card that is missing or damaged is noticed before torch is imported."""
    card = Path(model) / "card.json"
    if Path(model).exists():
        if not card.is_file():
            raise UserError(
                f"{model} holds no trained model (card.json is missing); give results/<run>/training/<id>"
            )
        read_json(card)
    from workflow_lib.models.outside import load_predictor

    return load_predictor(model, device)


def _say_what_is_used(predictor: Predictor, atoms: Atoms, structure: Path, assign: Assign) -> None:
    """Say which of a file's structures is taken, and that given charge states are never overruled."""
    from workflow_lib.models.trained import TrainedModel

    if structure.suffix.lower() in (".xyz", ".extxyz", ".db", ".traj"):
        last = (
            f"the last structure of {structure}: {atoms.get_chemical_formula('metal')}, {len(atoms)} atoms"
        )
        click.echo(printable(last), err=True)
    if assign != "search" or not isinstance(predictor, TrainedModel) or predictor.rule is None:
        return
    if predictor.rule.redox_z in atoms.numbers and predictor.oxidation_states(atoms) is not None:
        click.echo(
            printable(
                f"charge states of {structure} are used, nothing was searched: remove its array "
                "oxidation_states (or charges of species) and its moments to search"
            ),
            err=True,
        )


def _print_errors(values: Mapping[str, object]) -> None:
    """Print the result of an evaluation, a line each, with units and few digits."""
    for key, value in values.items():
        unit = unit_of(key) if value is not None else ""
        text = (
            with_unit(value, unit) if isinstance(value, float) else "none" if value is None else str(value)
        )
        click.echo(printable(f"{key:24} {text} {unit}".rstrip()))


def _print_prediction(atoms: Atoms, values: Mapping[str, Any]) -> None:
    """Print energy and largest force, then a row for each atom."""
    import numpy as np

    forces = np.asarray(values["forces"])
    energy = float(values["energy"])
    click.echo(f"energy {energy:.6f} eV, {energy / len(atoms):.6f} eV per atom")
    click.echo(f"largest force {np.linalg.norm(forces, axis=1).max():.4f} eV/A")
    columns = {"atom": [str(k) for k in range(len(atoms))], "element": atoms.get_chemical_symbols()}
    columns |= {f"F{x} (eV/A)": [f"{value:.4f}" for value in forces[:, k]] for k, x in enumerate("xyz")}
    for key, title, digits in (
        ("magmoms", "moment (muB)", 3),
        ("charges", "charge (e)", 3),
        ("oxidation_states", "oxidation state", 0),
    ):
        if values[key] is not None:
            columns[title] = [f"{value:.{digits}f}" for value in np.asarray(values[key])]
    widths = [max(len(title), *map(len, column)) for title, column in columns.items()]
    for row in (list(columns), *zip(*columns.values(), strict=True)):
        click.echo("  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)))


@command()
@click.argument("model")
@click.argument("frames", type=FILE)
@click.option("--energy-reference", metavar="LEVEL", help=LEVEL_HELP)
@click.option(
    "--unseen",
    is_flag=True,
    help="leave out frames that trained the model (of a run), or chose its weights",
)
@device_option
@json_option
def evaluate(
    model: str, frames: Path, energy_reference: str | None, unseen: bool, device: str, as_json: bool
) -> None:
    """Print a model's errors on labelled frames.

    With few digits; --json has all. MODEL as for predict. FRAMES is Parquet, extended XYZ or an ASE db.
    Says how many of them trained the model.
    """
    from workflow_lib.frames.foreign import read_frames
    from workflow_lib.results_models import training_frames

    table = read_frames(frames, energy_reference=energy_reference)
    predictor = _model(model, device)
    from workflow_lib.models.evaluate import evaluate as run

    values = run(predictor, table, str(frames), trained=training_frames(model), unseen=unseen)
    if as_json:
        click.echo(to_json(values), nl=False)
    else:
        _print_errors(values)


@command()
@click.argument("model")
@click.argument("structure", type=FILE)
@assign_option
@device_option
@json_option
def predict(model: str, structure: Path, assign: Assign, device: str, as_json: bool) -> None:
    """Print energy, forces and moments of a structure.

    Energies in eV, an atom a row; --json has all digits. MODEL is the folder of a trained model, a
    shipped name (chgnet-0.3.0, chgnet-0.2.0, chgnet-r2scan) or a calculator of ASE
    (package.module:Name). STRUCTURE has any format that ASE reads; of several the last is taken.
    """
    from workflow_lib.frames.structure import read_structure

    atoms = read_structure(structure)
    predictor = _model(model, device)
    prediction = predictor.predict([atoms], assign=assign)[0]
    _say_what_is_used(predictor, atoms, structure, assign)
    values: dict[str, object] = {"energy": prediction.energy, "forces": prediction.forces}
    for key in ("magmoms", "charges", "oxidation_states"):
        values[key] = getattr(prediction, key)
    if as_json:
        click.echo(to_json(values), nl=False)
    else:
        _print_prediction(atoms, values)


@command()
@click.argument("model")
@click.argument("structure", type=FILE)
@click.argument("out", type=FILE)
@assign_option
@click.option("--fmax", type=Positive(), default=0.02, show_default=True, help="eV/A")
@click.option("--max-steps", type=click.IntRange(min=0), default=500, show_default=True)
@click.option("--cell", is_flag=True, help="relax the cell too")
@click.option("--smax", type=Positive(), default=0.1, show_default=True, help="with --cell, GPa")
@click.option("--optimiser", type=click.Choice(["fire", "lbfgs"]), default="fire", show_default=True)
@device_option
def relax(
    model: str,
    structure: Path,
    out: Path,
    assign: Assign,
    fmax: float,
    max_steps: int,
    cell: bool,
    smax: float,
    optimiser: Optimiser,
    device: str,
) -> None:
    """Relax positions, or positions and cell.

    MODEL as for predict. STRUCTURE and OUT have any format that ASE knows; of several structures the last
    is relaxed.
    """
    from workflow_lib.frames.structure import read_structure, write_structure, written_format

    name = written_format(out)
    if structure.resolve() == out.resolve():
        raise UserError(f"{out} is the structure that is relaxed; write to another file")
    require_writable(out)  # before the relaxation, not after
    atoms = read_structure(structure)
    predictor = _model(model, device)
    from workflow_lib.core.progress import Progress
    from workflow_lib.simulation.relaxation import Snapshot
    from workflow_lib.simulation.relaxation import relax as run

    _say_what_is_used(predictor, atoms, structure, assign)
    with Progress(f"relaxing {structure.name}", max_steps, "step") as progress:

        def show(_: int, step: int, now: Snapshot) -> None:
            progress.show(step, f"energy {now.energy:.4f} eV, largest force {now.fmax:.4f} eV/A")

        [result] = run(
            predictor,
            [atoms],
            fmax=fmax,
            max_steps=max_steps,
            batch_size=1,
            cell=cell,
            smax=smax,
            optimiser=optimiser,
            record=show,
            assign=assign,
        )
    if result.status == "diverged":
        raise UserError(
            f"the relaxation of {structure} diverged after {result.steps} steps ({result.reason}); nothing "
            "was written. Start from a structure closer to the training data"
        )
    write_structure(result.atoms, out)
    if name != "extxyz":
        lost = "charge states, " if "oxidation_states" in result.atoms.arrays else ""
        click.echo(f"{out} may have no {lost}energy or forces: .extxyz has them", err=True)
    click.echo(
        f"{result.status} after {result.steps} steps: energy {result.energy:.6f} eV, "
        f"largest force {result.fmax:.4f} eV/A, "
        + ("cell unchanged" if result.smax is None else f"largest stress {result.smax:.3f} GPa")
        + f"; written to {out}"
    )


@command()
@click.argument("model")
@click.argument("out", type=FILE)
def export(model: str, out: Path) -> None:
    """Write a trained MACE as a file of mace-torch.

    MODEL is the folder of the trained model. OUT is read by mace-torch and what takes its models, such as
    LAMMPS and symmetrix; a species that stands for a charge state has the atomic number of its label there.
    """
    predictor = _model(model, "cpu")
    from workflow_lib.models.trained import TrainedModel

    if not isinstance(predictor, TrainedModel) or predictor.card["family"] != "mace":
        raise UserError(f"{model} is no trained mace; only that can be a file of mace-torch")
    from workflow_lib.models.mace_upstream import write_upstream

    write_upstream(predictor, out)
    labels = predictor.potential.species.surrogates
    known = f"; charge states as atomic numbers {', '.join(map(str, labels))}" if labels else ""
    click.echo(f"written to {out}{known}")
