"""Whether GPAW, the PAW sets of a calculation and pybader are installed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from workflow_lib.core.elements import SYMBOLS
from workflow_lib.core.errors import UserError
from workflow_lib.dft.calculation import Calculation

MISSING = (
    "GPAW is not installed; run 'make dft-setup' (Debian/Ubuntu) or "
    "'conda install -c conda-forge gpaw', see docs/dft.md"
)


def require_all(calculations: Sequence[Calculation]) -> None:
    """Raise UserError for the first thing that calculations need and that is not installed."""
    require_gpaw()
    if any(calculation.charges for calculation in calculations):
        require_bader()
    for calculation in calculations:
        require_paw_sets(calculation)


def require_gpaw() -> None:
    """Raise UserError, saying how to install it, if GPAW is not there."""
    try:
        import gpaw  # noqa: F401
    except ImportError as error:
        raise UserError(MISSING) from error


def require_bader() -> None:
    """Raise UserError, saying how to install it, if pybader cannot be imported."""
    try:
        import pybader.interface  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"Bader charges need pybader, which cannot be imported ({error}); run 'make dft-setup', or "
            'pip install pybader==0.3.12 "setuptools<81", see docs/dft.md'
        ) from error


def require_paw_sets(calculation: Calculation) -> None:
    """Raise UserError naming the first element that has no PAW set here."""
    from gpaw import setup_paths

    for z in np.unique(calculation.numbers):
        symbol = SYMBOLS[int(z)]
        if not any(list(Path(path).glob(f"{symbol}.PBE*")) for path in setup_paths):
            raise UserError(
                f"{calculation.name}: GPAW has no PBE PAW set for {symbol}; "
                "install gpaw-data or choose another element"
            )
