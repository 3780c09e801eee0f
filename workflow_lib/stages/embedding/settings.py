"""Configuration of the embedding stage; without heavy imports."""

from __future__ import annotations

from pydantic import Field

from workflow_lib.core.section import Section


class EmbeddingSettings(Section):
    """Which structures are embedded and how the separation of charge states is measured."""

    reference_state: str | None = Field(
        None,
        description="key of the arrangement whose relaxation is followed, such as "
        "1x1x1:Na1001:Fe2323; null takes the lowest DFT state at reference_x; it "
        "relaxes as in charge_order",
    )
    reference_x: float = Field(
        0.5, ge=0, le=1, description="composition of the reference arrangement if none is named"
    )
    components: int = Field(4, ge=2, le=32, description="principal components written to the table")
    classifier_folds: int = Field(
        5, ge=2, le=50, description="parts of the cross-validation; no state is in two of them"
    )
    classifier_penalty: float = Field(
        1.0, gt=0, description="inverse strength of the classifier's L2 penalty (scikit-learn's C)"
    )
    min_atoms: int = Field(
        8,
        ge=2,
        description="redox atoms of each charge state that held-out states must offer for the "
        "headline numbers to be taken on them alone",
    )
    silhouette_atoms: int = Field(
        4000, ge=100, description="at most this many atoms (drawn with the run's `seed`) enter a silhouette"
    )
    batch_size: int = Field(16, ge=1)
