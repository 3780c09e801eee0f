"""Cheap ways into self-consistency with GPAW: a low cut-off first, and densities kept in files.

A state is steered and nearly converged at :data:`LOW_CUTOFF`, where an iteration costs half, and its
density and wave functions are carried to the cut-off of the level. Densities are kept beside the store,
so that an interrupted calculation and one of a neighbouring geometry, cell, cut-off or mesh start from
them. The self-consistent energy does not depend on where it started but for the noise of its criteria.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workflow_lib.core.io import atomic_path
from workflow_lib.dft.calculation import Calculation
from workflow_lib.dft.symmetry import Operations, lattice_on_grid, unknown_grid

if TYPE_CHECKING:
    from ase import Atoms

LOW_CUTOFF = 500.0
"""eV. The wanted state is found there. Lower is no start: from 400 eV the density of oxygen changes so
much on the way to 800 that self-consistency takes as long as from free atoms."""
WORTH_IT = 1.3
"""A level starts low where its cut-off is this many times :data:`LOW_CUTOFF`."""
LOW_CONVERGENCE = {"energy": 1e-4, "density": 5e-5, "eigenstates": 1e-5, "minimum iterations": 3}
"""eV, electrons and eV^2 per valence electron, before the cut-off is raised."""
NEAR = 1.0
"""A that an atom of a kept density may be from its place in lattice coordinates."""
SETTLING = 4
"""Passes over the wave functions in the potential of a carried density before that may change."""


def symmetry_input(
    group: Operations, cell: np.ndarray, grid: tuple[int, int, int] | None, *, steered: bool
) -> dict[str, Any]:
    """Return GPAW's keyword: a steered structure's operations that its density grid has, for a cell (A).

    For an unsteered one GPAW finds them itself, if the grid has all of the cell's. GPAW does not check a
    grid it is given: it rounds translations to points and symmetrises with an operation that is none,
    and energies are eV off. Where it chooses (None), there is a grid for all fractions of a space group,
    but operations that mix vectors of unlike length are left out.
    """
    grid = grid or unknown_grid(cell)
    if not steered:
        return {"point_group": lattice_on_grid(cell, grid)}
    group = group.on_grid(grid)
    if len(group) == 1:
        return {"point_group": False}
    return {
        # GPAW's operations act from the right.
        "rotations": np.ascontiguousarray(group.rotations.transpose(0, 2, 1)),
        "translations": group.translations % 1.0,
        "atommaps": group.maps,
        "symmorphic": False,
        "tolerance": 1e-3,
    }


def even_grid(cell: np.ndarray, cutoff: float) -> tuple[int, int, int]:
    """Return the points of the density grid along each vector of a cell (A) at a cut-off (eV), all even.

    The spacing is GPAW's. It takes odd numbers too, but where a half translation is among the operations:
    states of one cell but unlike symmetry would have unlike grids, worth 1 meV per formula unit at
    500 eV.
    """
    from ase.units import Bohr, Ha
    from gpaw.fftw import get_efficient_fft_size

    spacing = np.pi / (4 * cutoff / Ha) ** 0.5 * Bohr
    least = np.ceil(np.linalg.norm(cell, axis=1) / spacing).astype(int)
    x, y, z = (int(get_efficient_fft_size(int(points), 2)) for points in least)
    return x, y, z


def carried(low: Any, high: Any, atoms: Atoms) -> Any:
    """Return ``high``, a calculator not yet used, with density and wave functions of the converged ``low``.

    Both belong to one structure and k-mesh; ``low`` cannot be used after it. The density alone is carried
    where the two grids have unlike operations, and so unlike k-points.
    """
    from gpaw.new.calculation import ReuseWaveFunctionsError

    try:
        high._dft = low.dft.new(atoms, high.params, high.log)
    except ReuseWaveFunctionsError:
        restore(high, atoms, _arrays(low.dft))
        return high
    high._atoms = atoms.copy()
    settle(high.dft)
    return high


def moved(
    calculator: Any, atoms: Atoms, grid: tuple[int, int, int] | None, symmetry: Mapping[str, Any]
) -> None:
    """Take a converged calculator to new positions, and a new cell with its density grid, of its atoms.

    ``symmetry`` is what :func:`symmetry_input` gives for that grid; where it leaves other k-points, the
    wave functions begin anew.

    The grid is that of the new cell: one kept from where the calculator began would make the energy depend
    on its way, by up to 2.4 meV for 28 atoms where a cell had grown by two per cent along an axis.
    What the density has beyond superposed free atoms is carried over in lattice coordinates; the free atoms
    themselves move. GPAW leaves the valence density where it was: at 0.1 A that start costs ten iterations
    more, and the magnetic order for some of them.
    """
    from gpaw.dft import Symmetry
    from gpaw.new.calculation import ReuseWaveFunctionsError

    dft, before = calculator.dft, calculator.atoms.copy()
    moments = calculator.get_magnetic_moments(before)
    before.set_initial_magnetic_moments(moments)
    atoms.set_initial_magnetic_moments(moments)
    free = _free_atoms(calculator, before)
    beyond = [
        spin - dft.density.nct_R.data - own for spin, own in zip(dft.density.nt_sR.data, free, strict=True)
    ]
    calculator.params.gpts = None if grid is None else np.array(grid)
    calculator.params.symmetry = Symmetry.from_param(dict(symmetry))
    try:
        calculator.create_new_calculation_from_old(atoms)
    except ReuseWaveFunctionsError:
        calculator.create_new_calculation(atoms)
        calculator.dft.density.D_asii.data[:] = dft.density.D_asii.data
    dft = calculator.dft
    density, narrower = dft.density, before.get_volume() / atoms.get_volume()
    for spin, own in enumerate(_free_atoms(calculator, atoms)):
        points = density.nt_sR.data.shape[1:]
        density.nt_sR.data[spin] = narrower * resampled(beyond[spin], points) + own + density.nct_R.data
    _use_density(dft)


def _free_atoms(calculator: Any, atoms: Atoms) -> Any:
    """Return the pseudo valence density ``[spins, x, y, z]`` of superposed free atoms of given moments."""
    builder = calculator.params.dft_component_builder(atoms, log=calculator.log, comm=calculator.dft.comm)
    density = builder.density_from_superposition(builder.create_basis_set())
    return density.nt_sR.data - density.nct_R.data


def _use_density(dft: Any) -> None:
    """Make a density that was put together consistent: its charge, symmetry, potential, wave functions."""
    dft.density.normalize(dft.pot_calc.charge)
    dft.density.symmetrize(dft.ibzwfs.ibz.symmetries)
    dft.potential, dft.energies, _ = dft.pot_calc.calculate(dft.density, dft.ibzwfs, dft.potential.vHt_x)
    settle(dft)


def settle(dft: Any, passes: int = SETTLING) -> None:
    """Converge the wave functions a little in the potential there is."""
    loop, density = dft.scf_loop, dft.density
    electrons = density.nvalence - density.charge + dft.pot_calc.charge
    for _ in range(passes):
        loop.eigensolver.iterate(
            dft.ibzwfs, density, dft.potential, loop.hamiltonian, dft.pot_calc, dft.energies
        )
        dft.ibzwfs.calculate_occs(loop.occ_calc, electrons)


def _kinds(calculation: Calculation) -> np.ndarray:
    """Return element, charge state and orbital seed ``[3, n]`` of each atom."""
    seeds = calculation.seeds()
    letters = [ord(seeds.get(site, " ")) for site in range(len(calculation))]
    return np.array([calculation.numbers, calculation.oxidation_states, letters])


def _arrays(dft: Any) -> dict[str, np.ndarray]:
    """Return the density of the pseudo valence electrons and the PAW matrices."""
    density = dft.density
    return {
        "valence": density.nt_sR.data - density.nct_R.data,
        "matrices": np.asarray(density.D_asii.data),
    }


def density_of(
    calculation: Calculation, dft: Any, atoms: Atoms, known: Mapping[int, tuple[np.ndarray, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Return what a file keeps: density of the pseudo valence electrons, PAW matrices, the state.

    And what was learned of the turns of its orbitals, see the module ``orbital_turning``.
    """
    return _arrays(dft) | {
        "kinds": _kinds(calculation),
        "magnetism": np.array(calculation.level.magnetism),
        "cell": atoms.cell[:],
        "positions": atoms.positions,
        "sites": np.array(list(known), dtype=int),
        "frames": np.array([frame for frame, _ in known.values()]).reshape(-1, 5, 5),
        "resistances": np.array([matrix for _, matrix in known.values()]).reshape(-1, 4, 4),
    }


