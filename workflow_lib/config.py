"""Typed configuration: the one source of defaults, of the JSON schema and of error messages.

Imports no torch and no upstream model package, so that a mistake is reported within a second.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from workflow_lib.core.errors import UserError
from workflow_lib.core.validation import describe_errors, nearest, one_line, short
from workflow_lib.lattice.redox import RedoxRule
from workflow_lib.models.identity import CONTROLS, NAME, VARIANTS, ModelId
from workflow_lib.models.registry import FAMILIES
from workflow_lib.stages.charge_order.settings import ChargeOrderSettings
from workflow_lib.stages.dataset.settings import DatasetSettings
from workflow_lib.stages.dft.settings import DftSettings
from workflow_lib.stages.embedding.settings import EmbeddingSettings
from workflow_lib.stages.search.settings import SearchSettings
from workflow_lib.stages.sources.settings import SourcesSettings
from workflow_lib.stages.thermodynamics.settings import ThermodynamicsSettings
from workflow_lib.stages.training.settings import TrainingSettings

LONGEST_NAME = 60
"""Letters: with variant, fold, seed and suffix a file name stays below the 255 of file systems."""
LARGEST_SEED = 2**32 - 1
"""What every generator of random numbers takes."""
if TYPE_CHECKING:
    VariantName = str
    ControlName = str
else:
    VariantName = Literal[*(name for name in VARIANTS if name not in CONTROLS)]
    ControlName = Literal[CONTROLS]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NamedModel(_Section):
    """One model of the comparison: a family, how it starts, its hyperparameters."""

    name: str = Field(pattern=NAME, max_length=LONGEST_NAME)
    family: str
    init: Literal["scratch", "pretrained"] = "scratch"
    hyperparameters: dict[str, Any] = Field(default_factory=dict)
    training: dict[str, Any] = Field(
        default_factory=dict, description="keys of `training` that differ for this model"
    )
    variants: tuple[VariantName, ...] | None = Field(
        None, description="variants of this model, where they differ from the run's"
    )
    control: bool = Field(False, description="a control: examined, but it runs no search of its own")

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


class Control(_Section):
    """A trained control: one named model in a variant that takes the meaning out of the label."""

    model: str
    variant: ControlName


class Config(_Section):
    """Everything a run depends on."""

    run: str = Field(
        "demo", pattern=NAME, max_length=LONGEST_NAME, description="results go to results/<run>/"
    )
    seed: int = Field(
        711, ge=0, le=LARGEST_SEED, description="seed of every random choice outside training"
    )
    threads: int = Field(1, ge=1, le=64, description="threads of one job; part of the result")
    host: str = Field(description="host description, see resources/hosts/")
    redox: RedoxRule
    sources: SourcesSettings | None = Field(
        None, description="fetch and read public data; left out, frames come from `dataset.path`"
    )
    dataset: DatasetSettings
    models: tuple[NamedModel, ...] = Field(min_length=1)
    variants: tuple[VariantName, ...] = Field(("baseline", "entropy"), min_length=1)
    controls: tuple[Control, ...] = ()
    seeds: tuple[Annotated[int, Field(ge=0, le=LARGEST_SEED)], ...] = Field((1,), min_length=1)
    training: TrainingSettings
    charge_order: ChargeOrderSettings = ChargeOrderSettings()
    search: SearchSettings = SearchSettings()
    dft: DftSettings = DftSettings()
    thermodynamics: ThermodynamicsSettings = ThermodynamicsSettings()
    embedding: EmbeddingSettings = EmbeddingSettings()

    @model_validator(mode="after")
    def _paths_usable(self) -> Self:
        paths = {"host": self.host, "dataset.path": self.dataset.path, "dft.store": self.dft.store}
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
            if fault := _fault(path):
                raise ValueError(f"{where}: {fault}, got {short(path)}")
        return self

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.sources and self.dataset.path != DatasetSettings.model_fields["path"].default:
            raise ValueError(
                "dataset.path: the frames of this run come from `sources`; give one of the two"
            )
        names = [model.name for model in self.models]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"models: the name {name!r} is used twice; names must differ")
        for control in self.controls:
            if control.model not in names:
                raise ValueError(
                    f"controls: no model named {control.model!r}{nearest(control.model, names)}"
                )
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError("seeds: every seed may stand once")
        for index, model in enumerate(self.models):
            for what, check in (
                ("hyperparameters", lambda m=model: self.hyperparameters(m.name)),
                ("training", lambda m=model: self.training_of(m.name)),
            ):
                try:
                    check()
                except ValidationError as error:
                    kind = (
                        FAMILIES[model.family].hyperparameters
                        if what == "hyperparameters"
                        else TrainingSettings
                    )
                    raise ValueError(
                        describe_errors(error, kind, prefix=f"models[{index}].{what}")
                    ) from error
        return self

    @property
    def frames(self) -> str:
        """The file of frames that the dataset stage starts from, relative to the project root."""
        return f"results/{self.run}/sources/frames.parquet" if self.sources else self.dataset.path

    def model(self, name: str) -> NamedModel:
        """The named model; UserError where there is none of this name."""
        for model in self.models:
            if model.name == name:
                return model
        known = [model.name for model in self.models]
        raise UserError(f"no model named {name!r} in the configuration{nearest(name, known)}")

    def hyperparameters(self, name: str) -> BaseModel:
        """Hyperparameters of a named model, with its family's defaults."""
        model = self.model(name)
        return FAMILIES[model.family].hyperparameters.model_validate(model.hyperparameters)

    def training_of(self, name: str) -> TrainingSettings:
        """Training settings of a named model: the common ones and what it overrides."""
        common = self.training.model_dump(exclude_unset=True)
        return TrainingSettings.model_validate(common | self.model(name).training)

    def trained(self, *, controls: bool = True) -> Iterator[ModelId]:
        """All models this run trains; without ``controls`` only those that also search."""
        for fold in self.dataset.folds.run:
            for seed in self.seeds:
                for model in self.models:
                    if model.control and not controls:
                        continue
                    for variant in model.variants or self.variants:
                        yield ModelId(model.name, variant, fold, seed)
                for control in self.controls if controls else ():
                    yield ModelId(control.model, control.variant, fold, seed)


def _fault(path: str) -> str | None:
    """Why a path of the configuration cannot be used; None where it can.

    Paths are the user's and may lead anywhere. This keeps out what would fail later and obscurely,
    in Snakemake or as an option of a command.
    """
    if not path.isprintable():
        return "a path holds no control characters"
    if path.startswith("-"):
        return "a path does not begin with a dash (write ./-name)"
    if set("{}") & set(path):
        return "a path holds no { or }, which Snakemake takes for wildcards"
    if any(len(part.encode()) > 255 for part in path.split("/")):
        return "no part of a path is longer than 255 bytes"
    return None


def validate_config(raw: Mapping[str, Any], where: str) -> Config:
    """Check a configuration read elsewhere (Snakemake's); UserError naming key and remedy."""
    try:
        return Config.model_validate(dict(raw))
    except ValidationError as error:
        raise UserError(one_line(f"{where}: {describe_errors(error, Config)}")) from None


def load_config(path: str | Path) -> Config:
    """Read and check a configuration file (YAML or JSON); UserError naming key and remedy."""
    path = Path(path)
    try:
        raw = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; see config/ for examples") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is not valid YAML: {reason}") from None
    if not isinstance(raw, dict):
        raise UserError(f"{path} must hold keys and values; see config/config.yaml")
    return validate_config(raw, str(path))
