"""The page of a run, and Snakemake's own report, which is its appendix."""

from __future__ import annotations

from pathlib import Path

import click

from workflow_lib.cli.common import DEFAULT_CONFIG, FILE, FOLDER, command


@command()
@click.argument("run", type=FOLDER)
@click.option("--out", type=FOLDER, metavar="DIR", help="folder of the page  [default: RUN/report]")
def report(run: Path, out: Path | None) -> None:
    """Make the page of a run.

    Its answer first, then all results. RUN is the folder of a run, such as results/demo.
    """
    from workflow_lib.core.locks import alone
    from workflow_lib.stages.report.run import require_comparison, run_report

    require_comparison(run)  # before anything is made in the folder
    with alone(out or run / "report", "report"):
        page = run_report(run, out or run / "report")
    click.echo(f"Page: {page.absolute()}")


@command()
@click.option("--config", type=FILE, default=DEFAULT_CONFIG, show_default=True, metavar="FILE")
def appendix(config: Path) -> None:
    """Make Snakemake's report of a run.

    Jobs, parameters and files; made only if a result is newer.
    """
    from workflow_lib.config_files import load_studies
    from workflow_lib.workflow.run_folder import make_report

    folder = load_studies(config).folder
    made = make_report(folder, config)
    click.echo(f"Appendix: {made.absolute()}" if made else f"{folder}/report.html is up to date.")
    page = folder / "report/index.html"
    if page.is_file():
        click.echo(f"The page of the run: {page.absolute()}")