def keep(
    path: Path,
    calculation: Calculation,
    dft: Any,
    atoms: Atoms,
    known: Mapping[int, tuple[np.ndarray, np.ndarray]],
) -> None:
    """Write the density to a file, atomically; 1 to 2 MB for 28 atoms."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary, temporary.open("wb") as handle:
        np.savez(handle, allow_pickle=False, **density_of(calculation, dft, atoms, known))


def kept(path: Path, calculation: Calculation) -> dict[str, np.ndarray] | None:
    """Return a file's density if it is of the same atoms, charge order, orbitals and magnetic order.

    None where there is no file, or a damaged one: a start from it saves time and nothing else. And where
    an atom has another place in lattice coordinates, which the density follows: another cell of the same
    lattice would get a density sheared out of shape. Files without a magnetic order are of the time when
    all was ferromagnetic.
    """
    try:
        with np.load(path) as content:
            arrays = dict(content)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None
    if not set(arrays) >= {"kinds", "valence", "matrices", "cell", "positions"}:
        return None
    magnetism = str(arrays.get("magnetism", "ferromagnetic"))
    same = magnetism == calculation.level.magnetism and np.array_equal(arrays["kinds"], _kinds(calculation))
    if not same:
        return None
    places = np.linalg.solve(arrays["cell"].T, arrays["positions"].T).T
    off = places - np.linalg.solve(calculation.cell.T, calculation.positions.T).T
    distance = np.linalg.norm((off - np.round(off)) @ calculation.cell, axis=1).max()
    return arrays if distance < NEAR else None


def restore(calculator: Any, atoms: Atoms, arrays: Mapping[str, np.ndarray]) -> None:
    """Set up ``calculator``, not yet used, for ``atoms``, with a kept density instead of free atoms.

    The density follows the cell; wave functions settle in its potential before it may change.
    """
    calculator.create_new_calculation(atoms)
    dft = calculator.dft
    density = dft.density
    for spin, values in enumerate(arrays["valence"]):
        density.nt_sR.data[spin] = resampled(values, density.nt_sR.data.shape[1:]) + density.nct_R.data
    density.D_asii.data[:] = arrays["matrices"]
    _use_density(dft)


def resampled(values: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Return a periodic function on other numbers of grid points: the Fourier components of both grids."""
    if values.shape == tuple(size):
        return values
    spectrum = np.fft.fftn(values)
    for axis, points in enumerate(size):
        half = (min(points, spectrum.shape[axis]) - 1) // 2
        shape = list(spectrum.shape)
        shape[axis] = points
        wider = np.zeros(shape, dtype=complex)
        source, target = np.moveaxis(spectrum, axis, 0), np.moveaxis(wider, axis, 0)
        target[: half + 1] = source[: half + 1]
        target[points - half :] = source[source.shape[0] - half :]
        spectrum = wider
    return np.fft.ifftn(spectrum).real * (np.prod(size) / values.size)
