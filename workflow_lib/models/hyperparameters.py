"""Hyperparameters of each family, with defaults and limits; without heavy imports.

The names are those of the upstream packages where they have one, so that a paper's settings can be
copied.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from workflow_lib.core.section import Section


class Hyperparameters(Section):
    """The hyperparameters that all families share."""

    dtype: Literal["float32", "float64"] = "float32"


MaceBlock = Literal[
    "RealAgnosticInteractionBlock",
    "RealAgnosticResidualInteractionBlock",
    "RealAgnosticDensityInteractionBlock",
    "RealAgnosticDensityResidualInteractionBlock",
]


class MaceHyperparameters(Hyperparameters):
    """MACE (mace-torch), a ScaleShiftMACE."""

    r_max: float = Field(4.0, gt=0, le=12, description="cut-off in A")
    num_channels: int = Field(16, ge=1)
    max_L: int = Field(1, ge=0, le=3, description="highest degree of the node features")
    max_ell: int = Field(2, ge=0, le=4, description="highest degree of the spherical harmonics")
    correlation: int = Field(2, ge=1, le=4)
    num_interactions: int = Field(2, ge=1)
    num_radial_basis: int = Field(8, ge=1)
    num_cutoff_basis: int = Field(5, ge=1)
    mlp_irreps: str = Field(
        "16x0e", pattern=r"^[1-9][0-9]{0,3}x0e$", description="hidden scalars of the last readout"
    )
    radial_mlp: tuple[int, ...] = (64, 64, 64)
    interaction_first: MaceBlock = "RealAgnosticInteractionBlock"
    interaction: MaceBlock = "RealAgnosticResidualInteractionBlock"
    distance_transform: Literal["None", "Agnesi", "Soft"] = "None"
    pair_repulsion: bool = False
    surrogate_z: Literal["physical", "surrogate"] = Field(
        "physical",
        description="atomic number that Agnesi and the pair repulsion take for a relabelled site",
    )


class PainnHyperparameters(Hyperparameters):
    """PaiNN (schnetpack)."""

    cutoff: float = Field(4.0, gt=0, le=12, description="cosine cut-off in A")
    n_atom_basis: int = Field(64, ge=1, description="features per atom")
    n_interactions: int = Field(3, ge=1)
    n_rbf: int = Field(20, ge=1)
    radial_basis: Literal["bessel", "gaussian"] = Field(
        "bessel", description="bessel is the sinc basis of the PaiNN paper"
    )


class CpainnHyperparameters(PainnHyperparameters):
    """cPaiNN: PaiNN with auxiliary heads for Bader charge and magnetic moment."""

    n_interactions: int = Field(3, ge=3, description="the heads read the features entering n-2")


class ChgnetHyperparameters(Hyperparameters):
    """CHGNet; the defaults are the architecture of its shipped 0.3.0 weights."""

    atom_fea_dim: int = Field(64, ge=1)
    bond_fea_dim: int = Field(64, ge=1)
    angle_fea_dim: int = Field(64, ge=1)
    num_radial: int = Field(31, ge=1)
    num_angular: int = Field(31, ge=1)
    n_conv: int = Field(4, ge=2)
    atom_graph_cutoff: float = Field(6.0, gt=0, description="A")
    bond_graph_cutoff: float = Field(3.0, gt=0, description="A")
    pretrained: Literal["0.3.0", "0.2.0", "r2scan"] = Field(
        "0.3.0", description="shipped weights that init: pretrained starts from"
    )
    surrogate_start: Literal["element", "own"] = Field(
        "element",
        description="where a surrogate's embedding starts in a pretrained model: as a copy of the "
        "element it stands for, or from the row of its own atomic number",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.num_angular % 2 == 0:
            raise ValueError(f"num_angular must be odd (1, sines and cosines), got {self.num_angular}")
        if self.bond_graph_cutoff > self.atom_graph_cutoff:
            raise ValueError(
                f"bond_graph_cutoff ({self.bond_graph_cutoff} A) must not exceed "
                f"atom_graph_cutoff ({self.atom_graph_cutoff} A): angles are made of bonds"
            )
        return self
