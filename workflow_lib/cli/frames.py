"""Commands on files of frames: read foreign ones, convert between formats."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from workflow_lib.cli.common import (
    COUNT,
    FILE,
    FOLDER,
    LEVEL_HELP,
    STRESS_UNITS,
    Paths,
    StressUnit,
    command,
    config_option,
    say_read,
)
from workflow_lib.core.errors import UserError

if TYPE_CHECKING:
    from workflow_lib.config import Config


@command()
@click.option(
    "--in", "inputs", type=Paths(least=1), required=True, metavar="PATH ...", help="files, folders or globs"
)
@click.option("--out", type=FOLDER, required=True, metavar="DIR")
@click.option("--jobs", type=COUNT, default=1, metavar="N", show_default=True, help="files read at once")
@click.option("--energy-reference", metavar="LEVEL", help=LEVEL_HELP)
@click.option("--formula-units", type=COUNT, metavar="N", help="per cell, where the files do not say")
@click.option("--stress-unit", type=STRESS_UNITS, help="default: by magnitude, file by file")
@click.option("--stress-converged", is_flag=True, help="the files' stress may be trained on")
@click.option(
    "--surrogates",
    type=click.Choice(["auto", "always", "never"]),
    default="auto",
    show_default=True,
    help="charge states shown as another element (Ga for Fe3+): turned back where its moment tells "
    "(auto), in every frame, or not at all",
)
@config_option
def read(
    inputs: list[Path],
    out: Path,
    jobs: int,
    energy_reference: str | None,
    formula_units: int | None,
    stress_unit: StressUnit | None,
    stress_converged: bool,
    surrogates: Literal["auto", "always", "never"],
    config: Config,
) -> None:
    """Read foreign files into one frame table."""
    from workflow_lib.frames.reading.part import ReadSettings
    from workflow_lib.frames.reading.run import read_sources

    settings = ReadSettings(
        energy_reference=energy_reference,
        formula_units=formula_units,
        stress_unit=stress_unit,
        stress_converged=stress_converged,
        surrogates=surrogates,
        rule=config.redox,
    )
    say_read(read_sources([str(path) for path in inputs], out, settings, jobs), out)


@command()
@click.argument("frames", type=FILE)
@click.argument("out", type=FILE)
@click.option("--energy-reference", metavar="LEVEL", help=LEVEL_HELP)
@click.option("--formula-units", type=COUNT, metavar="N", help="per cell, where the file does not say")
@click.option("--stress-unit", type=STRESS_UNITS, help="of the stress in a foreign file")
def convert(
    frames: Path,
    out: Path,
    energy_reference: str | None,
    formula_units: int | None,
    stress_unit: StressUnit | None,
) -> None:
    """Convert frame tables, extended XYZ, ASE databases.

    OUT says which by its suffix: .parquet, .extxyz or .db.
    """
    from workflow_lib.frames.foreign import read_frames, write_frames
    from workflow_lib.frames.labels import UNSTATED

    if frames.resolve() == out.resolve():
        raise UserError(f"{out} is the file that is read; write to another one")
    table = read_frames(
        frames, energy_reference=energy_reference, formula_units=formula_units, stress_unit=stress_unit
    )
    write_frames(table, out)
    labels = ("forces", "stress", "magmoms", "charges", "oxidation_states")
    found = [f"{name} {sum(getattr(frame, name) is not None for frame in table)}" for name in labels]
    levels = dict.fromkeys(frame.energy_reference for frame in table)
    click.echo(f"{len(table)} frames written to {out}: {', '.join(found)}; level {', '.join(levels)}")
    if UNSTATED in levels:
        click.echo("the level of theory is not stated; give --energy-reference", err=True)
