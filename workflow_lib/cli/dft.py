"""The dft stage and the store of its calculations."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from workflow_lib.cli.common import DEFAULT_CONFIG, FILE, FOLDER, command, config_option
from workflow_lib.core.errors import UserError

if TYPE_CHECKING:
    from workflow_lib.config import Config

pending_option = click.option(
    "--pending", type=FILE, required=True, metavar="CSV", help="from the searches"
)
store_option = click.option(
    "--store", type=FOLDER, metavar="DIR", help="default: dft.store of the configuration"
)


@command()
@config_option
@pending_option
@click.option("--out", type=FILE, metavar="FILE", help="one job file for all")
@click.option("--each", type=FOLDER, metavar="DIR", help="one job file a calculation, known or not")
def dft_plan(config: Config, pending: Path, out: Path | None, each: Path | None) -> None:
    """List the calculations that are missing.

    Those that would answer the pending arrangements of the searches.
    """
    from workflow_lib.dft.basis_error import basis_warnings
    from workflow_lib.dft.jobs import write_jobs
    from workflow_lib.dft.store import Store
    from workflow_lib.lattice.host import Host
    from workflow_lib.stages.dft.plan import calculations_of, missing, plan_pending

    config.require_dft_level()
    _require_same_crystal(config, pending)
    host, store = Host.load(config.host, config.redox), Store(config.dft.store)
    plan = plan_pending(pending, host, config.dft)
    calculations = missing(plan, store)
    # Said here, where all cells are known: a workflow hands them to dft-run one by one.
    for line in basis_warnings([job for jobs in plan.values() for job in jobs], store.records()):
        click.echo(f"warning: {line}", err=True)
    if each:
        # All of them: a workflow has to know the ones that the store answers, lest it lose an answer.
        each.mkdir(parents=True, exist_ok=True)
        for calculation in calculations_of(plan):
            write_jobs([calculation], each / f"{calculation.digest}.jsonl")
    if out:
        write_jobs(calculations, out)
    click.echo(
        f"{len(plan)} arrangements of {host.name} are pending; {len(calculations)} calculations at "
        f"{config.dft.level.energy_reference} would answer them"
    )


@command()
@config_option
@click.option("--jobs", type=FILE, required=True, metavar="FILE", help="from dft-plan")
@store_option
@click.option("--out", type=FILE, metavar="FILE", help="checksums of the answers, once there are all")
@click.option("--retry-failed", is_flag=True, help="try failed calculations again")
def dft_run(config: Config, jobs: Path, store: Path | None, out: Path | None, retry_failed: bool) -> None:
    """Compute a job file.

    With the engine of its level; several calls may work on one store at once. With --out, an error as
    long as calculations are in a queue or in the hands of another process.
    """
    import logging

    from workflow_lib.dft.jobs import read_jobs, run_jobs
    from workflow_lib.dft.store import Store
    from workflow_lib.results_reading import seal_elsewhere

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    calculations, answers = read_jobs(jobs), Store(store or config.dft.store)
    tally = run_jobs(
        calculations,
        answers,
        formal_charges=config.redox.formal_charges,
        command=config.dft.command,
        retry_failed=retry_failed,
    )
    click.echo(tally)
    if out:
        if tally.waiting:
            raise UserError(f"{tally.waiting}; give the same command again when they are done")
        seal_elsewhere(out, map(answers.path, calculations))


@command()
@click.option(
    "--config", type=FILE, default=DEFAULT_CONFIG, metavar="FILE", help="read where --store is not given"
)
@store_option
def dft_status(config: Path, store: Path | None) -> None:
    """List what the store holds."""
    from workflow_lib.config_files import load_config
    from workflow_lib.dft.store import Store

    where = store or load_config(config).dft.store
    opened = Store(where)
    paths = list(opened.paths())
    if not paths:
        click.echo(f"{where} holds no calculation yet")
    for path in paths:
        try:
            record = opened.read(path)
        except UserError as error:
            click.echo(error)
            continue
        if record:
            energy = f"{record.frames[-1]['energy']:.4f} eV" if record.frames else ""
            click.echo(
                f"{path.stem}  {record.status:11} {len(record.frames):4d} geometries {energy:>17}  "
                f"{record.calculation.name}{f': {record.reason}' if record.reason else ''}"
            )


@command()
@config_option
@store_option
@click.option("--out", type=FOLDER, required=True, metavar="DIR")
def dft_converge(config: Config, store: Path | None, out: Path) -> None:
    """Judge the level for this host.

    First call: writes the jobs that tell to DIR/jobs.jsonl, for dft-run. When they are done: the table,
    and an error where formation energies, orders, forces or stress are off by more than they may be, or
    where jobs failed.
    """
    from workflow_lib.dft.jobs import write_jobs
    from workflow_lib.dft.store import Store
    from workflow_lib.lattice.host import Host
    from workflow_lib.stages.dft.converge import finer, judge, level_jobs, open_jobs

    config.require_dft_level()
    host, reference = Host.load(config.host, config.redox), finer(config.dft.level)
    opened = Store(store or config.dft.store)
    jobs = level_jobs(host, config.dft, reference)
    path = out / "jobs.jsonl"
    write_jobs(jobs, path)
    if missing := open_jobs(jobs, opened, path):
        click.echo(
            f"{len(missing)} of {len(jobs)} single points, at {config.dft.level.energy_reference} and at "
            f"{reference.energy_reference}, are missing; compute them with "
            f"'workflow-lib dft-run --jobs {path}', with --config and --store as they are here, and ask "
            "again"
        )
        return
    judge(host, config.dft, reference, opened, out)
    click.echo(f"{config.dft.level.energy_reference} is converged for {host.name}: {out / 'level.csv'}")


@command()
@config_option
@pending_option
@click.option("--out", type=FOLDER, required=True, metavar="DIR")
def dft_energies(config: Config, pending: Path, out: Path) -> None:
    """Collect DFT energies of pending arrangements.

    As far as the store has them.
    """
    from workflow_lib.dft.store import Store
    from workflow_lib.lattice.host import Host
    from workflow_lib.stages.dft.plan import energies, plan_pending

    _require_same_crystal(config, pending)
    plan = plan_pending(pending, Host.load(config.host, config.redox), config.dft)
    table = energies(pending, plan, Store(config.dft.store), out)
    counts = ", ".join(f"{count} {status}" for status, count in table["status"].value_counts().items())
    click.echo(f"{len(table)} arrangements asked for{f': {counts}' if counts else ''}")


def _require_same_crystal(config: Config, pending: Path) -> None:
    """Raise UserError where a list of a run's searches is read with another run's crystal or couple.

    Its keys say which sites are filled: of another host of as many sites they would be other crystals.
    """
    from workflow_lib.core.io import read_json

    written = pending.resolve().parent.parent / "config.json"
    if not written.is_file():
        return  # a list of the user's own
    run, own = read_json(written), config.model_dump(mode="json")
    for key in ("host", "redox"):
        if run.get(key) != own[key]:
            raise UserError(
                f"{pending} is of the run {run.get('run')}, whose {key} is not that of the configuration "
                f"({config.run}); give its configuration with --config"
            )
