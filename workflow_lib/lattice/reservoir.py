"""What a host exchanges with the reservoir of its mobile ion so that it stays neutral."""

from __future__ import annotations

from math import gcd
from typing import NamedTuple

from workflow_lib.core.errors import UserError
from workflow_lib.lattice.arrangement import UNIT
from workflow_lib.lattice.host import Host


class Exchange(NamedTuple):
    """What one exchange adds: ``ions`` mobile ions and ``reduced`` redox sites in the lower state."""

    ions: int
    reduced: int


def neutral_exchange(host: Host, *, charges: bool) -> Exchange:
    """Return the smallest exchange with the reservoir that keeps the cell neutral.

    Ions of charge z and redox sites that differ by d e: d/g ions with z/g sites, g their common divisor.
    Without charge states one ion. Raises UserError for mobile anions, which would oxidise as they come in.
    """
    if not charges:
        return Exchange(1, 0)
    if host.mobile_charge < 0:
        raise UserError(
            f"{host.mobile} of {host.name} is an anion; Monte Carlo with charge states knows cations only"
        )
    step = host.high - host.low
    divisor = gcd(step, host.mobile_charge)
    return Exchange(step // divisor, host.mobile_charge // divisor)


def dilute_species(host: Host, *, charges: bool) -> tuple[float, float]:
    """Return how many species are dilute for each ion (vacancy) near the empty (full) host.

    The ion and its share of electrons; at an end member of mixed valence the ion alone, because its
    electrons are few among many.
    """
    exchange = neutral_exchange(host, charges=charges)
    found = []
    for ions in (0, host.n_mobile(UNIT)):
        mixed = charges and 0 < host.n_reduced(UNIT, ions) < host.n_redox(UNIT)
        found.append(1.0 if mixed else 1 + exchange.reduced / exchange.ions)
    return found[0], found[1]
