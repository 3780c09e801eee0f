"""The contents of a run folder: ``Run("results/demo")`` gives its tables, figures, splits and models.

``results_schema`` defines the names of files and folders, ``results_reading`` and ``results_models`` read
them, ``results_meanings`` and ``results_captions`` describe columns and figures. Stages use the first
three; ``Run`` is for people.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workflow_lib.core.changes import changed_values, named
from workflow_lib.core.errors import UserError
from workflow_lib.core.io import read_json
from workflow_lib.core.validation import nearest
from workflow_lib.models.identity import EWALD, ModelId
from workflow_lib.results_captions import CAPTIONS
from workflow_lib.results_files import FIGURES
from workflow_lib.results_meanings import meaning_of, unit_of
from workflow_lib.results_models import load_model, named_models
from workflow_lib.results_reading import checked, read_document, read_table, table_of
from workflow_lib.results_schema import ENERGIES, TABLES

if TYPE_CHECKING:
    import pandas as pd
    from ase import Atoms

    from workflow_lib.frames.frame import Frame
    from workflow_lib.frames.splits import Splits
    from workflow_lib.models.trained import TrainedModel

CONFIG, PROVENANCE = "config.json", "provenance.json"
STRUCTURES = {
    "charge_order/reference": "charge_order/reference.extxyz",
    "charge_order/states": "charge_order/{model}/structures.extxyz",
    "search/found": "search/{model}/found.extxyz",
}
"""Files of structures, by the name of the table that lists their energies."""


LISTS = {
    **{"dynamics": "studies", "charge_inference": "studies", "ablation": "studies"},
    "phase_diagram": "systems",
}
"""Stages whose results are there only with a section in the configuration, and what each lists by name."""
OPTIONAL = {*LISTS, "sources"}
IDENTICAL = "charge_order/identical/"
"""Where the comparison on identical atoms is, which needs a table that the configuration names."""


class Run:
    """The results of one run, by name: ``Run("results/demo").table("comparison")``.

    A folder may hold models, studies and systems of earlier configurations: what is listed, and what is
    taken together, are those that its configuration names now.

    Tables are data frames with typed columns, described in ``attrs["units"]`` and
    ``attrs["meanings"]``. Raises UserError for data that are damaged or belong elsewhere, and warns of a
    folder whose results are not all of its configuration (:attr:`unfinished`).
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not (self.folder / CONFIG).is_file():
            raise UserError(
                f"{folder} is no run folder ({CONFIG} is missing); give one such as results/demo"
            )
        if unfinished := self.unfinished:
            warnings.warn(unfinished, stacklevel=2)

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

    @property
    def configuration(self) -> dict[str, Any]:
        """The configuration of the run, with all defaults."""
        return read_json(self.folder / CONFIG)

    @property
    def models(self) -> list[ModelId]:
        """Ids of the models that are trained, in order."""
        return sorted(ModelId.parse(path.parent.name) for path in self._paths("training/{model}/card.json"))

    @property
    def tables(self) -> list[str]:
        """Names of the tables that exist."""
        return [name for name, table in TABLES.items() if next(self._paths(table.file), None)]

    def sources(self, name: str) -> list[str]:
        """Return who has a table that is there for each model: trained models, others, rankings."""
        return [path.parent.name for path in self._paths(table_of(name).file)]

    def drawn(self, name: str) -> list[str | None]:
        """Return of what there is a figure: of each model or system, or of the run as such (None)."""
        stem = FIGURES[name][0]
        paths = list(self._paths(f"{stem}.svg"))
        return [path.parent.name if "{model}" in stem else None for path in paths]

    @property
    def figures(self) -> list[str]:
        """Names of the figures that exist."""
        return [name for name, (stem, _) in FIGURES.items() if next(self._paths(f"{stem}.svg"), None)]

    @property
    def splits(self) -> Splits:
        """The frames that train, validate and test."""
        from workflow_lib.frames.splits import Splits

        return Splits.load(checked(self.folder / "dataset/splits.json", "dataset"))

    @property
    def summary(self) -> dict[str, Any]:
        """What the dataset holds: frames kept and set aside, labels, sources."""
        return read_document(self.folder / "dataset/summary.json", "dataset")

    @property
    def provenance(self) -> dict[str, Any]:
        """Versions, checksums and seeds of the run."""
        path, keys = self.folder / PROVENANCE, ("configuration", "made_with", "data_sha256")
        return read_document(path, "provenance", keys, sealed=False)

    @property
    def unfinished(self) -> str | None:
        """One sentence where results may be of another configuration than the present one; else None.

        A run writes its configuration when it starts, and the same into its provenance when all is there.
        """
        try:
            if (self.folder / PROVENANCE).is_file():
                why = changed_values(self.provenance["configuration"], self.configuration)
            else:
                why = [f"{PROVENANCE} is not there yet"]
        except UserError as error:
            why = [str(error)]
        if not why:
            return None
        return (
            f"results in {self.folder} are of an earlier configuration, or the run is unfinished: "
            f"{named(why)}; finish it: snakemake --configfile {self.folder / CONFIG}"
        )

    def structures(self, name: str, model: ModelId | str | None = None) -> list[Atoms]:
        """Return the structures that belong to a table: those of DFT's, a model's or a search's states.

        ``name`` is one of :data:`STRUCTURES`; each structure has its ``state_key`` in ``info``.
        """
        from ase.io import iread

        if name not in STRUCTURES:
            raise UserError(f"no structures of a run are called {name!r}{nearest(name, STRUCTURES)}")
        if "{model}" in STRUCTURES[name] and model is None:
            raise UserError(f"the structures {name!r} are there for each model; name one of them")
        path = checked(self.folder / STRUCTURES[name].format(model=model), table_of(name).command)
        return list(iread(path, index=":", format="extxyz"))

    def frames(self) -> list[Frame]:
        """Return the frames of the dataset, with charge states and state keys."""
        from workflow_lib.frames.table import read_parquet

        return read_parquet(checked(self.folder / "dataset/frames.parquet", "dataset"))

    def table(self, name: str, model: ModelId | str | None = None) -> pd.DataFrame:
        """Return a table by name; if every model has one, that of ``model`` or all of them together.

        Tables of trained models have the column ``id``; for those of other systems it is added here.
        """
        import pandas as pd

        table = table_of(name)
        if not table.per_model:
            return _described(name, read_table(name, (self.folder / table.file).parent))
        wanted = (
            [str(model)] if model is not None else [path.parent.name for path in self._paths(table.file)]
        )
        if not wanted:
            raise UserError(f"{self.folder} holds no table {name!r} of any model; run the workflow first")
        parts = []
        for source in wanted:
            folder = (self.folder / table.file.format(model=source)).parent
            part = read_table(name, folder)
            parts.append(part if "id" in part else part.assign(id=source))
        return _described(name, pd.concat(parts, ignore_index=True) if len(parts) > 1 else parts[0])

    def energies(self) -> pd.DataFrame:
        """Return all energies of the run in one table: columns of ``results_schema.ENERGIES``."""
        import pandas as pd

        names = [name for name in self.tables if ENERGIES.items() <= table_of(name).columns.items()]
        parts = [self.table(name)[list(ENERGIES)] for name in names]
        if not parts:
            raise UserError(f"{self.folder} holds no energies yet; run the workflow first")
        return pd.concat(parts, ignore_index=True)

    def figure(self, name: str, model: ModelId | str | None = None) -> Path:
        """Return the path of a figure (SVG); a figure of a model needs ``model``."""
        if name not in FIGURES:
            raise UserError(f"no figure of a run is called {name!r}{nearest(name, FIGURES)}")
        stem, command = FIGURES[name]
        if "{model}" in stem and model is None:
            raise UserError(f"the figure {name!r} is there for each model; name one of them")
        return checked(self.folder / f"{stem.format(model=model)}.svg", command)

    def caption(self, name: str) -> str:
        """Return what a figure shows; raise UserError if there is none of this name."""
        if name not in FIGURES:
            raise UserError(f"no figure of a run is called {name!r}{nearest(name, FIGURES)}")
        return CAPTIONS[name]

    def model(self, identity: ModelId | str) -> TrainedModel:
        """Return a trained model by its id."""
        wanted = ModelId.parse(str(identity))
        if wanted not in self.models:
            known = map(str, self.models)
            raise UserError(f"{self.folder} holds no model {wanted}{nearest(str(wanted), known)}")
        return load_model(self.folder / "training" / str(wanted))

    def _paths(self, pattern: str) -> Iterator[Path]:
        """Yield the files that fit a pattern of the layout and that the configuration names, in order."""
        stage, configuration = pattern.partition("/")[0], self.configuration
        orders = configuration.get("charge_order", {})
        if pattern.startswith(IDENTICAL) and not orders.get("identical_atoms"):
            return
        if not configuration.get(stage if stage in OPTIONAL else "models"):
            return
        try:
            names = _names(stage, configuration)
        except (KeyError, TypeError) as error:
            raise UserError(
                f"{self.folder / CONFIG} does not name models and studies as this version does "
                f"({type(error).__name__}: {error}); run the workflow with that configuration again"
            ) from error
        for path in sorted(self.folder.glob(pattern.replace("{model}", "*"))):
            if "{model}" not in pattern or path.parent.name in names:
                yield path


def _names(stage: str, configuration: dict[str, Any]) -> set[str]:
    """Return the names of the folders that a stage has for what a written configuration names."""
    if stage not in LISTS:
        return {*named_models(configuration, stage), EWALD}
    section = configuration[stage]
    names = {item["name"] for item in section[LISTS[stage]]}
    if stage == "phase_diagram":
        replicas = range(section["sampling"]["replicas"])
        names |= {f"{name}-r{replica}" for name in names for replica in replicas}
    return names


def _described(name: str, frame: pd.DataFrame) -> pd.DataFrame:
    """Return the table ``name`` with units and meanings of its columns in ``attrs``."""
    columns = [str(column) for column in frame]
    frame.attrs["units"] = {column: unit for column in columns if (unit := unit_of(column))}
    frame.attrs["meanings"] = {column: meaning_of(name, column) for column in columns}
    return frame
