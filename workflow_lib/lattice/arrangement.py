"""Arrangements of ions and charge states on the sites of a host, and the grammar of their names.

A state key such as ``1x3x1:Na110000000000:Fe222333...`` names an arrangement: the supercell, one
digit per mobile site (1: occupied), one digit per redox site (its oxidation state). Without the
last part it names the ions only. This is the only file that writes or parses keys.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from typing import Self

from workflow_lib.core.errors import UserError

Repeat = tuple[int, int, int]
"""Repetitions of the host's cell along its three vectors."""
UNIT: Repeat = (1, 1, 1)
"""The host's own cell."""

_KEY = re.compile(
    r"([1-9]\d*)x([1-9]\d*)x([1-9]\d*):([A-Z][a-z]?)([01]+)(?::([A-Z][a-z]?)(\d+))?", re.ASCII
)


@dataclass(frozen=True, slots=True)
class Arrangement:
    """The mobile sites that are occupied and the redox sites in the lower charge state.

    Sites are counted over the supercell ``repeat``. ``reduced`` is None if the electrons are not
    part of the arrangement (a charge-blind search).
    """

    repeat: Repeat
    occupied: tuple[int, ...]
    reduced: tuple[int, ...] | None

    @property
    def cells(self) -> int:
        """Number of host cells in the supercell."""
        return prod(self.repeat)

    def without_charges(self) -> Arrangement:
        """Return the arrangement of the ions only."""
        return Arrangement(self.repeat, self.occupied, None)


@dataclass(frozen=True, slots=True)
class StateKey:
    """The name of an arrangement, split into its parts; a host turns it into the arrangement.

    ``ions`` has one digit per mobile site, ``states`` one per redox site; ``redox`` and ``states``
    are None in a name of ions only.
    """

    repeat: Repeat
    mobile: str
    ions: str
    redox: str | None = None
    states: str | None = None

    @classmethod
    def parse(cls, key: str) -> Self:
        """Split a key into its parts; raise UserError if the text is no key."""
        found = _KEY.fullmatch(key) if isinstance(key, str) else None
        if found is None:
            raise UserError(f"{key!r} is no key of an arrangement; one looks like 1x1x1:Na1001:Fe2323")
        a, b, c, mobile, ions, redox, states = found.groups()
        repeat = (int(a), int(b), int(c))
        if any(digits is not None and len(digits) % prod(repeat) for digits in (ions, states)):
            raise UserError(
                f"{key!r} is no key of an arrangement: the number of its digits is no multiple of the "
                f"{prod(repeat)} cells"
            )
        return cls(repeat, mobile, ions, redox, states)

    def __str__(self) -> str:
        return self.ion_key if self.states is None else f"{self.ion_key}:{self.redox}{self.states}"

    @property
    def cell(self) -> str:
        """The supercell, e.g. ``1x3x1``."""
        return "x".join(map(str, self.repeat))

    @property
    def ion_key(self) -> str:
        """The key without its charge order."""
        return f"{self.cell}:{self.mobile}{self.ions}"

    @property
    def order(self) -> str | None:
        """The charge order only, e.g. ``Fe2323``; None in a name of ions."""
        return None if self.states is None else f"{self.redox}{self.states}"

    @property
    def filled(self) -> int:
        """Number of mobile ions."""
        return self.ions.count("1")

    @property
    def sites(self) -> int:
        """Number of mobile sites."""
        return len(self.ions)

    @property
    def x(self) -> float:
        """Mobile ions per mobile site."""
        return self.filled / self.sites


def mobile_of(keys: Iterable[str]) -> str:
    """Return the element of the mobile ion, which all keys of a host name; raise UserError for no key."""
    return StateKey.parse(next(iter(keys))).mobile
