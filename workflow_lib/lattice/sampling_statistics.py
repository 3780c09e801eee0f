"""Equilibration and autocorrelation of a series of samples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

WINDOW = 5.0
"""The sum over the autocorrelation ends at this many autocorrelation times (Sokal's rule)."""
STARTS = 20
"""Numbers of first samples that are tried as the length of the equilibration."""
LATEST = 0.75
"""Share of a series after which equilibration may not end."""
FEWEST = 10.0
"""Independent samples below which a series does not count as equilibrated."""


@dataclass(frozen=True, slots=True)
class Mean:
    """The mean of a series after its equilibration.

    ``value``, its statistical ``error`` (one standard deviation) and the ``variance`` of the samples;
    ``start``: number of samples left out; ``time``: integrated autocorrelation time in samples, at least
    1; ``independent``: samples that the rest is worth.
    """

    value: float
    error: float
    variance: float
    start: int
    time: float
    independent: float

    @property
    def equilibrated(self) -> bool:
        """Whether enough independent samples remain for mean and error to mean something."""
        return self.independent >= FEWEST


def autocorrelation_time(series: np.ndarray) -> float:
    """Return 1 + 2 sum_t rho(t) of a series [n], in samples, at least 1.

    The sum ends where the lag exceeds :data:`WINDOW` times the sum so far (Sokal). A constant series
    has time 1.
    """
    x = np.asarray(series, dtype=float)
    x = x - x.mean()
    n = len(x)
    variance = float(x @ x) / n if n else 0.0
    if n < 2 or variance <= 1e-24 * max(1.0, float(np.abs(series).max()) ** 2):
        return 1.0
    size = 1 << (2 * n - 1).bit_length()
    spectrum = np.fft.rfft(x, size)
    rho = np.fft.irfft(spectrum * spectrum.conj(), size)[:n] / (n * variance)
    times = 2 * np.cumsum(rho) - 1
    stop = np.flatnonzero(np.arange(n) >= WINDOW * times)
    return max(1.0, float(times[stop[0] if len(stop) else n - 1]))


def mean_of(series: np.ndarray) -> Mean:
    """Return the mean of the equilibrated part of a series [n].

    The equilibration ends where the rest is worth the most independent samples (Chodera, J. Chem.
    Theory Comput. 12, 1799, 2016).
    """
    x = np.asarray(series, dtype=float)
    if len(x) < 2:
        raise ValueError("a mean with an error needs two samples or more")
    best: Mean | None = None
    for start in np.unique(np.linspace(0, LATEST * len(x), STARTS, dtype=np.int64)).tolist():
        rest = x[start:]
        time = autocorrelation_time(rest)
        worth = len(rest) / time
        if best is None or worth > best.independent:
            variance = float(rest.var())
            error = float(np.sqrt(variance / max(worth, 1.0)))
            best = Mean(float(rest.mean()), error, variance, int(start), time, worth)
    assert best is not None
    return best
