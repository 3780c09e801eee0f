"""Commands on a trained model: its errors on frames, its results for one structure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from workflow_lib.cli.common import FILE, LEVEL_HELP, Positive, command, json_option
from workflow_lib.core.errors import UserError
from workflow_lib.core.io import read_json, to_json

if TYPE_CHECKING:
    from workflow_lib.models.predictor import Predictor
    from workflow_lib.simulation.settings import Optimiser

type Assign = Literal["labels", "search"]
assign_option = click.option(
    "--assign",
    type=click.Choice(["labels", "search"]),
    default="labels",
    show_default=True,
    help="where charge states come from: labels (or moments) in the file, or the lowest energy over "
    "all neutral assignments",
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


def _print(values: Mapping[str, object], as_json: bool) -> None:
    if as_json:
        click.echo(to_json(values), nl=False)
        return
    for key, value in values.items():
        click.echo(f"{key:24} {'-' if value is None else value}")


@command()
@click.argument("model")
@click.argument("frames", type=FILE)
@click.option("--energy-reference", metavar="LEVEL", help=LEVEL_HELP)
@device_option
@json_option
def evaluate(model: str, frames: Path, energy_reference: str | None, device: str, as_json: bool) -> None:
    """Print a model's errors on labelled frames.

    MODEL as for predict. FRAMES is Parquet or extended XYZ.
    """
    from workflow_lib.frames.foreign import read_frames

    table = read_frames(frames, energy_reference=energy_reference)
    predictor = _model(model, device)
    from workflow_lib.models.evaluate import evaluate as run

    _print(run(predictor, table, str(frames)), as_json)


@command()
@click.argument("model")
@click.argument("structure", type=FILE)
@assign_option
@device_option
@json_option
def predict(model: str, structure: Path, assign: Assign, device: str, as_json: bool) -> None:
    """Print energy, forces and moments of a structure.

    MODEL is the folder of a trained model, a shipped name (chgnet-0.3.0, chgnet-0.2.0, chgnet-r2scan) or a
    calculator of ASE (package.module:Name). STRUCTURE has any format that ASE reads.
    """
    from workflow_lib.frames.structure import read_structure

    atoms = read_structure(structure)
    prediction = _model(model, device).predict([atoms], assign=assign)[0]
    values: dict[str, object] = {"energy": prediction.energy, "forces": prediction.forces}
    for key in ("magmoms", "charges", "oxidation_states"):
        values[key] = getattr(prediction, key)
    _print(values, as_json)


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

    MODEL as for predict. STRUCTURE and OUT have any format that ASE knows.
    """
    from workflow_lib.frames.structure import read_structure, write_structure

    atoms = read_structure(structure)
    predictor = _model(model, device)
    from workflow_lib.simulation.relaxation import relax as run

    [result] = run(
        predictor,
        [atoms],
        fmax=fmax,
        max_steps=max_steps,
        batch_size=1,
        cell=cell,
        smax=smax,
        optimiser=optimiser,
        assign=assign,
    )
    if result.status == "diverged":
        raise UserError(
            f"the relaxation of {structure} diverged after {result.steps} steps ({result.reason}); nothing "
            "was written. Start from a structure closer to the training data"
        )
    write_structure(result.atoms, out)
    click.echo(
        f"{result.status} after {result.steps} steps: energy {result.energy:.6f} eV, "
        f"largest force {result.fmax:.4f} eV/A, "
        + ("cell unchanged" if result.smax is None else f"largest stress {result.smax:.3f} GPa")
        + f"; written to {out}"
    )
