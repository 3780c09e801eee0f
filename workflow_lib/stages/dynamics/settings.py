"""Configuration of the dynamics stage; without heavy imports."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Self

from pydantic import Field, model_validator

from workflow_lib.core.elements import Element
from workflow_lib.core.section import Section
from workflow_lib.core.validation import check_distinct
from workflow_lib.lattice.crystal import Crystal
from workflow_lib.models.identity import NAME
from workflow_lib.simulation.analysis.hopping import FEWEST_WINDOWS
from workflow_lib.simulation.dynamics.settings import MolecularDynamics, Temperature
from workflow_lib.simulation.settings import StartSettings

READ = ("moments", "diffusion", "hopping")
"""What a study may read from its trajectories, each with its own tables and figure."""
TWO_THETA = (10.0, 60.0)
"""Degrees: range of the simulated patterns."""
Radiation = Literal[
    "CuKa", "CuKa1", "CuKa2", "CuKb1", "MoKa", "MoKa1", "MoKa2", "MoKb1", "CrKa", "CrKa1", "CrKa2", "CrKb1",
    "FeKa", "FeKa1", "FeKa2", "FeKb1", "CoKa", "CoKa1", "CoKa2", "CoKb1", "AgKa", "AgKa1", "AgKa2", "AgKb1",
]  # fmt: skip
"""The radiations of pymatgen, by its names."""
LONGEST = 40
"""Letters of a name; study, system and temperature together name a folder."""


class System(Section):
    """One material of a study."""

    name: str = Field(pattern=NAME, max_length=LONGEST)
    label: str = Field("", description="its name in figures; the name itself if empty")
    crystal: Crystal
    temperatures: tuple[Temperature, ...] | None = Field(
        None, min_length=1, description="K; temperatures of this system, if not those of the study"
    )


class MomentStudy(Section):
    """Charge states by moments along the trajectory, by coordination."""

    element: Element = Field(description="redox element")
    ligand: Element = Field("O", description="element that coordinates it")
    cutoff: float = Field(2.52, gt=0, le=10, description="A; ligands within it are bonded")
    coordination: int = Field(
        6, ge=1, description="ligands of an octahedral site; fewer is a tetrahedral one"
    )
    thresholds: tuple[float, ...] = Field(
        (), description="moments (muB, ascending) that divide the charge states"
    )
    states: tuple[str, ...] = Field(
        (), description="names of the charge states in the order of their moments, one more than thresholds"
    )
    interval_ps: float = Field(1.0, gt=0, description="time over which means are taken")

    @model_validator(mode="after")
    def _one_more(self) -> Self:
        given = self.thresholds or self.states
        if given and len(self.states) != len(self.thresholds) + 1:
            raise ValueError(
                f"states: {len(self.thresholds)} thresholds divide {len(self.thresholds) + 1} charge "
                f"states, {len(self.states)} are named"
            )
        if list(self.thresholds) != sorted(set(self.thresholds)):
            raise ValueError("thresholds: give ascending moments")
        return self


class Diffraction(Section):
    """Simulated X-ray diffraction of averaged structures."""

    patterns: int = Field(6, ge=1, description="averaged structures, from the start to the end")
    average_ps: float = Field(1.0, gt=0, description="time over which a structure is averaged")
    peaks: tuple[float, ...] = Field((15.0, 18.0), description="2 theta (degrees) followed in time")
    window: float = Field(0.8, gt=0, description="degrees to either side that belong to a peak")
    radiation: Radiation = Field("CuKa", description="radiation, as pymatgen names it")

    @model_validator(mode="after")
    def _peaks_in_range(self) -> Self:
        low, high = TWO_THETA
        if outside := [place for place in self.peaks if not low <= place <= high]:
            raise ValueError(
                f"peaks: {outside[0]:g} degrees is outside the patterns, which go from {low:g} to {high:g}"
            )
        return self


class Diffusion(Section):
    """Self-diffusion of one element, from its mean squared displacement."""

    element: Element
    site_distance: float = Field(
        gt=0, le=20, description="A; length of a hop, by which hops are counted for the error (He 2018)"
    )
    paper_mev: dict[str, str] = Field(
        default_factory=dict, description="activation energies of others by system, as text, for the table"
    )


class Hopping(Section):
    """Where electrons and ions are in time, how long they stay, and whether they hop together."""

    element: Element = Field(description="redox element; its reduced atoms hold the electrons")
    mobile: Element = Field(description="element of the ions that hop between sites of the full crystal")
    reduced_below: float | None = Field(
        None,
        gt=0,
        description="moments (muB) below it are the reduced state, such as Fe2+ beside Fe3+, for a model "
        "that is given no charge states but predicts moments; left out with reduced_above, the states are "
        "those that the model was given",
    )
    reduced_above: float | None = Field(
        None,
        gt=0,
        description="the same where the reduced state has the larger moment, such as V3+ beside V4+, Mn3+ "
        "beside Mn4+, Ni2+ beside Ni3+",
    )
    reach: float = Field(1.0, gt=0, le=5, description="A; an ion this close to a site has arrived there")
    near: float = Field(4.0, gt=0, le=20, description="A; ions within it are near a redox atom")
    window_ps: float = Field(0.5, gt=0, description="time in which hops are counted for their correlation")

    @model_validator(mode="after")
    def _one_side(self) -> Self:
        if self.reduced_below is not None and self.reduced_above is not None:
            raise ValueError(
                "reduced_below, reduced_above: give one, by whether the reduced state has the smaller or "
                "the larger moment"
            )
        return self

    @property
    def border(self) -> str | None:
        """Name of the setting with the moment that divides the charge states; None without one."""
        names = ("reduced_below", "reduced_above")
        return next((name for name in names if getattr(self, name) is not None), None)

    def window_frames(self, frame_ps: float) -> int:
        """Return the frames of a window, of ``frame_ps`` ps each."""
        return max(1, round(self.window_ps / frame_ps))


class Study(Section):
    """Systems at temperatures with one potential, and what is read from their trajectories."""

    name: str = Field(pattern=NAME, max_length=LONGEST)
    potential: str = Field(
        "chgnet-0.2.0", description="shipped name, folder of a model, or module:calculator"
    )
    systems: tuple[System, ...] = Field(min_length=1)
    temperatures: tuple[Temperature, ...] = Field(min_length=1, description="K")
    replicas: int = Field(1, ge=1, le=1000, description="copies run side by side, with other velocities")
    start: StartSettings = StartSettings()
    run: MolecularDynamics
    moments: MomentStudy | None = None
    diffraction: Diffraction | None = None
    diffusion: Diffusion | None = None
    hopping: Hopping | None = None
    differs: str = Field("", description="what differs from the study it is held against, for the caption")

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        names = [system.name for system in self.systems]
        lists = [names, self.temperatures, *(system.temperatures or () for system in self.systems)]
        if any(len(set(items)) != len(items) for items in lists):
            raise ValueError("systems, temperatures: each may stand once")
        if all(getattr(self, name) is None for name in READ):
            raise ValueError(f"{', '.join(READ)}: nothing is read from the trajectories; give one of them")
        if (self.moments or self.diffraction) and (len(self.jobs()) > 1 or self.replicas > 1):
            raise ValueError(
                "moments, diffraction: follow one trajectory; give one system, temperature and replica"
            )
        if self.diffraction is not None and self.moments is None:
            raise ValueError("diffraction: is drawn beside moments; give moments")
        return self

    @model_validator(mode="after")
    def _windows_fit(self) -> Self:
        if self.hopping is None:
            return self
        steps = self.run.frames - self.run.first_frame
        windows = steps // self.hopping.window_frames(self.run.frame_ps)
        if windows < FEWEST_WINDOWS:
            raise ValueError(
                f"hopping.window_ps: production_ps ({self.run.production_ps:g}) holds {windows} windows of "
                f"{self.hopping.window_ps:g} ps, a correlation needs {FEWEST_WINDOWS}; shorten window_ps "
                "or run longer"
            )
        return self

    @property
    def kind(self) -> str:
        """What is read from the trajectories; the first in :data:`READ` of several."""
        return next(name for name in READ if getattr(self, name) is not None)

    def jobs(self) -> list[Job]:
        """Return the trajectories of the study."""
        return [Job(self, item, t) for item in self.systems for t in item.temperatures or self.temperatures]


@dataclass(frozen=True, slots=True)
class Job:
    """One trajectory of a study."""

    study: Study
    system: System
    temperature: float

    @property
    def id(self) -> str:
        """Its name, of its folder and in messages."""
        return f"{self.study.name}-{self.system.name}-{self.temperature:g}k".replace(".", "p")


class DynamicsSettings(Section):
    """The studies, and how long a job of theirs may take."""

    studies: tuple[Study, ...] = Field(min_length=1)
    max_wall_hours: float | None = Field(
        None, gt=0, description="time of one job; a longer run is a sequence of jobs. null: one job"
    )
    jobs: int = Field(1, ge=1, le=1000, description="most jobs of the sequence that makes one trajectory")

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        check_distinct((study.name for study in self.studies), "studies")
        check_distinct((job.id for job in self.trajectories()), "studies")
        if self.jobs > 1 and self.max_wall_hours is None:
            raise ValueError("jobs: a sequence of jobs needs max_wall_hours, the time of one")
        return self

    def trajectories(self) -> Iterator[Job]:
        """Yield all trajectories of all studies."""
        for study in self.studies:
            yield from study.jobs()
