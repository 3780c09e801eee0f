"""Typed configuration: the one source of defaults, of the schema and of what a value may be.

``config_files`` reads it from files. Imports no torch and no upstream model package, so that a
mistake is reported within a second.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from workflow_lib.core.chosen_paths import leads_into, path_fault
from workflow_lib.core.errors import UserError
from workflow_lib.core.section import Section
from workflow_lib.core.validation import check_distinct, describe_errors, nearest, short, strictly
from workflow_lib.lattice.redox import RedoxRule
from workflow_lib.models.identity import CONTROLS, NAME, VARIANTS, ModelId, trained_ids
from workflow_lib.models.outside_settings import OutsideModel
from workflow_lib.models.registry import FAMILIES
from workflow_lib.results_schema import DFT
from workflow_lib.stages.ablation.settings import AblationSettings
from workflow_lib.stages.charge_inference.settings import ChargeInferenceSettings
from workflow_lib.stages.charge_order.settings import ChargeOrderSettings
from workflow_lib.stages.dataset.settings import DatasetSettings
from workflow_lib.stages.dft.settings import DftSettings
from workflow_lib.stages.dynamics.settings import DynamicsSettings
from workflow_lib.stages.embedding.settings import EmbeddingSettings
from workflow_lib.stages.phase_diagram.settings import PhaseDiagramSettings
from workflow_lib.stages.report.settings import ReportSettings
from workflow_lib.stages.search.settings import SearchSettings
from workflow_lib.stages.sources.settings import SourcesSettings
from workflow_lib.stages.thermodynamics.settings import ThermodynamicsSettings
from workflow_lib.stages.training.settings import TrainingSettings

LONGEST_NAME = 60
"""In letters: with variant, fold, seed and suffix a file name stays below 255 bytes, the usual limit."""
LARGEST_SEED = 2**32 - 1
"""The largest seed that every random number generator accepts."""
RESULTS = Path("results")
SHARED = {"dft"}
"""Folders of results/ that all runs share; no run may have one of these names."""
if TYPE_CHECKING:
    VariantName = str
    ControlName = str
else:
    VariantName = Literal[*(name for name in VARIANTS if name not in CONTROLS)]
    ControlName = Literal[CONTROLS]


class NamedModel(Section):
    """One model of the comparison: a family, how it starts, its hyperparameters."""

    name: str = Field(pattern=NAME, max_length=LONGEST_NAME)
    family: str
    init: Literal["scratch", "pretrained"] = "scratch"
    hyperparameters: dict[str, Any] = Field(default_factory=dict)
    training: dict[str, Any] = Field(
        default_factory=dict,
        description="keys of `training` that differ for this model; of `scheduler` too, unless its `kind` "
        "differs; a list such as `loss` is replaced as a whole",
    )
    variants: tuple[VariantName, ...] | None = Field(
        None, description="variants of this model, where they differ from the run's"
    )
    control: bool = Field(False, description="a control: evaluated, but without a search of its own")

    @field_validator("family")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in FAMILIES:
            raise ValueError(f"unknown family {value!r}{nearest(value, FAMILIES)}")
        return value

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.init == "pretrained" and not FAMILIES[self.family].pretrained:
            raise ValueError(f"family {self.family} ships no weights: init must be scratch")
        return self


class Control(Section):
    """A trained control: one named model in a variant that makes the charge label meaningless."""

    model: str
    variant: ControlName


class Studies(Section):
    """A run of studies with potentials that exist: nothing is trained, nothing compared with DFT."""

    run: str = Field(
        "demo", pattern=NAME, max_length=LONGEST_NAME, description="results go to results/<run>/"
    )
    seed: int = Field(
        711, ge=0, le=LARGEST_SEED, description="seed of every random choice outside training"
    )
    threads: int = Field(1, ge=1, le=64, description="threads of one job; part of the result")
    device: Literal["cpu", "cuda"] = Field(
        "cpu", description="where models are evaluated, and trained unless `training.device` differs"
    )
    charge_inference: ChargeInferenceSettings | None = Field(
        None, description="charge states from predicted moments; left out, the stage does not run"
    )
    dynamics: DynamicsSettings | None = Field(
        None, description="molecular dynamics; left out, the stage does not run"
    )

    @property
    def folder(self) -> Path:
        """The folder of the run's results, relative to the project root."""
        return RESULTS / self.run

    @model_validator(mode="after")
    def _folder_own(self) -> Self:
        if self.run in SHARED:
            raise ValueError(f"run: results/{self.run} is shared by all runs; choose another name")
        return self

    @model_validator(mode="after")
    def _studied_files_usable(self) -> Self:
        paths: dict[str, str | None] = {}
        for study in self.charge_inference.studies if self.charge_inference else ():
            paths[f"charge_inference.{study.name}.potential"] = study.potential
            paths[f"charge_inference.{study.name}.crystal.file"] = study.crystal.file
        for job in self.dynamics.trajectories() if self.dynamics else ():
            where = f"dynamics.{job.study.name}"
            paths[f"{where}.potential"] = job.study.potential
            paths[f"{where}.{job.system.name}.crystal.file"] = job.system.crystal.file
        for where, path in paths.items():
            if path is not None and (fault := path_fault(path)):
                raise ValueError(f"{where}: {fault}, got {short(path)}")
        return self


