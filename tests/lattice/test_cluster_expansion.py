"""Cluster expansions of the olivine against smol, against Ewald sums, and on energies that are known."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from exact_sums import averages, neutral_states
from invented_hosts import magnesium_phosphate, magnesium_silicate
from pymatgen.io.ase import AseAtomsAdaptor
from smol.cofe import ClusterExpansion
from smol.moca import Ensemble
from smol.moca import Sampler as Peer

from workflow_lib.core.errors import UserError
from workflow_lib.lattice.arrangement import Arrangement, Repeat
from workflow_lib.lattice.cluster_expansion import Expansion, fit_expansion
from workflow_lib.lattice.cluster_space import Space
from workflow_lib.lattice.ewald import ewald_energy, pair_potentials
from workflow_lib.lattice.host import Host
from workflow_lib.lattice.monte_carlo import Sampler
from workflow_lib.lattice.reservoir import neutral_exchange
from workflow_lib.lattice.sampling_statistics import mean_of

CELLS: tuple[Repeat, ...] = ((1, 1, 1), (1, 2, 1), (2, 1, 2))
SAME = 1e-10
"""Relative: what is required; the sums agree to about 1e-13."""


@pytest.fixture(scope="module")
def spaces(host: Host) -> dict[bool, Space]:
    return {
        charges: Space.within(host, pairs=6.0, triplets=4.5, charges=charges) for charges in (True, False)
    }


def some(
    host: Host, repeat: Repeat, charges: bool, rng: np.random.Generator, count: int
) -> list[Arrangement]:
    numbers = rng.integers(0, host.n_mobile(repeat) + 1, count)
    return [host.random(repeat, int(n), charges=charges, rng=rng) for n in numbers]


def invented(space: Space, rng: np.random.Generator) -> np.ndarray:
    coefficients = rng.normal(scale=0.03, size=len(space.subspace))
    if space.charges:
        coefficients[-1] = 0.1  # 1 / dielectric constant
    return coefficients


@pytest.mark.parametrize("charges", [True, False])
@pytest.mark.parametrize("repeat", CELLS)
def test_energies_are_smols(host: Host, spaces: dict[bool, Space], charges: bool, repeat: Repeat):
    space, rng = spaces[charges], np.random.default_rng(11)
    coefficients = invented(space, rng)
    arrangements = some(host, repeat, charges, rng, 6)
    occupations = np.array([space.occupations(a) for a in arrangements])
    ours = space.multilinear(repeat, coefficients).energy(occupations)
    ensemble = Ensemble.from_cluster_expansion(
        ClusterExpansion(space.subspace, coefficients), np.diag(repeat), processor_type="expansion"
    )
    codes = [space.codes(repeat, row) for row in occupations]
    theirs = [float(ensemble.natural_parameters @ ensemble.compute_feature_vector(code)) for code in codes]
    np.testing.assert_allclose(ours, theirs, rtol=SAME)
    again = Expansion(host, ClusterExpansion(space.subspace, coefficients), charges=charges)
    np.testing.assert_allclose(again.energies(arrangements), theirs, rtol=SAME)
    assert [space.arrangement(repeat, row) for row in occupations] == arrangements


@pytest.mark.parametrize("charges", [True, False])
def test_correlations_are_those_of_the_structure(host: Host, spaces: dict[bool, Space], charges: bool):
    """That smol finds sites and species in a structure by itself, as we number them."""
    space, repeat = spaces[charges], (1, 2, 1)
    [arrangement] = some(host, repeat, charges, np.random.default_rng(3), 1)
    atoms = host.build(arrangement)
    numbers, scaled, cell = host.supercell(repeat, 1.0)
    vacant = np.setdiff1d(np.arange(host.n_mobile(repeat)), arrangement.occupied)
    kept = np.delete(np.arange(len(numbers)), np.flatnonzero(numbers == 11)[vacant])
    atoms.set_cell(cell)
    atoms.set_scaled_positions(scaled[kept])
    structure = AseAtomsAdaptor.get_structure(atoms)
    if charges:
        formal = host.rule.formal(atoms.numbers, atoms.get_array("oxidation_states"))
        structure.add_oxidation_state_by_site(formal.tolist())
    theirs = space.subspace.corr_from_structure(structure, scmatrix=np.diag(repeat))
    np.testing.assert_allclose(space.features([arrangement])[0], theirs, rtol=SAME, atol=1e-12)
    if charges:
        expected = ewald_energy(atoms, formal) / 2
        # The library's own sum, in another summation order and with another splitting parameter.
        assert theirs[-1] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("charges", [True, False])
def test_equivalent_arrangements_and_supercells_are_one(
    host: Host, spaces: dict[bool, Space], charges: bool
):
    space, repeat = spaces[charges], (1, 2, 1)
    [arrangement] = some(host, repeat, charges, np.random.default_rng(4), 1)
    mobile, redox = host.permutations(repeat)
    images = [
        Arrangement(
            repeat,
            tuple(sorted(int(m[i]) for i in arrangement.occupied)),
            tuple(sorted(int(r[i]) for i in arrangement.reduced)) if arrangement.reduced else None,
        )
        for m, r in zip(mobile[:6], redox[:6], strict=True)
    ]
    rows = space.features(images)
    np.testing.assert_allclose(rows, rows[:1].repeat(len(rows), axis=0), rtol=1e-9, atol=1e-9)
    [small] = some(host, (1, 1, 1), charges, np.random.default_rng(5), 1)
    twice = Arrangement(
        (1, 1, 2),
        tuple(sorted(2 * i + k for i in small.occupied for k in (0, 1))),
        None if small.reduced is None else tuple(sorted(2 * i + k for i in small.reduced for k in (0, 1))),
    )
    rows = space.features([small, twice])
    np.testing.assert_allclose(rows[0], rows[1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("charges", [True, False])
def test_a_fit_finds_the_energy_that_made_the_data(
    host: Host, spaces: dict[bool, Space], charges: bool, tmp_path: Path
):
    space, rng = spaces[charges], np.random.default_rng(6)
    truth = np.zeros(len(space.subspace))
    truth[0], truth[space.points] = -180.0, rng.normal(size=space.points.sum())
    strong = np.flatnonzero(~space.unpenalised)[[0, 2]]
    truth[strong] = 0.2, -0.1
    arrangements = [*host.end_members(charges=charges)[0], *host.end_members(charges=charges)[1]]
    # Each edge must be doubled somewhere: cells of one edge c cannot tell pairs along c from their images.
    for repeat in ((1, 2, 1), (2, 1, 1), (1, 1, 2)):
        arrangements += some(host, repeat, charges, rng, 25)
    energies = np.array([a.cells for a in arrangements]) * (space.features(arrangements) @ truth)
    expansion = fit_expansion(space, arrangements, energies, where="test")
    unseen = some(host, (1, 1, 2), charges, rng, 20)
    expected = 2 * space.features(unseen) @ truth
    # Without noise: only the lasso's support limits it.
    np.testing.assert_allclose(expansion.energies(unseen), expected, atol=1e-6)
    fit = expansion.fit
    assert fit is not None
    assert fit.rmse <= 1e-6
    # The 31 arrangements of ions are few: without one fifth of them, two functions may not be told apart.
    assert fit.cross_validation <= (1e-6 if charges else 0.05)
    assert np.nanmax(np.abs(fit.held_out)) < 10

    path = tmp_path / "expansion.json"
    expansion.save(path)
    again = Expansion.load(path, host)
    assert again.charges == charges
    np.testing.assert_allclose(again.energies(unseen), expansion.energies(unseen), rtol=1e-12)


def silicate() -> Host:
    return magnesium_silicate()


@pytest.mark.parametrize("other", [magnesium_phosphate, silicate])
def test_an_expansion_of_another_lattice_is_refused(
    spaces: dict[bool, Space], other: Callable[[], Host], tmp_path: Path
):
    path = tmp_path / "expansion.json"
    space = spaces[True]
    Expansion(
        space.host, ClusterExpansion(space.subspace, np.ones(len(space.subspace))), charges=True
    ).save(path)
    with pytest.raises(UserError, match=r"on another lattice than .*; fit one for this host"):
        Expansion.load(path, other())


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"ClusterExpansion": 3}'])
def test_a_file_that_is_no_expansion_is_refused(host: Host, content: str, tmp_path: Path):
    path = tmp_path / "expansion.json"
    path.write_text(content)
    with pytest.raises(UserError, match="is no cluster expansion written by smol"):
        Expansion.load(path, host)


def test_triplets_without_a_pair_to_make_them_of_are_refused(host: Host):
    assert len(Space.within(host, pairs=1.0, triplets=0.0, charges=False).subspace) == 2
    with pytest.raises(UserError, match=r"no pair of sites within 1 A, .* set triplets to 0"):
        Space.within(host, pairs=1.0, triplets=0.5, charges=False)


def test_data_that_cannot_carry_the_expansion_are_refused(host: Host, spaces: dict[bool, Space]):
    space, rng = spaces[True], np.random.default_rng(2)
    middle = [host.random((1, 1, 1), n, charges=True, rng=rng) for n in (1, 2, 3) for _ in range(20)]
    with pytest.raises(UserError, match=r"reach from x = 0\.25 to 0\.75; an expansion needs both end"):
        fit_expansion(space, middle, np.zeros(len(middle)), where="painn")
    ends = [host.random((1, 1, 1), n, charges=True, rng=rng) for n in (0, 4)]
    # Of the 60 draws only 14 differ: repetition is no information.
    with pytest.raises(UserError, match=r"painn: \d+ distinct arrangements are too few for 24 orbits"):
        fit_expansion(space, [*ends, *middle], np.zeros(len(middle) + 2), where="painn")
    # Many charge orders on one arrangement of ions: none can be left out.
    orders = [Arrangement((1, 2, 1), (0, 1, 2, 4), order) for order in combinations(range(8), 4)]
    with pytest.raises(UserError, match=r"painn: 1 distinct arrangements of ions .* which needs 3; relax"):
        fit_expansion(space, [*ends, *orders], np.zeros(len(orders) + 2), where="painn")


def test_smols_sampler_and_ours_sample_one_ensemble(host: Host, spaces: dict[bool, Space]):
    """Table flips and exchanges of the same expansion, both against the sum over all 70 neutral states."""
    space, temperature, mu, repeat = spaces[True], 3000.0, -0.1, (1, 1, 1)
    coefficients = invented(space, np.random.default_rng(7))
    energy = space.multilinear(repeat, coefficients)
    ends = [float(energy.energy(row)) for row in (np.zeros(8), np.ones(8))]
    mu += (ends[1] - ends[0]) / 4
    states = np.concatenate([neutral_states(4, 4, n, n) for n in range(5)])
    exact = averages(energy, states, 4, temperature, mu)

    rng = np.random.default_rng(8)
    walk = Sampler(energy, 4, states[30], exchange=neutral_exchange(host, charges=True), rng=rng)
    run = walk.semigrand(temperature, mu, 20000)
    ours = mean_of(run.ions), mean_of(run.energy)

    ensemble = Ensemble.from_cluster_expansion(
        ClusterExpansion(space.subspace, coefficients), np.diag(repeat), processor_type="expansion"
    )
    kinds = [kind for part in ensemble.active_sublattices for kind in part.site_space]
    ensemble.chemical_potentials = {kind: mu if str(kind) == "Na+" else 0.0 for kind in kinds}
    peer = Peer.from_ensemble(ensemble, step_type="table-flip", temperature=temperature, seeds=[3])
    peer.run(4000, space.codes(repeat, states[30])[None], thin_by=1)
    codes = peer.samples.get_occupancies()[:, space.cell(repeat).site[:4]]
    ions = (codes == space.cell(repeat).code[1, :4]).sum(axis=1)
    energies = peer.samples.get_feature_vectors() @ np.append(coefficients, -1.0)  # mu N is its last one
    theirs = mean_of(ions), mean_of(energies + mu * ions)
    for found in (ours, theirs):
        for mean, expected in zip(found, (exact.ions, exact.energy), strict=True):
            assert abs(mean.value - expected) < 4.5 * mean.error  # seeds are fixed
            assert mean.error < 0.1


@pytest.mark.parametrize("repeat", [(1, 1, 2), (2, 1, 1), (2, 2, 1)])
def test_electrostatics_of_supercells_are_pymatgens(host: Host, spaces: dict[bool, Space], repeat: Repeat):
    space = spaces[True]
    for arrangement in some(host, repeat, True, np.random.default_rng(12), 3):
        ours = float(space.ewald(repeat).energy(space.occupations(arrangement)))
        atoms = host.build(arrangement)
        numbers, scaled, cell = host.supercell(repeat, 1.0)
        vacant = np.setdiff1d(np.arange(host.n_mobile(repeat)), arrangement.occupied)
        kept = np.delete(np.arange(len(numbers)), np.flatnonzero(numbers == 11)[vacant])
        atoms.set_cell(cell)
        atoms.set_scaled_positions(scaled[kept])
        formal = host.rule.formal(atoms.numbers, atoms.get_array("oxidation_states"))
        assert ours == pytest.approx(ewald_energy(atoms, formal), rel=1e-10)


def test_potentials_of_pairs_are_madelungs():
    """Rock salt: -1.747565 / d for each ion, from the potentials of its eight ions (Wigner and others)."""
    fcc = np.array([[0, 0, 0], [0, 2, 2], [2, 0, 2], [2, 2, 0]], dtype=float)
    positions = np.concatenate([fcc, fcc + np.array([2.0, 0.0, 0.0])])
    charges = np.repeat([1.0, -1.0], 4)
    potentials = pair_potentials(4 * np.eye(3), positions, positions)
    np.testing.assert_allclose(potentials @ charges * charges, -1.7475645946 / 2, rtol=1e-9)
