"""Configuration of the charge-order stage; without heavy imports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import Field

from workflow_lib.core.errors import UserError
from workflow_lib.simulation.settings import RelaxationSettings

if TYPE_CHECKING:
    from workflow_lib.lattice.host import Host

MIN_STATES = 3
"""Fewer states than this are not ranked: two states have a Spearman of 1 or -1 by chance."""


class ChargeOrderSettings(RelaxationSettings):
    """How the models relax the enumerated states, and at which composition orders are compared."""

    compared_x: float = Field(
        0.5, gt=0, lt=1, description="composition whose states are ranked against each other"
    )
    identical_atoms: str | None = Field(
        None,
        description="frame table, for testing only, with several charge orders on the same atoms "
        "(kind `same-positions`); left out, the models are not asked about them",
    )

    def check(self, host: Host) -> None:
        """Raise UserError if the host's own cell has too few states at the composition that is compared."""
        from workflow_lib.lattice.arrangement import UNIT
        from workflow_lib.lattice.counting import count_distinct

        sites = host.n_mobile(UNIT)
        self.require_several(
            {n / sites: count_distinct(host, UNIT, n, charges=True) for n in host.compositions(UNIT)},
            f"the cell of {host.name} has",
        )

    def require_several(self, counts: Mapping[float, int], who: str) -> None:
        """Raise UserError unless there are :data:`MIN_STATES` or more at the composition that is compared.

        ``counts`` are the numbers of states by composition, ``who`` says whose they are.
        """
        from workflow_lib.lattice.formation import at_x

        if any(count >= MIN_STATES and at_x(x, self.compared_x) for x, count in counts.items()):
            return
        told = ", ".join(f"{count} at {x:.6g}" for x, count in sorted(counts.items()))
        several = [f"{x:.6g}" for x, count in sorted(counts.items()) if count >= MIN_STATES and 0 < x < 1]
        remedy = f"set it to {' or '.join(several)}" if several else "describe the host by a larger cell"
        raise UserError(
            f"charge_order.compared_x is {self.compared_x:.6g}, where {who} no {MIN_STATES} states to "
            f"rank ({told}); {remedy}"
        )
