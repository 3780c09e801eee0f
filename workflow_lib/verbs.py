"""What each verb of the command line does: read the configuration, call one stage."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workflow_lib.errors import UserError
from workflow_lib.io import read_json, to_json, write_json

if TYPE_CHECKING:
    from workflow_lib.config import Config
    from workflow_lib.models.trained import TrainedModel

Options = argparse.Namespace


def read_config(options: Options) -> Config:
    """The configuration that a verb was given, read once; UserError where it is wrong."""
    from workflow_lib.config import load_config

    if "loaded" not in options:
        options.loaded = load_config(options.config)
    return options.loaded


def _threads(config: Config) -> None:
    """Set the thread count before torch starts: it is part of the result, to the last bit."""
    os.environ["OMP_NUM_THREADS"] = str(config.threads)
    import torch

    torch.set_num_threads(config.threads)
    # CHGNet's shipped weights drive activations into denormals, which slow a CPU down by a factor.
    torch.set_flush_denormal(True)


def sources(options: Options) -> None:
    """Fetched files of the configured sources as one frame table, with what to cite."""
    from workflow_lib.sources.stage import read_fetched

    config = read_config(options)
    if config.sources is None:
        raise UserError(f"{options.config} has no section `sources`; see config/paper.yaml")
    summary = read_fetched(
        config.sources,
        rule=config.redox,
        energy_reference=config.dataset.energy_reference,
        out=options.out,
        jobs=options.jobs,
    )
    _say_read(summary, options.out)


def dataset(options: Options) -> None:
    """Frames of the configured source, labelled and split."""
    from workflow_lib.dataset.build import build_dataset
    from workflow_lib.host import Host

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
        from workflow_lib.config import nearest

        raise UserError(
            f"--model {options.model} is not in the configuration{nearest(options.model, wanted)}"
        )
    model = wanted[options.model]
    _threads(config)
    from workflow_lib.training.run import train as run

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


def exam_reference(options: Options) -> None:
    """DFT end geometries and energies of the charge-ordered states."""
    from workflow_lib.exam.reference import build_reference
    from workflow_lib.host import Host

    config = read_config(options)
    build_reference(options.dataset / "frames.parquet", Host.load(config.host), options.out)


def exam(options: Options) -> None:
    """One model's answers to the three papers of the exam."""
    config = read_config(options)
    _threads(config)
    from workflow_lib.exam.run import run_exam
    from workflow_lib.host import Host

    run_exam(
        model_dir=options.model_dir,
        reference_dir=options.reference,
        host=Host.load(config.host),
        splits_path=options.dataset / "splits.json",
        settings=config.exam,
        cache=options.work,
        out=options.out,
    )


def exam_ewald(options: Options) -> None:
    """The naive ranking by formal charges."""
    from workflow_lib.exam.ewald import run_ewald
    from workflow_lib.host import Host

    config = read_config(options)
    run_ewald(
        reference_dir=options.reference,
        host=Host.load(config.host),
        rule=config.redox,
        splits_path=options.dataset / "splits.json",
        out=options.out,
    )


def exam_identical(options: Options) -> None:
    """All models on several charge orders of the same atoms."""
    config = read_config(options)
    if config.exam.identical_atoms is None:
        raise UserError("exam.identical_atoms is not set; name a frame table in the configuration")
    _threads(config)
    from workflow_lib.exam.identical import run_identical
    from workflow_lib.host import Host

    run_identical(
        frames_path=config.exam.identical_atoms,
        model_dirs=options.trainings,
        splits_path=options.dataset / "splits.json",
        host=Host.load(config.host),
        rule=config.redox,
        level=config.dataset.energy_reference,
        batch_size=config.exam.batch_size,
        out=options.out,
    )


def exam_overview(options: Options) -> None:
    """All exams in one table and figure."""
    from workflow_lib.exam.figures import exam_overview as run

    run(options.exams, options.out)


def search(options: Options) -> None:
    """Genetic algorithm and random search of one model."""
    config = read_config(options)
    _threads(config)
    from workflow_lib.host import Host
    from workflow_lib.sampling.run import run_search

    run_search(
        model_dir=options.model_dir,
        host=Host.load(config.host),
        settings=config.sampling,
        exam=config.exam,
        seed=config.seed,
        work=options.work / "sampling",
        cache=options.work / "relaxations",
        out=options.out,
    )


def sampling_overview(options: Options) -> None:
    """All searches in one table and figure, and the list of pending DFT energies."""
    from workflow_lib.dft.pending import collect_pending
    from workflow_lib.sampling.figures import sampling_overview as run

    run(options.searches, options.out)
    collect_pending(
        [folder / "found.csv" for folder in options.searches],
        options.reference / "reference.csv",
        options.out,
        lowest=read_config(options).sampling.pending_per_composition,
    )


def dft_plan(options: Options) -> None:
    """Calculations that would answer what is pending."""
    from workflow_lib.dft.plan import missing, plan_pending
    from workflow_lib.dft.run import write_jobs
    from workflow_lib.dft.store import Store
    from workflow_lib.host import Host

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

    from workflow_lib.dft.run import read_jobs, run_jobs
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
    from workflow_lib.dft.plan import energies, plan_pending
    from workflow_lib.dft.store import Store
    from workflow_lib.host import Host

    config = read_config(options)
    plan = plan_pending(options.pending, Host.load(config.host), config.redox, config.dft)
    table = energies(options.pending, plan, Store(config.dft.store), options.out)
    print(f"{len(table)} arrangements asked for: {table['status'].value_counts().to_dict()}")


