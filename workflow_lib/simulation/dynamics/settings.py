"""Settings of a molecular-dynamics run; free of heavy imports."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from workflow_lib.core.section import Section

Ensemble = Literal["nve", "nvt-langevin", "nvt-nose-hoover", "npt-isotropic"]
Temperature = Annotated[float, Field(ge=1, le=10000, description="K", allow_inf_nan=False)]


class Limits(Section):
    """What a run must keep to; a run beyond them fails and says which."""

    drift_mev_atom_ps: float = Field(
        1.0, gt=0, description="largest drift of the total energy in NVE, meV per atom and ps"
    )
    temperature: float = Field(
        0.05,
        gt=0,
        description="largest relative deviation of the mean temperature, beyond four standard errors",
    )
    spread: float = Field(
        2.0,
        gt=1,
        description="largest factor between the spread of the temperature and that of the canonical "
        "ensemble, sqrt(2 / degrees of freedom)",
    )
    min_distance: float = Field(0.5, gt=0, description="A; atoms closer than this are fused")


class MolecularDynamics(Section):
    """Ensemble, times and recording of a run.

    A run is a ramp of the temperature, then equilibration, then production. Of a trajectory that exists
    ``equilibration_ps`` and ``production_ps`` may be changed: what there is is used, and continued where it
    is too short.
    """

    ensemble: Ensemble = "nvt-langevin"
    time_step_fs: float = Field(2.0, gt=0, le=10)
    ramp_ps: float = Field(0.0, ge=0, description="time in which the thermostat's temperature rises")
    ramp_from_k: Temperature = Field(300.0, description="temperature at the start of the ramp, K")
    equilibration_ps: float = Field(0.0, ge=0, description="after the ramp, before production")
    production_ps: float = Field(gt=0, description="time that the analysis uses")
    record_fs: float = Field(20.0, gt=0, description="time between two frames of the trajectory")
    frames_per_chunk: int = Field(
        50, ge=1, description="frames that are written together; a killed run loses at most these"
    )
    thermostat_ps: float = Field(
        0.1, gt=0, description="relaxation time of the thermostat (1 / friction for Langevin)"
    )
    barostat_ps: float = Field(1.0, gt=0, description="relaxation time of the barostat (NPT)")
    pressure_gpa: float = Field(0.0, description="external pressure (NPT)")
    compressibility_per_gpa: float = Field(
        0.01, gt=0, description="isothermal compressibility that the barostat assumes (NPT)"
    )
    exchange_every: int | None = Field(
        None,
        ge=1,
        description="steps between two attempts to exchange the charge states of two redox sites; only "
        "for models that are given charge states",
    )
    limits: Limits = Limits()

    @property
    def computed(self) -> dict[str, Any]:
        """What decides the numbers of a trajectory; where equilibration ends decides what is analysed."""
        return self.model_dump(mode="json", exclude={"equilibration_ps", "production_ps", "limits"})

    @model_validator(mode="after")
    def _times_fit(self) -> Self:
        if self.record_fs < self.time_step_fs:
            raise ValueError(
                f"record_fs: {self.record_fs:g} fs is shorter than the time step ({self.time_step_fs:g} fs)"
            )
        if self.ensemble == "nve" and self.ramp_ps:
            raise ValueError("ramp_ps: nve has no thermostat that could ramp; take nvt or leave it out")
        if self.ensemble == "nve" and self.exchange_every is not None:
            raise ValueError(
                "exchange_every: nve keeps the energy, which an exchange of charge states changes; "
                "take nvt or leave it out"
            )
        if self.production_ps * 1000 < self.record_fs:
            raise ValueError("production_ps: shorter than record_fs, so that nothing would be recorded")
        return self

    @property
    def steps_per_frame(self) -> int:
        """Steps between two recorded frames."""
        return max(1, round(self.record_fs / self.time_step_fs))

    @property
    def frame_ps(self) -> float:
        """Time between two recorded frames, ps."""
        return self.steps_per_frame * self.time_step_fs / 1000

    @property
    def frames(self) -> int:
        """Frames of the whole run, besides the start."""
        return self.first_frame + max(1, round(self.production_ps / self.frame_ps))

    @property
    def first_frame(self) -> int:
        """Number of the frame (0 is the start) at which production begins."""
        return round((self.ramp_ps + self.equilibration_ps) / self.frame_ps)

    def temperature(self, target: float, step: int) -> float:
        """Return the thermostat's temperature (K) at a step of a run that ends at ``target``."""
        if not self.ramp_ps:
            return target
        done = min(1.0, step * self.time_step_fs / (1000 * self.ramp_ps))
        return self.ramp_from_k + done * (target - self.ramp_from_k)
