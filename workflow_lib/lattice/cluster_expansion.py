"""Cluster expansions of a host's arrangements, made with smol, with and without charge states.

*Charge-decorated*: mobile sites hold an ion or a vacancy, redox sites the lower or the higher state;
an Ewald term of the formal charges stands beside the clusters. *Not decorated*: ions and vacancies
only; a redox site has no state. Both expand energies in eV per host cell, on the lattice of the full
host; supercells are the repetitions that an :class:`Arrangement` names.

smol takes seconds to import: this module is loaded where expansions are fitted or read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

import numpy as np
from pymatgen.core import Structure
from smol.cofe import ClusterExpansion, RegressionData
from smol.io import load_work, save_work

from workflow_lib.core.errors import UserError
from workflow_lib.core.io import atomic_path
from workflow_lib.lattice.arrangement import Arrangement, Repeat
from workflow_lib.lattice.cluster_space import SAME_SITE, Space, disordered
from workflow_lib.lattice.host import Host
from workflow_lib.lattice.multilinear import Multilinear
from workflow_lib.lattice.sparse_fit import DECIMALS, LEAST_GROUPS, Fit, groups_of_ions, sparse_fit


class Expansion:
    """A cluster expansion of the arrangements of a host; coefficients in eV per host cell.

    ``charges``: whether charge states are part of the arrangements. ``fit`` says what the expansion is
    worth; None if it was read from a file.
    """

    def __init__(
        self, host: Host, smol: ClusterExpansion, *, charges: bool, fit: Fit | None = None
    ) -> None:
        self.host, self.smol, self.charges, self.fit = host, smol, charges, fit
        self.space = Space(host, smol.cluster_subspace, charges=charges)

    @property
    def dielectric(self) -> float | None:
        """The constant by which the fit divides the electrostatic energy; None without the term."""
        if not self.charges or self.smol.coefs[-1] == 0:
            return None
        return float(1 / self.smol.coefs[-1])

    def energies(self, arrangements: Sequence[Arrangement]) -> np.ndarray:
        """Return the energies [n] of arrangements in eV a supercell."""
        cells = np.array([arrangement.cells for arrangement in arrangements])
        return cells * (self.space.features(arrangements) @ self.smol.coefs)

    def multilinear(self, repeat: Repeat) -> Multilinear:
        """Return the energy of a supercell as a function of its occupations, mobile sites first."""
        return self.space.multilinear(repeat, np.asarray(self.smol.coefs, dtype=float))

    def save(self, path: str | Path) -> None:
        """Write the expansion in smol's own format (``smol.io.load_work`` reads it)."""
        with atomic_path(path) as temporary:
            save_work(temporary, self.smol)

    @classmethod
    def load(cls, path: str | Path, host: Host) -> Self:
        """Read an expansion; raise UserError if the file is none, or of another lattice than the host's."""
        try:
            smol = load_work(path)["ClusterExpansion"]
            space = smol.cluster_subspace
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is no cluster expansion written by smol; make it again") from error
        for charges in (True, False):
            if _same_lattice(space.structure, disordered(host, charges=charges)):
                return cls(host, smol, charges=charges)
        raise UserError(
            f"{path} expands {space.structure.composition.reduced_formula} on another lattice than "
            f"{host.name}; fit one for this host"
        )


def fit_expansion(
    space: Space, arrangements: Sequence[Arrangement], energies: np.ndarray, *, where: str
) -> Expansion:
    """Fit energies [n] (eV a supercell) of arrangements; ``where`` names the data in messages.

    The fit is of formation energies, so that the penalty does not act on what every arrangement of a
    composition shares. Ewald's term is left out (coefficient 0) if the fit would give it a negative
    dielectric constant. Raises UserError if an end member is missing, if there are fewer distinct
    arrangements than orbits, or too few arrangements of ions to leave some out.
    """
    features = space.features(arrangements)
    per_cell = np.asarray(energies, dtype=float) / [a.cells for a in arrangements]
    x = np.array([space.host.composition(a) for a in arrangements])
    if x.min() > 0 or x.max() < 1:
        raise UserError(
            f"{where}: the data reach from x = {x.min():g} to {x.max():g}; an expansion needs both end "
            "members, because sampling goes there"
        )
    distinct = len(np.unique(features.round(DECIMALS), axis=0))
    orbits = len(space.subspace.orbits) + len(space.subspace.external_terms)
    if distinct <= orbits:
        raise UserError(
            f"{where}: {distinct} distinct arrangements are too few for {orbits} orbits; relax more of "
            "them or shorten the cut-offs"
        )
    kept = (x == 0) | (x == 1)
    groups = groups_of_ions(features[:, space.of_ions])
    between = len(np.unique(groups[~kept]))
    if between < LEAST_GROUPS:
        raise UserError(
            f"{where}: {between} distinct arrangements of ions between the end members are too few for "
            f"cross-validation, which needs {LEAST_GROUPS}; relax larger supercells"
        )
    ends = [float(per_cell[x == end].min()) for end in (0.0, 1.0)]
    straight = (1 - x) * ends[0] + x * ends[1]
    fit = sparse_fit(features, per_cell - straight, groups, always=space.unpenalised, kept=kept)
    if space.charges and fit.coefficients[-1] <= 0:
        # A negative dielectric constant: the data cannot tell Ewald's term from the pairs. Without it:
        rest = sparse_fit(
            features[:, :-1], per_cell - straight, groups, always=space.unpenalised[:-1], kept=kept
        )
        fit = replace(rest, coefficients=np.append(rest.coefficients, 0.0))
    points = space.points
    coefficients = fit.coefficients.copy()
    coefficients[points] += np.linalg.lstsq(features[:, points], straight, rcond=None)[0]
    data = RegressionData(
        module=sparse_fit.__module__,
        estimator_name=sparse_fit.__name__,
        feature_matrix=features,
        property_vector=per_cell,
        parameters={"penalty": fit.penalty, "cross_validation_ev_cell": fit.cross_validation},
    )
    smol = ClusterExpansion(space.subspace, coefficients, data)
    return Expansion(space.host, smol, charges=space.charges, fit=fit)


def _same_lattice(one: Structure, other: Structure) -> bool:
    """Return whether two disordered cells have the same vectors, sites and species, in any order."""
    if len(one) != len(other) or not np.allclose(one.lattice.matrix, other.lattice.matrix, atol=SAME_SITE):
        return False
    for site in other:
        gap = one.frac_coords - site.frac_coords
        near = np.abs(gap - np.round(gap)).max(axis=1)
        if near.min() > SAME_SITE or one[int(near.argmin())].species != site.species:
            return False
    return True
