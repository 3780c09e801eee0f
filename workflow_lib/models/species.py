"""The network's view of a redox rule: its alphabet of species, and the rule on a model's card."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from workflow_lib.core.elements import SYMBOLS
from workflow_lib.core.errors import UserError
from workflow_lib.lattice.redox import Embedding, RedoxRule
from workflow_lib.models.contract import Species


def species_alphabet(rule: RedoxRule, elements: Iterable[int], embedding: Embedding) -> Species:
    """Return the alphabet of a model that will meet these elements under this embedding.

    Raises UserError if the label of a charge state is also one of the other elements: the network could
    not tell the two apart.
    """
    physical: dict[int, int] = {}
    for z in map(int, elements):
        own = z == rule.redox_z and embedding != "none"
        for label in (rule.label(state, embedding) for state in rule.states) if own else (z,):
            if physical.setdefault(label, z) != z:
                symbol, key = SYMBOLS[label], embedding.replace("-", "_")
                raise UserError(
                    f"{symbol} marks a charge state of {rule.element} (redox.states, {key}), but there are "
                    f"frames with {symbol} itself; choose as {key} an element that no frame holds"
                )
    return Species(tuple(sorted(physical)), physical)


def rule_from_card(card: Mapping[str, object]) -> RedoxRule:
    """Return the rule a trained model was made with."""
    return RedoxRule.model_validate(card["redox"])