class Config(Studies):
    """The complete configuration of a run that trains models and compares them with DFT."""

    host: str = Field(description="host description, see resources/hosts/")
    redox: RedoxRule
    sources: SourcesSettings | None = Field(
        None, description="fetch and read public data; left out, frames come from `dataset.path`"
    )
    dataset: DatasetSettings
    models: tuple[NamedModel, ...] = Field(min_length=1)
    variants: tuple[VariantName, ...] = Field(("baseline", "entropy"), min_length=1)
    controls: tuple[Control, ...] = ()
    outside: tuple[OutsideModel, ...] = Field(
        (), description="potentials trained elsewhere, which stand beside the models in every comparison"
    )
    seeds: tuple[Annotated[int, Field(ge=0, le=LARGEST_SEED)], ...] = Field((1,), min_length=1)
    training: TrainingSettings
    charge_order: ChargeOrderSettings = ChargeOrderSettings()
    search: SearchSettings = SearchSettings()
    dft: DftSettings = DftSettings()
    thermodynamics: ThermodynamicsSettings = ThermodynamicsSettings()
    embedding: EmbeddingSettings = EmbeddingSettings()
    report: ReportSettings = ReportSettings()
    phase_diagram: PhaseDiagramSettings | None = Field(
        None, description="diagrams at finite temperature; left out, none are made"
    )
    ablation: AblationSettings | None = Field(
        None, description="pairs of models that differ in one thing; left out, the stage does not run"
    )

    @model_validator(mode="before")
    @classmethod
    def _filled_in(cls, data: Any) -> Any:
        """Fill in, where left out, the chemical subset from the redox rule and the device of trainings."""
        match data:
            case {"device": "cpu" | "cuda" as device, "training": Mapping() as training}:
                data = {**data, "training": {"device": device, **training}}
        match data:
            case {
                "dataset": Mapping() as dataset,
                "redox": {"element": str(element), "formal_charges": Mapping() as charges},
            }:
                subset = {"subset_elements": (element, *charges), "required_elements": (element,)}
                return {**data, "dataset": {**subset, **dataset}}
        return data

    @model_validator(mode="after")
    def _paths_usable(self) -> Self:
        paths = {"host": self.host, "dataset.path": self.dataset.path, "dft.store": self.dft.store}
        if self.report.beside is not None:
            paths["report.beside"] = self.report.beside
        if self.charge_order.identical_atoms is not None:
            paths["charge_order.identical_atoms"] = self.charge_order.identical_atoms
        if self.sources:
            paths |= {"sources.table": self.sources.table, "sources.folder": self.sources.folder}
            for name in self.sources.items:
                if len(name) > LONGEST_NAME:
                    raise ValueError(
                        f"sources.items: a name has at most {LONGEST_NAME} letters, got {short(name)}"
                    )
        for where, path in paths.items():
            if fault := path_fault(path):
                raise ValueError(f"{where}: {fault}, got {short(path)}")
            if leads_into(path, self.folder):
                raise ValueError(
                    f"{where}: {short(path)} lies in the run's own folder {self.folder}, which "
                    "`make clean` removes; choose another place"
                )
        return self

    @model_validator(mode="after")
    def _dft_level_stated(self) -> Self:
        if self.dft.engine != "none":
            try:
                self.require_dft_level()
            except UserError as error:
                raise ValueError(str(error)) from error
        return self

    def require_dft_level(self) -> None:
        """Raise UserError if the level to compute at would be that of this project's frames, not theirs."""
        own = self.dataset.energy_reference
        # Also one that is stated, in the config.json of a run that states none.
        assumed = self.dft.level == DftSettings().level
        if assumed and own != self.dft.level.energy_reference:
            raise UserError(
                f"dft.level: state the level to compute at; the frames of this run are at {own}, and "
                f"{self.dft.level.energy_reference} is this project's default"
            )

    @model_validator(mode="after")
    def _ends_have_a_mesh(self) -> Self:
        if self.dft.engine == "none" and self.dft.level.energy_reference != self.dataset.energy_reference:
            return self  # nothing is computed at this level, which says nothing of these frames
        for index, cell in enumerate(self.search.cells):
            try:
                self.dft.level.in_unit_cell(cell.repeat)
            except UserError as error:
                raise ValueError(f"search.cells[{index}]: {error}") from error
        return self

    @model_validator(mode="after")
    def _cells_have_stress(self) -> Self:
        names = {str(model): model.name for model in self.trained()}
        names |= {f"{self.folder}/training/{model}": name for model, name in names.items()}
        try:
            if self.charge_order.cell == "relaxed":
                self.check_stress_learnt()
            for own in self.phase_diagram.systems if self.phase_diagram else ():
                if own.cell == "relaxed" and own.potential in names:
                    self.check_stress_learnt(f"phase_diagram.systems.{own.name}.cell", names[own.potential])
        except ValidationError:
            return self  # reported where the trainings are checked
        except UserError as error:
            raise ValueError(str(error)) from error
        return self

    def check_stress_learnt(self, cell: str = "charge_order.cell", name: str | None = None) -> None:
        """Raise UserError if a model (the one so named) learns no stress and so could relax no cell."""
        for index, model in enumerate(self.models):
            if name not in (None, model.name):
                continue
            training = self.training_of(model.name)
            untouched = model.init == "pretrained" and training.epochs == 0
            if not untouched and "stress" not in {term.label for term in training.loss}:
                raise UserError(
                    f"models[{index}]: {model.name} trains without stress and cannot relax cells; add a "
                    f"stress term to its loss, or set {cell} to fixed"
                )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.sources and self.dataset.path != DatasetSettings.model_fields["path"].default:
            raise ValueError(
                "dataset.path: the frames of this run come from `sources`; give one of the two"
            )
        own = self.sources or self.dataset.path != DatasetSettings.model_fields["path"].default
        if own and "energy_reference" not in self.dataset.model_fields_set:
            raise ValueError(
                "dataset.energy_reference: state the level of theory of your frames; it has a default for "
                "the frames of this project only"
            )
        if all(model.control for model in self.models) and all(item.control for item in self.outside):
            raise ValueError(
                "models: all of them are controls, which do not search; leave one without control"
            )
        names = [model.name for model in self.models]
        check_distinct(names, "models")
        check_distinct((*names, *(item.name for item in self.outside)), "outside")
        for control in self.controls:
            if control.model not in names:
                raise ValueError(
                    f"controls: no model named {control.model!r}{nearest(control.model, names)}"
                )
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError("seeds: every seed may stand once")
        trained = [str(model) for model in self.trained()]
        for name in trained:
            if trained.count(name) > 1:
                raise ValueError(
                    f"variants, controls: {name} would be trained {trained.count(name)} times; "
                    "every variant of a model may stand once"
                )
        for index, model in enumerate(self.models):
            for what, kind, check in (
                ("hyperparameters", FAMILIES[model.family].hyperparameters, self.hyperparameters),
                ("training", TrainingSettings, self.training_of),
            ):
                try:
                    check(model.name)
                except ValidationError as error:
                    raise ValueError(
                        describe_errors(error, kind, prefix=f"models[{index}].{what}")
                    ) from error
            learnt = {term.label for term in self.training_of(model.name).loss}
            for label in sorted(learnt & {"magmoms", "charges"} - FAMILIES[model.family].predicts):
                raise ValueError(
                    f"models[{index}]: {model.name} has a loss term for {label}, which {model.family} does "
                    "not predict; leave it out"
                )
        return self

    @model_validator(mode="after")
    def _ablated_known(self) -> Self:
        names = [model.name for model in self.models]
        for study in self.ablation.studies if self.ablation else ():
            for name in (study.without, study.changed):
                if name not in names:
                    raise ValueError(
                        f"ablation.{study.name}: no model named {name!r}{nearest(name, names)}"
                    )
            trained = {
                name: {model.variant for model in self.trained() if model.name == name}
                for name in (study.without, study.changed)
            }
            if not any(not VARIANTS[variant].control for variant in set.intersection(*trained.values())):
                raise ValueError(
                    f"ablation.{study.name}: {study.without} and {study.changed} have no variant in common "
                    "that is no control, so that no trainings can be paired; give both the same `variants`"
                )
        return self

    @model_validator(mode="after")
    def _potentials_known(self) -> Self:
        trained = [str(model) for model in self.trained()]
        for system in self.phase_diagram.systems if self.phase_diagram else ():
            if system.host and (fault := path_fault(system.host)):
                raise ValueError(f"phase_diagram.systems: {fault}, got {short(system.host)}")
            if system.potential == DFT and system.host not in (None, self.host):
                raise ValueError(
                    f"phase_diagram.systems: the states of dft are those of {short(self.host)}, not of "
                    f"{short(system.host)}; leave out the host of {system.name}"
                )
            try:
                ModelId.parse(system.potential)
            except UserError:
                continue  # `dft`, shipped weights or a calculator: known where it is loaded
            if system.potential not in trained:
                raise ValueError(
                    f"phase_diagram.systems: this run trains no {system.potential}"
                    f"{nearest(system.potential, trained)}"
                )
        return self

    @property
    def phase_diagrams(self) -> PhaseDiagramSettings:
        """The settings of the phase diagrams; raise UserError if the configuration has none."""
        if self.phase_diagram is None:
            raise UserError("the configuration has no section phase_diagram; see config/phase-diagram.yaml")
        return self.phase_diagram

    @property
    def frames(self) -> str:
        """The file of frames that the dataset stage starts from, relative to the project root."""
        return str(self.folder / "sources/frames.parquet") if self.sources else self.dataset.path

    def model(self, name: str) -> NamedModel:
        """Return the named model; raise UserError if there is none of this name."""
        for model in self.models:
            if model.name == name:
                return model
        known = [model.name for model in self.models]
        raise UserError(f"no model named {name!r} in the configuration{nearest(name, known)}")

    def hyperparameters(self, name: str) -> BaseModel:
        """Return the hyperparameters of a named model, with its family's defaults."""
        model = self.model(name)
        return strictly(FAMILIES[model.family].hyperparameters, model.hyperparameters)

    def training_of(self, name: str) -> TrainingSettings:
        """Return the training settings of a named model: the common ones with its own changes."""
        common = self.training.model_dump(mode="json", exclude_unset=True)
        own, kind = self.model(name).training, self.training.scheduler.kind
        match own:
            case {"scheduler": Mapping() as changed} if changed.get("kind", kind) == kind:
                own = own | {"scheduler": common.get("scheduler", {}) | dict(changed)}
        return strictly(TrainingSettings, common | own)

    def trained(self) -> Iterator[ModelId]:
        """Yield all models this run trains."""
        models = [(model.name, model.variants or self.variants) for model in self.models]
        models += [(control.model, (control.variant,)) for control in self.controls]
        return trained_ids(models, self.dataset.folds.run, self.seeds)
