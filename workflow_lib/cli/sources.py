"""Commands on public data: fetch, verify and read it into one frame table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from workflow_lib.cli.common import COUNT, FILE, FOLDER, Paths, command, config_option, folder, say_read

if TYPE_CHECKING:
    from workflow_lib.config import Config


# Without the lock of a stage, because reading has its own.
@command()
@config_option
@folder("--out")
@click.option(
    "--fetched", type=Paths(1), required=True, metavar="FILE ...", help="the record of each source's fetch"
)
@click.option("--jobs", type=COUNT, default=1, metavar="N", show_default=True, help="files read at once")
def sources(config: Config, out: Path, fetched: list[Path], jobs: int) -> None:
    """Read the fetched files into one frame table.

    Also says what to cite, and what was set aside.
    """
    from workflow_lib.core.errors import UserError
    from workflow_lib.stages.sources.run import read_fetched

    if config.sources is None:
        raise UserError("the configuration has no section `sources`; see config/paper.yaml")
    summary = read_fetched(
        config.sources,
        fetched,
        rule=config.redox,
        energy_reference=config.dataset.energy_reference,
        out=out,
        jobs=jobs,
    )
    say_read(summary, out)


@command()
@click.option(
    "--source", required=True, metavar="NAME", help="from the table, or local:PATH (folder or glob)"
)
@click.option("--out", type=FOLDER, required=True, metavar="DIR", help="files go to DIR/NAME")
@click.option(
    "--sources",
    "table",
    type=FILE,
    default=Path("config/sources.yaml"),
    metavar="FILE",
    help="table of sources",
)
@click.option("--only", multiple=True, metavar="GLOB", help="paths wanted; may be repeated")
@click.option("--record", type=FILE, metavar="FILE", help="also write there which files these are")
@click.option("--verify", is_flag=True, help="hash files again that look unchanged")
@click.option("--no-unpack", is_flag=True, help="leave zip and tar archives packed")
def fetch(
    source: str,
    out: Path,
    table: Path,
    only: tuple[str, ...],
    record: Path | None,
    verify: bool,
    no_unpack: bool,
) -> None:
    """Download and verify a source of data."""
    from workflow_lib.stages.sources.fetch import fetch as run
    from workflow_lib.stages.sources.settings import FetchSettings
    from workflow_lib.stages.sources.table import find_source

    name, found = find_source(source, table)
    settings = FetchSettings(verify=verify, unpack=not no_unpack)
    fetched = run(name, found, out, only=list(only), settings=settings, record=record)
    click.echo(f"{len(fetched.files)} files verified; see {fetched.folder / 'provenance.json'}")
    click.echo(f"licence: {fetched.licence}")
    click.echo(f"cite: {' / '.join(fetched.citation.splitlines())}")
