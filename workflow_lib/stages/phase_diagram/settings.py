"""Configuration of the phase-diagram stage; without heavy imports."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Self

from pydantic import Field, PositiveInt, field_validator, model_validator

from workflow_lib.core.errors import UserError
from workflow_lib.core.section import Section
from workflow_lib.core.validation import check_distinct, nearest
from workflow_lib.models.identity import ModelId, variant_of
from workflow_lib.models.outside_settings import SHIPPED
from workflow_lib.results_schema import DFT
from workflow_lib.simulation.settings import Cells

if TYPE_CHECKING:
    from workflow_lib.lattice.redox import RedoxRule

Repeat = tuple[PositiveInt, PositiveInt, PositiveInt]
Temperature = Annotated[float, Field(gt=0, le=5000)]
Share = Annotated[float, Field(gt=0, lt=1)]
Filled = Annotated[float, Field(ge=0, le=1)]
DECORATED, PLAIN = "decorated", "plain"
"""The two expansions of a system: over ions and charge states, and over the ions alone."""
FIT, SUMMARY = "phase-diagram-fit", "summary.json"
"""The command that fits, and what it says of a fit."""
SOURCE_NAME = r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"


class Cutoffs(Section):
    """Largest diameters of the clusters in A."""

    pairs: float = Field(6.0, gt=0, le=20, description="A")
    triplets: float = Field(
        0.0, ge=0, le=12, description="A; 0: no triplets. At most `pairs`: a triplet is made of three pairs"
    )

    @model_validator(mode="after")
    def _triplets_of_pairs(self) -> Self:
        if self.triplets > self.pairs:
            raise ValueError(
                f"triplets to {self.triplets:g} A are made of pairs to as far; raise pairs from "
                f"{self.pairs:g} A, or lower triplets"
            )
        return self


class Mark(Section):
    """What experiment has found, drawn in the diagram: a phase, or the two ends of a gap."""

    x: tuple[Filled] | tuple[Filled, Filled] = Field(
        description="composition of a phase, or the two ends of a gap, ascending"
    )
    temperature: float = Field(gt=0, le=5000, description="K")
    label: str = Field(min_length=1, max_length=80, description="what it is, and who says so")

    @field_validator("x")
    @classmethod
    def _gap(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if len(value) == 2 and value[1] <= value[0]:
            raise ValueError("the ends of a gap must ascend")
        return value


class SystemSettings(Section):
    """One diagram: a host and the source of its energies."""

    name: str = Field(
        pattern=f"^{SOURCE_NAME}$", max_length=40, description="of its folder and in the figures"
    )
    potential: str = Field(
        min_length=1,
        description="`dft`: the states of the charge-order reference alone; else a trained model of this "
        "run (name-variant-f0-s1), the folder of one, shipped weights (chgnet-0.3.0), or a calculator of "
        "ASE (module:Name)",
    )
    host: str | None = Field(None, description="host description, where it is not that of the run")
    cell: Cells | None = Field(
        None, description="whether cells relax with the positions; null: as in `charge_order`"
    )
    label: str | None = Field(None, description="title in the figures; the name, if left out")
    decorated: Cutoffs = Field(
        Cutoffs(), description="of the expansion over ions and charge states, which has Ewald's term too"
    )
    plain: Cutoffs = Field(Cutoffs(pairs=8.0), description="of the expansion over the ions alone")
    experiment: tuple[Mark, ...] = Field((), description="what experiment has found, for the diagram")

    @property
    def charges(self) -> bool:
        """Whether the name of the potential alone says that it sees charge states."""
        if self.potential == DFT or self.potential in SHIPPED:
            return True
        try:
            return variant_of(ModelId.parse(self.potential).variant).charge_labelled
        except UserError:
            return False


class StructureSettings(Section):
    """Which arrangements are relaxed to fit the expansions; starts and ends are those of `charge_order`."""

    cells: tuple[Repeat, ...] = Field(
        ((1, 1, 1), (1, 2, 1), (1, 1, 2)),
        min_length=1,
        description="supercells; a pair and its periodic image can be told apart only where a cell is "
        "long enough",
    )
    per_composition: int = Field(
        3, ge=1, description="arrangements at random of each composition; all of them where there are "
        "no more than `enumerate_up_to`"
    )  # fmt: skip
    enumerate_up_to: int = Field(60, ge=1, description="distinct arrangements of a whole supercell")
    rounds: int = Field(
        2,
        ge=0,
        description="most rounds in which the lowest arrangements that the expansion predicts are "
        "relaxed and added; it ends before where nothing is new",
    )
    fmax: float | None = Field(
        None, gt=0, le=1, description="eV/A; null: as in `charge_order`, whose relaxations are used again"
    )
    max_steps: int | None = Field(None, ge=1, description="of one relaxation; null: as in `charge_order`")

    @field_validator("cells")
    @classmethod
    def _each_once(cls, value: tuple[Repeat, ...]) -> tuple[Repeat, ...]:
        if len(set(value)) != len(value):
            raise ValueError("each supercell may be listed only once")
        return value


class SamplingSettings(Section):
    """Monte Carlo on the expansions."""

    cell: Repeat = Field((2, 3, 4), description="supercell that is sampled")
    temperatures: tuple[Temperature, ...] = Field(
        (200, 300, 400, 500, 600, 700, 800, 900, 1000), min_length=1, description="K, ascending"
    )
    mu_step: float = Field(
        0.01, gt=0, le=0.02, description="eV, between chemical potentials; they reach from end to end"
    )
    sweeps: int = Field(
        200, ge=50, description="of each point of an isotherm; each tries as many moves as there are sites"
    )
    ladder_sweeps: int = Field(
        1000, ge=50, description="of each temperature on the way down from `hottest`"
    )
    patience: int = Field(
        8, ge=1, description="a point that is not equilibrated is continued up to this many times `sweeps`"
    )
    replicas: int = Field(
        2,
        ge=2,
        le=20,
        description="independent runs; one alone does not show its error at low temperature",
    )
    compositions: int = Field(24, ge=4, description="intervals in x at which free energies are computed")
    rungs: int = Field(24, ge=8, description="temperatures on the way down from `hottest`")
    hottest: float = Field(
        30000.0, ge=2000, description="K; the highest finite temperature of a ladder, above it is infinity"
    )
    entropy_x: tuple[Share, ...] = Field(
        (0.25, 0.5, 0.75), min_length=1, description="compositions at which the entropy is taken apart"
    )
    entropy_temperatures: tuple[Temperature, ...] = Field((300, 600, 1000), min_length=1, description="K")
    entropy_orders: int = Field(
        2, ge=1, description="arrangements frozen in turn, drawn from the sampling, a point"
    )

    @field_validator("temperatures", "entropy_temperatures")
    @classmethod
    def _ascending(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if any(b <= a for a, b in pairwise(value)):
            raise ValueError("temperatures must ascend, each once")
        return value

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        if self.hottest <= max((*self.temperatures, *self.entropy_temperatures)):
            raise ValueError("hottest must lie above all temperatures")
        return self


class PhaseDiagramSettings(Section):
    """Phase diagrams from cluster expansions with and without charge states."""

    systems: tuple[SystemSettings, ...] = Field(min_length=1)
    structures: StructureSettings = StructureSettings()
    sampling: SamplingSettings = SamplingSettings()

    @model_validator(mode="after")
    def _names_usable(self) -> Self:
        names = [system.name for system in self.systems]
        check_distinct(names, "systems")
        for name in names:
            if re.search(r"-r\d+$", name):
                raise ValueError(f"systems: {name} is the name of a replica's folder; choose another")
        return self

    def check(self, run_host: str, rule: RedoxRule) -> None:
        """Raise UserError for a system whose host has another couple, no two neutral ends, or an anion.

        ``run_host`` is the host description of systems that name none. An anion is refused where the source
        of energies is known to see charge states; of others it shows when they are fitted.
        """
        from workflow_lib.lattice.host import Host
        from workflow_lib.lattice.reservoir import neutral_exchange

        for system in self.systems:
            try:
                host = Host.load(system.host or run_host, rule)
                host.end_members(charges=system.charges)
                neutral_exchange(host, charges=system.charges)
            except UserError as error:
                raise UserError(f"phase_diagram.systems: {system.name}: {error}") from error

    def system(self, name: str) -> SystemSettings:
        """Return a system by its name; raise UserError if there is none."""
        for system in self.systems:
            if system.name == name:
                return system
        known = [system.name for system in self.systems]
        raise UserError(f"no system named {name!r} in phase_diagram.systems{nearest(name, known)}")

    def replica_of(self, sample: str, system: SystemSettings) -> int:
        """Return the number of a sampling run of a system from its name; raise UserError if it is none."""
        for replica in range(self.sampling.replicas):
            if sample == f"{system.name}-r{replica}":
                return replica
        raise UserError(
            f"{sample!r} names no sampling run of {system.name}; give a folder such as {system.name}-r0 "
            f"(phase_diagram.sampling.replicas: {self.sampling.replicas})"
        )