def thermodynamics(options: Options) -> None:
    """Hull and voltage of all models against DFT."""
    from workflow_lib.thermodynamics.run import run_thermodynamics

    run_thermodynamics(
        reference_dir=options.reference,
        exam_dirs=options.exams,
        sampling_dirs=options.searches,
        settings=read_config(options).thermodynamics,
        out=options.out,
    )


def embedding(options: Options) -> None:
    """Node embeddings of one model."""
    config = read_config(options)
    _threads(config)
    from workflow_lib.embedding.run import run_embedding
    from workflow_lib.host import Host

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
    from workflow_lib.embedding.figures import embedding_overview as run

    run(options.embeddings, options.out)


def benchmark(options: Options) -> None:
    """The table of the run."""
    from workflow_lib.benchmark.run import run_benchmark

    run_benchmark(
        trainings=options.trainings,
        exams=options.exams,
        searches=options.searches,
        thermodynamics=options.thermodynamics,
        embeddings=options.embeddings,
        out=options.out,
    )


def provenance(options: Options) -> None:
    """What this run was made from."""
    from workflow_lib.benchmark.provenance import collect_provenance

    write_json(options.out, collect_provenance(read_config(options)))


def schema(options: Options) -> None:
    """JSON schema of the configuration."""
    from workflow_lib.config import Config

    write_json(options.out, Config.model_json_schema())


def _model(folder: Path) -> TrainedModel:
    """A trained model by folder; cheap checks come before torch is imported."""
    card = folder / "card.json"
    if not card.is_file():
        raise UserError(
            f"{folder} holds no trained model (card.json is missing); give results/<run>/training/<id>"
        )
    read_json(card)
    from workflow_lib.models.trained import TrainedModel

    return TrainedModel.load(folder)


def _print(values: Mapping[str, object], as_json: bool) -> None:
    if as_json:
        print(to_json(values), end="")
        return
    for key, value in values.items():
        print(f"{key:24} {'-' if value is None else value}")


def evaluate(options: Options) -> None:
    """Errors of a trained model on labelled frames."""
    from workflow_lib.foreign import read_frames

    frames = read_frames(options.frames, energy_reference=options.energy_reference)
    model = _model(options.model)
    from workflow_lib.evaluate import evaluate as run

    _print(run(model, frames, str(options.frames)), options.json)


def predict(options: Options) -> None:
    """Energy, forces, moments, charges and charge states of one structure."""
    from workflow_lib.foreign import read_structure

    atoms = read_structure(options.structure)
    prediction = _model(options.model).predict([atoms], assign=options.assign)[0]
    values: dict[str, object] = {"energy": prediction.energy, "forces": prediction.forces}
    for key in ("magmoms", "charges", "oxidation_states"):
        values[key] = getattr(prediction, key)
    _print(values, options.json)


def relax(options: Options) -> None:
    """Relax positions in the given cell and write the structure with its energy and forces."""
    from workflow_lib.foreign import read_structure, write_structure

    atoms = read_structure(options.structure)
    model = _model(options.model)
    from workflow_lib.relaxation import relax as run

    result = run(
        model,
        [atoms],
        fmax=options.fmax,
        max_steps=options.max_steps,
        batch_size=1,
        assign=options.assign,
    )[0]
    if result.status == "diverged":
        raise UserError(
            f"the relaxation of {options.structure} diverged after {result.steps} steps; nothing was "
            "written. Start from a structure closer to the training data"
        )
    write_structure(result.atoms, options.out)
    print(
        f"{result.status} after {result.steps} steps: energy {result.energy:.6f} eV, "
        f"largest force {result.fmax:.4f} eV/A, cell unchanged; written to {options.out}"
    )


def convert(options: Options) -> None:
    """Frame table to extended XYZ or ASE db and back."""
    from workflow_lib.foreign import read_frames, write_frames

    frames = read_frames(
        options.frames,
        energy_reference=options.energy_reference,
        formula_units=options.formula_units,
        stress_unit=options.stress_unit,
    )
    write_frames(frames, options.out)
    print(f"{len(frames)} frames written to {options.out}")


def fetch(options: Options) -> None:
    """Files of a data source, downloaded where they are missing and verified."""
    from workflow_lib.sources.settings import FetchSettings
    from workflow_lib.sources.table import find_source

    name, source = find_source(options.source, options.sources)
    from workflow_lib.sources.fetch import fetch as run

    settings = FetchSettings(verify=options.verify, unpack=not options.no_unpack)
    fetched = run(name, source, options.out, only=options.only, settings=settings)
    print(f"{len(fetched.files)} files verified; see {fetched.folder / 'provenance.json'}")
    print(f"licence: {fetched.licence}")
    print(f"cite: {' / '.join(fetched.citation.splitlines())}")


def read(options: Options) -> None:
    """Foreign files as one frame table."""
    from workflow_lib.sources.read_part import ReadSettings
    from workflow_lib.sources.read_run import read_sources

    settings = ReadSettings(
        energy_reference=options.energy_reference,
        formula_units=options.formula_units,
        stress_unit=options.stress_unit,
        stress_converged=options.stress_converged,
        surrogates=options.surrogates,
        rule=read_config(options).redox,
    )
    summary = read_sources(options.inputs, options.out, settings, options.jobs)
    _say_read(summary, options.out)


def _say_read(summary: Mapping[str, Any], out: Path) -> None:
    for line in summary["statements"]:
        print(line)
    print(
        f"{summary['frames']} frames in {out / 'frames.parquet'}; "
        f"{summary['set_aside']} set aside, {summary['duplicates']} duplicates left out"
    )
