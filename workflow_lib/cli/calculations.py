"""The verbs of the store of DFT calculations."""

from __future__ import annotations

from dataclasses import asdict

from workflow_lib.cli.common import Options, read_config
from workflow_lib.core.errors import UserError
from workflow_lib.core.io import write_json


def dft_plan(options: Options) -> None:
    """Calculations that would answer what is pending."""
    from workflow_lib.dft.jobs import write_jobs
    from workflow_lib.dft.store import Store
    from workflow_lib.lattice.host import Host
    from workflow_lib.stages.dft.plan import missing, plan_pending

    config = read_config(options)
    plan = plan_pending(options.pending, Host.load(config.host), config.redox, config.dft)
    calculations = missing(plan, Store(config.dft.store))
    if options.each:
        options.each.mkdir(parents=True, exist_ok=True)
        for calculation in calculations:
            write_jobs([calculation], options.each / f"{calculation.digest}.jsonl")
    if options.out:
        write_jobs(calculations, options.out)
    print(f"{len(plan)} arrangements are pending; {len(calculations)} calculations would answer them")


def dft_run(options: Options) -> None:
    """Compute a job file with the engine of its level."""
    import logging

    from workflow_lib.dft.jobs import read_jobs, run_jobs
    from workflow_lib.dft.store import Store

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    config = read_config(options)
    tally = run_jobs(
        read_jobs(options.jobs),
        Store(options.store or config.dft.store),
        formal_charges=config.redox.formal_charges,
        command=config.dft.command,
        retry_failed=options.retry_failed,
    )
    print(tally)
    if options.out:
        write_json(options.out, asdict(tally))


def dft_status(options: Options) -> None:
    """What the store holds."""
    from workflow_lib.dft.store import Store

    store = Store(options.store or read_config(options).dft.store)
    for path in store.paths():
        try:
            record = store.read(path)
        except UserError as error:
            print(error)
            continue
        if record:
            energy = f"{record.frames[-1]['energy']:.4f} eV" if record.frames else ""
            print(
                f"{path.stem}  {record.status:11} {len(record.frames):4d} geometries {energy:>17}  "
                f"{record.calculation.name}{f': {record.reason}' if record.reason else ''}"
            )


def dft_energies(options: Options) -> None:
    """DFT energies of the pending arrangements, as far as the store has them."""
    from workflow_lib.dft.store import Store
    from workflow_lib.lattice.host import Host
    from workflow_lib.stages.dft.plan import energies, plan_pending

    config = read_config(options)
    plan = plan_pending(options.pending, Host.load(config.host), config.redox, config.dft)
    table = energies(options.pending, plan, Store(config.dft.store), options.out)
    print(f"{len(table)} arrangements asked for: {table['status'].value_counts().to_dict()}")
