"""The magnetic order that moments show: ferromagnetic, antiferromagnetic, ferrimagnetic, or none.

Energies of one crystal in two orders differ by tens of meV per formula unit, so the order belongs to
the level at which energies may be compared. Names are those of pymatgen and the Materials Project.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

MagneticOrder = Literal["NM", "FM", "AFM", "FiM"]
"""No magnetic atom; all parallel; as many up as down, or one more of an odd number; antiparallel in unequal
numbers."""
MAGNETIC = 0.5
"""muB; ions of oxygen beside magnetic ones carry up to 0.3, magnetic ions 0.9 and more."""
_NAMES = {name.lower(): name for name in get_args(MagneticOrder)}


def magnetic_orders(moments: np.ndarray, offsets: np.ndarray) -> list[MagneticOrder | None]:
    """Return the order of each frame ``[F]``; None if a moment is not finite or just one atom is magnetic.

    ``moments`` ``[N]`` in muB, collinear with sign; frame i from ``offsets[i]`` to ``offsets[i +
    1]``, at least one atom each. Atoms below :data:`MAGNETIC` do not count. One magnetic atom goes with any
    order: it may stand for all of a ferromagnet or for what antiparallel neighbours left when they were
    oxidised to a state without a moment.
    """
    if len(offsets) < 2:
        return []
    starts = np.asarray(offsets)[:-1]
    up = np.add.reduceat(moments >= MAGNETIC, starts, dtype=np.int64)
    down = np.add.reduceat(moments <= -MAGNETIC, starts, dtype=np.int64)
    known = np.logical_and.reduceat(np.isfinite(moments), starts)
    names: tuple[MagneticOrder, ...] = ("NM", "FM", "AFM", "FiM")
    known &= up + down != 1
    alternate = np.abs(up - down) <= (up + down) % 2
    kind = np.where(up + down == 0, 0, np.where((up == 0) | (down == 0), 1, np.where(alternate, 2, 3)))
    return [names[one] if good else None for one, good in zip(kind.tolist(), known.tolist(), strict=True)]


def magnetic_order(moments: np.ndarray) -> MagneticOrder | None:
    """Return the order of one frame from its moments ``[n]`` in muB, see :func:`magnetic_orders`."""
    return magnetic_orders(np.asarray(moments, dtype=float), np.array([0, len(moments)]))[0]


def stated_order(text: object) -> str | None:
    """Return a stated order in our spelling; None if it is none of the four."""
    return _NAMES.get(str(text).strip().lower())
