"""The adapter under test, and how the checks build, run and compare it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from workflow_lib.models.contract import Output, Potential, Species, Structure
from workflow_lib.models.hyperparameters import Hyperparameters
from workflow_lib.models.registry import FAMILIES
from workflow_lib.models.testing.structures import REFERENCES, SPECIES

# Sums over atoms and edges run in another order in another batch, frame or cell: a few thousand
# terms in double precision leave an error of 1e-12 of the largest.
SAME = 1e-9


@dataclass(frozen=True, slots=True)
class Subject:
    """An adapter with the class of its hyperparameters.

    ``small``: hyperparameters that make the network small (the defaults work, slowly);
    ``pretrained``: whether ``build`` accepts ``init="pretrained"``.
    """

    adapter: type[Potential]
    hyperparameters: type[Hyperparameters]
    small: Mapping[str, Any] = field(default_factory=dict)
    pretrained: bool = False

    @classmethod
    def of(cls, family: str, **small: Any) -> Subject:
        """Return the subject of a family in the registry."""
        entry = FAMILIES[family]
        return cls(entry.load(), entry.hyperparameters, small, entry.pretrained)

    @property
    def per_atom(self) -> tuple[str, ...]:
        """Outputs that must not depend on the frame of reference."""
        return ("node_embeddings", *sorted(self.adapter.predicts))

    def build(
        self,
        *,
        seed: int = 1,
        species: Species = SPECIES,
        init: str = "scratch",
        **hyperparameters: Any,
    ) -> Potential:
        """Return an untrained network in evaluation mode, with energies of the species set.

        In double precision, so that finite differences are sharp, unless ``dtype`` says otherwise.
        A pretrained one keeps its own energies and sizes.
        """
        values = {"dtype": "float64", **(self.small if init == "scratch" else {}), **hyperparameters}
        potential = self.adapter.build(self.hyperparameters(**values), species, init=init, seed=seed)
        if init == "scratch":
            potential.set_reference_energies({label: REFERENCES[label] for label in species.labels})
        return potential.eval()


def evaluate(potential: Potential, *structures: Structure, stress: bool = True) -> Output:
    """Return the output of a batch of structures, without gradients."""
    batch = potential.collate([potential.graph(item) for item in structures])
    return {key: value.detach() for key, value in potential(batch, stress=stress).items()}


def close(found: torch.Tensor, expected: torch.Tensor, tolerance: float = SAME) -> None:
    """Raise AssertionError unless two tensors agree within ``tolerance`` of the largest value."""
    scale = max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * scale)


def near(found: float, expected: float, *, absolute: float = 0.0, relative: float = 0.0) -> None:
    """Raise AssertionError unless two numbers agree within the larger of the two tolerances."""
    allowed = max(absolute, relative * abs(expected))
    assert abs(found - expected) <= allowed, f"{found!r} is not {expected!r} +- {allowed:.3g}"


@contextmanager
def refused(kind: type[Exception], text: str) -> Iterator[None]:
    """Raise AssertionError unless the body raises ``kind`` with a message that names ``text``."""
    try:
        yield
    except kind as error:
        assert text in str(error), f"{kind.__name__} does not name {text}: {error}"
    else:
        raise AssertionError(f"no {kind.__name__} was raised")
