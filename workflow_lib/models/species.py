"""The network's view of a redox rule: its alphabet of species, and the rule on a model's card."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from workflow_lib.lattice.redox import Embedding, RedoxRule
from workflow_lib.models.contract import Species


def species_alphabet(rule: RedoxRule, elements: Iterable[int], embedding: Embedding) -> Species:
    """Return the alphabet of a model that will meet these elements under this embedding."""
    physical: dict[int, int] = {}
    for z in elements:
        if z == rule.redox_z and embedding != "none":
            for state in rule.states:
                physical[rule.label(state, embedding)] = z
        else:
            physical[int(z)] = int(z)
    return Species(tuple(sorted(physical)), physical)


def rule_from_card(card: Mapping[str, object]) -> RedoxRule:
    """Return the rule a trained model was made with."""
    return RedoxRule.model_validate(card["redox"])
