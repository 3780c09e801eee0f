"""The verbs that the rules call: read the configuration, call one stage."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from workflow_lib.cli.common import Options, read_config, say_read
from workflow_lib.core.errors import UserError
from workflow_lib.core.io import write_json

if TYPE_CHECKING:
    from workflow_lib.config import Config


def _threads(config: Config) -> None:
    """Set the thread count before torch starts: it is part of the result, to the last bit."""
    os.environ["OMP_NUM_THREADS"] = str(config.threads)
    import torch

    torch.set_num_threads(config.threads)
    # CHGNet's shipped weights drive activations into denormals, which slow a CPU down by a factor.
    torch.set_flush_denormal(True)


def sources(options: Options) -> None:
    """Fetched files of the configured sources as one frame table, with what to cite."""
    from workflow_lib.stages.sources.run import read_fetched

    config = read_config(options)
    if config.sources is None:
        raise UserError(f"{options.config} has no section `sources`; see config/protocol.yaml")
    summary = read_fetched(
        config.sources,
        rule=config.redox,
        energy_reference=config.dataset.energy_reference,
        out=options.out,
        jobs=options.jobs,
    )
    say_read(summary, options.out)


def dataset(options: Options) -> None:
    """Frames of the configured source, labelled and split."""
    from workflow_lib.lattice.host import Host
    from workflow_lib.stages.dataset.run import build_dataset

    config = read_config(options)
    build_dataset(
        settings=config.dataset.model_copy(update={"path": config.frames}),
        rule=config.redox,
        host=Host.load(config.host),
        seed=config.seed,
        out=options.out,
    )


def train(options: Options) -> None:
    """Train one model of the configuration."""
    config = read_config(options)
    wanted = {str(model): model for model in config.trained()}
    if options.model not in wanted:
        from workflow_lib.core.validation import nearest

        raise UserError(
            f"--model {options.model} is not in the configuration{nearest(options.model, wanted)}"
        )
    model = wanted[options.model]
    _threads(config)
    from workflow_lib.stages.training.run import train as run

    named = config.model(model.name)
    run(
        frames_path=options.dataset / "frames.parquet",
        splits_path=options.dataset / "splits.json",
        name=model.name,
        family=named.family,
        init=named.init,
        hyperparameters=config.hyperparameters(model.name),
        settings=config.training_of(model.name),
        variant=model.variant,
        fold=model.fold,
        seed=model.seed,
        rule=config.redox,
        dataset=config.dataset,
        out=options.out,
        checkpoints=options.work,
        threads=config.threads,
    )


def charge_order_reference(options: Options) -> None:
    """DFT end geometries and energies of the charge-ordered states."""
    from workflow_lib.lattice.host import Host
    from workflow_lib.stages.charge_order.reference import build_reference

    config = read_config(options)
    build_reference(options.dataset / "frames.parquet", Host.load(config.host), options.out)


def charge_order(options: Options) -> None:
    """One model's answers to the three protocols of the charge-order stage."""
    config = read_config(options)
    _threads(config)
    from workflow_lib.lattice.host import Host
    from workflow_lib.stages.charge_order.run import run_charge_order

    run_charge_order(
        model_dir=options.model_dir,
        reference_dir=options.reference,
        host=Host.load(config.host),
        splits_path=options.dataset / "splits.json",
        settings=config.charge_order,
        cache=options.work,
        out=options.out,
    )


def charge_order_ewald(options: Options) -> None:
    """The naive ranking by formal charges."""
    from workflow_lib.lattice.host import Host
    from workflow_lib.stages.charge_order.ewald import run_ewald

    config = read_config(options)
    run_ewald(
        reference_dir=options.reference,
        host=Host.load(config.host),
        rule=config.redox,
        splits_path=options.dataset / "splits.json",
        out=options.out,
    )


def charge_order_identical(options: Options) -> None:
    """All models on several charge orders of the same atoms."""
    config = read_config(options)
    if config.charge_order.identical_atoms is None:
        raise UserError("charge_order.identical_atoms is not set; name a frame table in the configuration")
    _threads(config)
    from workflow_lib.lattice.host import Host
    from workflow_lib.stages.charge_order.identical import run_identical

    run_identical(
        frames_path=config.charge_order.identical_atoms,
        model_dirs=options.trainings,
        splits_path=options.dataset / "splits.json",
        host=Host.load(config.host),
        rule=config.redox,
        level=config.dataset.energy_reference,
        batch_size=config.charge_order.batch_size,
        out=options.out,
    )


def charge_order_overview(options: Options) -> None:
    """All models in one table and figure."""
    from workflow_lib.stages.charge_order.figures import charge_order_overview as run

    run(options.charge_orders, options.out)


def search(options: Options) -> None:
    """Genetic algorithm and random search of one model."""
    config = read_config(options)
    _threads(config)
    from workflow_lib.lattice.host import Host
    from workflow_lib.stages.search.run import run_search

    run_search(
        model_dir=options.model_dir,
        host=Host.load(config.host),
        settings=config.search,
        charge_order=config.charge_order,
        seed=config.seed,
        work=options.work / "search",
        cache=options.work / "relaxations",
        out=options.out,
    )


def search_overview(options: Options) -> None:
    """All searches in one table and figure, and the list of pending DFT energies."""
    from workflow_lib.stages.search.figures import search_overview as run
    from workflow_lib.stages.search.pending import collect_pending

    run(options.searches, options.out)
    collect_pending(
        [folder / "found.csv" for folder in options.searches],
        options.reference / "reference.csv",
        options.out,
        lowest=read_config(options).search.pending_per_composition,
    )


def thermodynamics(options: Options) -> None:
    """Hull and voltage of all models against DFT."""
    from workflow_lib.stages.thermodynamics.run import run_thermodynamics

    run_thermodynamics(
        reference_dir=options.reference,
        charge_order_dirs=options.charge_orders,
        search_dirs=options.searches,
        settings=read_config(options).thermodynamics,
        out=options.out,
    )


def embedding(options: Options) -> None:
    """Node embeddings of one model."""
    config = read_config(options)
    _threads(config)
    from workflow_lib.lattice.host import Host
    from workflow_lib.stages.embedding.run import run_embedding

    run_embedding(
        model_dir=options.model_dir,
        frames_path=options.dataset / "frames.parquet",
        splits_path=options.dataset / "splits.json",
        reference_dir=options.reference,
        host=Host.load(config.host),
        settings=config.embedding,
        out=options.out,
    )


def embedding_overview(options: Options) -> None:
    """All embeddings in one table and figure."""
    from workflow_lib.stages.embedding.figures import embedding_overview as run

    run(options.embeddings, options.out)


def comparison(options: Options) -> None:
    """The table of the run."""
    from workflow_lib.stages.comparison.run import run_comparison

    run_comparison(
        trainings=options.trainings,
        charge_orders=options.charge_orders,
        searches=options.searches,
        thermodynamics=options.thermodynamics,
        embeddings=options.embeddings,
        out=options.out,
    )


def provenance(options: Options) -> None:
    """What this run was made from."""
    from workflow_lib.stages.comparison.provenance import collect_provenance

    write_json(options.out, collect_provenance(read_config(options)))
