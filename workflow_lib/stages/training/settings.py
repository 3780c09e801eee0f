"""Configuration of the trainer; without heavy imports."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from workflow_lib.core.section import Section

Label = Literal["energy", "forces", "stress", "magmoms", "charges"]

UNITS: dict[str, str] = {
    "energy": "eV",
    "forces": "eV/A",
    "stress": "eV/A^3",
    "magmoms": "muB",
    "charges": "e",
}


class LossTerm(Section):
    """One term of the loss: ``weight`` times the mean of a function of the residuals of a label."""

    label: Label
    kind: Literal["mse", "mae", "huber", "l2norm"] = Field(
        default="mse",
        description="function of the residual; l2norm is the length of a force residual (one number "
        "an atom), the others act on every component",
    )
    normalisation: Literal["per_atom", "per_structure"] = Field(
        default="per_atom",
        description="energy: residual divided by the number of atoms, or of the whole cell. Forces, "
        "moments, charges: mean over all atoms of a batch, or first over the atoms of each structure. "
        "Without effect on stress",
    )
    weight: float = Field(default=1.0, gt=0, description="in the units of the label (eV, A, muB, e)")
    delta: float = Field(
        default=0.1, gt=0, description="huber: residual at which it turns from quadratic to linear"
    )

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.kind == "l2norm" and self.label != "forces":
            raise ValueError(f"kind l2norm is for forces; for {self.label} choose mse, mae or huber")
        return self


class SchedulerSettings(Section):
    """The learning rate as a function of training progress."""

    kind: Literal["constant", "cosine", "plateau"] = "cosine"
    warmup_epochs: float = Field(
        default=0.0, ge=0, description="linear rise from zero; fractions of an epoch are possible"
    )
    final_ratio: float = Field(
        default=0.01, ge=0, le=1, description="cosine: last learning rate; plateau: lowest one"
    )
    factor: float = Field(default=0.5, gt=0, lt=1, description="plateau: reduction")
    patience: int = Field(
        default=10, ge=0, description="plateau: looks at the validation loss without a lower one before it"
    )


class TrainingSettings(Section):
    """How one model is trained; the defaults suit a small model on a laptop core."""

    epochs: int = Field(
        default=100, ge=0, description="0: the initial weights, with species energies fitted to the data"
    )
    max_steps: int | None = Field(
        default=None,
        ge=1,
        description="steps (batches) after which training ends, also within an epoch, if the epochs "
        "would take more",
    )
    select: Literal["last", "validation"] = Field(
        default="last",
        description="which weights count: those after the last step of the schedule, or those of least "
        "validation loss, for which at least three validation states at different compositions must exist",
    )
    validate_every: int | None = Field(
        default=None,
        ge=1,
        description="steps between two looks at the validation set, each a row of the history and a step "
        "of the plateau scheduler; null: once an epoch",
    )
    batch_size: int = Field(default=4, ge=1)
    learning_rate: float = Field(default=5e-3, gt=0, le=1)
    optimizer: Literal["adam", "amsgrad"] = "adam"
    weight_decay: float = Field(default=0.0, ge=0, description="L2 penalty")
    scheduler: SchedulerSettings = SchedulerSettings()
    loss: tuple[LossTerm, ...] = Field(
        default=(
            LossTerm(label="energy", kind="huber", weight=100.0, delta=0.01),
            LossTerm(label="forces", kind="huber", weight=10.0, delta=0.1),
        ),
        min_length=1,
        description="terms that are added up; the same sum over the validation set is the validation loss",
    )
    ema_decay: float | None = Field(
        default=0.99, gt=0, lt=1, description="moving average of the weights, which is what is kept"
    )
    gradient_clip: float | None = Field(default=10.0, gt=0, description="largest norm of the gradient")
    reference_ridge: float = Field(
        default=1e-6,
        gt=0,
        description="penalty on species energies in the fit to the training energies, relative to "
        "the mean squared residual of a cell",
    )
    scale_by_forces: bool = Field(
        default=True, description="take the RMS force as energy scale, in families that have one"
    )
    device: Literal["cpu", "cuda"] = Field(default="cpu", description="left out: `device` of the run")
    graph_memory_gb: float = Field(
        default=2.0,
        ge=0,
        description="GB up to which the graphs of a set are kept; those of larger sets are made anew for "
        "each batch, to the same numbers",
    )
    workers: int = Field(
        default=0,
        ge=0,
        le=64,
        description="processes that make such batches beside the training; 0: the training itself",
    )
    checkpoint_every_s: float = Field(
        default=20.0,
        ge=0,
        description="least time between checkpoints in s, also within an epoch; they have no influence "
        "on the result",
    )

    @property
    def numbers(self) -> dict[str, object]:
        """The settings on which the result depends, as plain values."""
        return self.model_dump(exclude={"checkpoint_every_s", "graph_memory_gb", "workers"})

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        labels = [term.label for term in self.loss]
        for label in labels:
            if labels.count(label) > 1:
                raise ValueError(f"loss: {label} is in two terms; give one term per label")
        return self
