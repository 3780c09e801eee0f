"""Hosts made from crystal structures."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.cell import Cell
from ase.io import write
from ase.spacegroup import crystal
from pymatgen.core import Lattice
from scipy.spatial.transform import Rotation

from workflow_lib.core.errors import UserError
from workflow_lib.core.io import write_json
from workflow_lib.frames.frame import frame_to_atoms
from workflow_lib.lattice.arrangement import UNIT
from workflow_lib.lattice.host import Host
from workflow_lib.lattice.make_host import LOOSER, TOLERANCE, host_from_files, make_host, symmetry_nearby

COUPLE = {"mobile": "Na", "redox": "Fe", "oxidation_states": (2, 3)}
ARRAYS = ("cell_full", "cell_empty", "scaled_full", "scaled_empty")


@pytest.fixture(scope="module")
def ends(original_frames) -> tuple[Atoms, Atoms]:
    """Full and empty end member as DFT relaxed them: the provenance of the olivine host."""
    relaxed = [frame for frame in original_frames if frame.kind == "relaxation"]
    full, empty = ([f for f in relaxed if f.group == group][-1] for group in ("x100_s0", "x000_s0"))
    return frame_to_atoms(full), frame_to_atoms(empty)


def test_the_shipped_host_is_what_its_provenance_says(host, rule, ends):
    full, empty = ends
    made = Host(make_host(full, **COUPLE, empty=empty), rule)
    np.testing.assert_array_equal(made.numbers, host.numbers)
    for name in ARRAYS:
        # The file keeps 8 decimals of scaled positions.
        np.testing.assert_allclose(getattr(made, name), getattr(host, name), rtol=0, atol=1e-8)
    assert (made.formula_units, made.space_group) == (4, "Pnma")


SETTINGS = {
    "skewed": np.array([[0, 1, 0], [0, 0, 1], [-1, 0, 1]]),
    "permuted": np.array([[0, 1, 0], [0, 0, 1], [1, 0, 0]]),
    "left-handed": np.diag([1, -1, 1]),
}
TURN = Rotation.from_euler("xyz", [20, 50, 10], degrees=True).as_matrix()


@pytest.mark.parametrize("basis", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("turn", [np.eye(3), TURN, np.diag([1, 1, -1])], ids=["", "turned", "mirrored"])
def test_the_empty_end_may_come_in_any_setting(ends, basis, turn):
    full, empty = ends
    wanted = make_host(full, **COUPLE, empty=empty)
    other = Atoms(
        empty.numbers,
        positions=(empty.positions + np.array([1.0, 2.0, 0.3])) @ turn,
        cell=basis @ empty.cell[:] @ turn,
        pbc=True,
    )[::-1]
    found = make_host(full, **COUPLE, empty=other)
    gap = np.array(found.scaled_empty) - np.array(wanted.scaled_empty)
    assert np.abs(gap - np.round(gap)).max() < 1e-6
    np.testing.assert_allclose(found.cell_empty, wanted.cell_empty, atol=1e-6)
    # Of two orthorhombic cells in one orientation the mean has the mean edges.
    edges = (full.cell.lengths() + empty.cell.lengths()) / 2
    between = (np.array(found.cell_full) + np.array(found.cell_empty)) / 2
    assert abs(np.linalg.det(between)) == pytest.approx(edges.prod(), rel=1e-6)


def test_monoclinic_ends_of_two_programs_are_not_turned():
    """One puts a along x, the other c along z; the angle between the two conventions is 90 - beta."""
    sites = {"Na": (0, 0, 0.5), "Fe": (0, 0, 0), "O": (0.27, 0, 0.8)}
    full = crystal(list(sites), list(sites.values()), spacegroup=12, cellpar=[5.0, 2.9, 5.1, 90, 109, 90])
    parameters = (4.9, 2.85, 5.3, 90, 107, 90)
    empty = crystal(["Fe", "O"], [sites["Fe"], sites["O"]], spacegroup=12, cellpar=parameters)
    other = empty.copy()
    other.set_cell(Lattice.from_parameters(*parameters).matrix, scale_atoms=True)
    assert np.abs(other.cell[:] - empty.cell[:]).max() > 1
    hosts = [make_host(full, **COUPLE, empty=atoms) for atoms in (empty, other)]
    np.testing.assert_allclose(hosts[0].cell_empty, hosts[1].cell_empty, atol=1e-6)
    np.testing.assert_allclose(Cell(hosts[1].cell_empty).cellpar(), parameters, atol=1e-6)
    stretch = np.linalg.inv(hosts[1].cell_full) @ np.array(hosts[1].cell_empty)
    np.testing.assert_allclose(stretch, stretch.T, atol=1e-8)  # no rotation


LAYERS = (5.0, 2.9, 5.1, 90, 90, 90)
"""Orthorhombic; with another angle than 90 degrees the same sites are monoclinic."""


@pytest.mark.parametrize(("angle", "percent"), [(90.4, "0.4"), (93.0, "2.7")])
def test_an_empty_cell_of_less_symmetry_is_not_squared_unsaid(angle, percent):
    """NiO2 against LiNiO2: the atoms keep their places in the cell, the cell itself is another one."""
    sites = [(0, 0, 0.5), (0, 0, 0), (0.5, 0.5, 0.25), (0.5, 0.5, 0.75)]
    full = Atoms("NaFeO2", scaled_positions=sites, cell=LAYERS, pbc=True)
    empty = full[1:]
    empty.set_cell([*LAYERS[:4], angle, 90], scale_atoms=True)
    if angle < 91:
        described = make_host(full, **COUPLE, empty=empty)
        assert described.provenance.endswith(f"the empty cell strained by {percent} %")
        assert Cell(described.cell_empty).angles() == pytest.approx(90)
    else:
        with pytest.raises(UserError, match=f"lacks the symmetry .* strain its cell by {percent} %"):
            make_host(full, **COUPLE, empty=empty)


def test_a_host_from_a_cif_alone(host, rule, tmp_path):
    write(tmp_path / "full.cif", host.full_cell(1.0))
    described = host_from_files(tmp_path / "full.cif", **COUPLE, name="mine")
    assert described.provenance == "made from full.cif; symmetrised in Pnma within 0.1 A"
    write_json(tmp_path / "host.json", described.model_dump(mode="json"))
    made = Host.load(tmp_path / "host.json", rule)
    assert made.name == "mine"
    np.testing.assert_array_equal(made.cell_full, made.cell_empty)
    for n in made.compositions(UNIT):
        assert len(made.enumerate(UNIT, n, charges=True)) == len(host.enumerate(UNIT, n, charges=True))


def test_symmetry_that_noise_has_hidden_is_named(host):
    """A snapshot of dynamics became a host of P1, with eight times as many states, without a word."""
    noisy = host.full_cell(1.0)
    noisy.positions += np.random.default_rng(5).normal(0.0, 0.01, (len(noisy), 3))
    assert symmetry_nearby(make_host(noisy, **COUPLE), TOLERANCE) is None  # 0.1 A sees through that
    noisy.positions += np.random.default_rng(6).normal(0.0, 0.03, (len(noisy), 3))
    described = make_host(noisy, **COUPLE)
    assert "Pnma" not in described.provenance
    symbol, looser = symmetry_nearby(described, TOLERANCE)
    assert (symbol, looser) == ("Pnma", pytest.approx(LOOSER * TOLERANCE))
    again = make_host(noisy, **COUPLE, tolerance=looser)
    assert "Pnma" in again.provenance and symmetry_nearby(again, looser) is None


CIF = """data_x
_cell_length_a 4.0
_cell_length_b 4.0
_cell_length_c 4.0
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_space_group_name_H-M_alt 'P 1'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
Fe1 Fe 0 0 0 1
O1 O 0.5 0 0 1
O2 O 0 0.5 0 1
Na7 Na 0.5 0.5 0.5 {occupancy}
"""


def test_files_that_make_no_host(tmp_path):
    path = tmp_path / "x.cif"
    path.write_text(CIF.format(occupancy=0.7))
    with pytest.raises(UserError, match=r"x\.cif: site Na7 is partially occupied \(Na:0\.7\)"):
        host_from_files(path, **COUPLE)
    path.write_text(CIF.format(occupancy=1))
    assert host_from_files(path, **COUPLE).formula_units == 1
    for change, message in (
        ({"mobile": "Li"}, "the full cell must hold Li and Fe"),
        ({"redox": "Iron"}, "there is no element 'Iron'"),
        ({"oxidation_states": (3, 2)}, "from the lower to the higher"),
        ({"redox": "Na"}, "must be two elements"),
        ({"empty": path}, "the empty end member holds Na"),
    ):
        with pytest.raises(UserError, match=message):
            host_from_files(path, **(COUPLE | change))
    with pytest.raises(UserError, match="does not exist"):
        host_from_files(tmp_path / "none.cif", **COUPLE)
    path.write_text("nothing of the kind")
    with pytest.raises(UserError, match="no crystal structure that pymatgen reads"):
        host_from_files(path, **COUPLE)


def test_an_empty_end_of_another_crystal(ends):
    full, empty = ends
    with pytest.raises(UserError, match="is not one cell"):
        make_host(full, **COUPLE, empty=empty[:-1])
    other = empty.copy()
    other.rattle(1.5, seed=3)
    with pytest.raises(UserError, match=r"A from its site|symmetry"):
        make_host(full, **COUPLE, empty=other)
