"""Hosts: describe a crystal file as the sites that the workflow fills."""

from __future__ import annotations

from pathlib import Path

import click

from workflow_lib.cli.common import FILE, Positive, command


@command()
@click.argument("structure", type=FILE)
@click.option("--mobile", required=True, metavar="ELEMENT", help="the ion that comes and goes, e.g. Na")
@click.option("--redox", required=True, metavar="ELEMENT", help="the ion that changes its charge, e.g. Fe")
@click.option(
    "--states",
    nargs=2,
    type=click.IntRange(0, 9),
    default=(2, 3),
    show_default=True,
    metavar="LOW HIGH",
    help="its oxidation states",
)
@click.option(
    "--empty",
    type=FILE,
    metavar="FILE",
    help="the crystal without mobile ions",
)
@click.option("--name", metavar="TEXT", help="default: formula and space group")
@click.option(
    "--tolerance", type=Positive(), default=0.1, show_default=True, help="A, within which symmetry is found"
)
@click.option("--out", type=FILE, required=True, metavar="FILE", help="the host file, JSON")
def host(
    structure: Path,
    mobile: str,
    redox: str,
    states: tuple[int, int],
    empty: Path | None,
    name: str | None,
    tolerance: float,
    out: Path,
) -> None:
    """Describe a host crystal from a CIF or POSCAR.

    STRUCTURE has every mobile site occupied. Its cell and positions are made exactly symmetric. Partial
    occupancies are refused: a host is an ordered crystal.
    """
    from workflow_lib.core.io import write_json
    from workflow_lib.lattice.make_host import host_from_files, symmetry_nearby

    described = host_from_files(
        structure,
        mobile=mobile,
        redox=redox,
        oxidation_states=states,
        empty=empty,
        name=name,
        tolerance=tolerance,
    )
    write_json(out, described.model_dump(mode="json"))
    click.echo(f"{described.name}: {described.provenance}; written to {out}")
    if near := symmetry_nearby(described, tolerance):
        click.echo(
            f"within {near[1]:g} A the crystal is {near[0]}, of more symmetry; if what it lacks is noise, "
            f"give --tolerance {near[1]:g}",
            err=True,
        )
    if empty is None:
        click.echo("the empty crystal has the same cell in this file: give --empty if you know it")
