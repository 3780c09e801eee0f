"""The verbs that work on any trained model, structure or file, without a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from workflow_lib.cli.common import Options, read_config, say_read
from workflow_lib.core.errors import UserError
from workflow_lib.core.io import read_json, to_json, write_json

if TYPE_CHECKING:
    from workflow_lib.models.trained import TrainedModel


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
    from workflow_lib.frames.foreign import read_frames

    frames = read_frames(options.frames, energy_reference=options.energy_reference)
    model = _model(options.model)
    from workflow_lib.models.evaluate import evaluate as run

    _print(run(model, frames, str(options.frames)), options.json)


def predict(options: Options) -> None:
    """Energy, forces, moments, charges and charge states of one structure."""
    from workflow_lib.frames.foreign import read_structure

    atoms = read_structure(options.structure)
    prediction = _model(options.model).predict([atoms], assign=options.assign)[0]
    values: dict[str, object] = {"energy": prediction.energy, "forces": prediction.forces}
    for key in ("magmoms", "charges", "oxidation_states"):
        values[key] = getattr(prediction, key)
    _print(values, options.json)


def relax(options: Options) -> None:
    """Relax positions in the given cell and write the structure with its energy and forces."""
    from workflow_lib.frames.foreign import read_structure, write_structure

    atoms = read_structure(options.structure)
    model = _model(options.model)
    from workflow_lib.simulation.relaxation import relax as run

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
    from workflow_lib.frames.foreign import read_frames, write_frames

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
    from workflow_lib.stages.sources.settings import FetchSettings
    from workflow_lib.stages.sources.table import find_source

    name, source = find_source(options.source, options.sources)
    from workflow_lib.stages.sources.fetch import fetch as run

    settings = FetchSettings(verify=options.verify, unpack=not options.no_unpack)
    fetched = run(name, source, options.out, only=options.only, settings=settings)
    print(f"{len(fetched.files)} files verified; see {fetched.folder / 'provenance.json'}")
    print(f"licence: {fetched.licence}")
    print(f"cite: {' / '.join(fetched.citation.splitlines())}")


def read(options: Options) -> None:
    """Foreign files as one frame table."""
    from workflow_lib.frames.reading.part import ReadSettings
    from workflow_lib.frames.reading.run import read_sources

    settings = ReadSettings(
        energy_reference=options.energy_reference,
        formula_units=options.formula_units,
        stress_unit=options.stress_unit,
        stress_converged=options.stress_converged,
        surrogates=options.surrogates,
        rule=read_config(options).redox,
    )
    summary = read_sources(options.inputs, options.out, settings, options.jobs)
    say_read(summary, options.out)
