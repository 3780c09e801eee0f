"""Input files of VASP: the published settings, the order of atoms, potentials that may be missing."""

import json

import numpy as np
import pytest

from workflow_lib.core.errors import UserError
from workflow_lib.dft.calculation import Calculation
from workflow_lib.dft.engines.vasp.inputs import (
    check_potcar,
    incar,
    initial_moments,
    poscar_order,
    potcar_symbols,
    read_card,
    run_folders,
    write_inputs,
)
from workflow_lib.dft.level import EMBEDDED

POTENTIALS = {"Na": "Na_pv", "Fe": "Fe_pv", "P": "P", "O": "O"}


@pytest.fixture
def half(half) -> Calculation:
    """On a mesh that no default is."""
    return changed(half, level=half.level.model_copy(update={"kpoints": (1, 2, 3)}).model_dump())


def changed(calculation: Calculation, **changes) -> Calculation:
    return Calculation.from_json(calculation.to_json() | changes)


@pytest.fixture
def configure(monkeypatch):
    """Set where pymatgen looks for potentials, or that it knows no place."""
    from pymatgen.io.vasp import inputs

    def set_folder(path):
        settings = {key: value for key, value in inputs.SETTINGS.items() if key != "PMG_VASP_PSP_DIR"}
        settings.pop("PMG_DEFAULT_FUNCTIONAL", None)
        monkeypatch.setattr(
            inputs, "SETTINGS", settings | ({"PMG_VASP_PSP_DIR": str(path)} if path else {})
        )

    return set_folder


def potential(name: str, valence: float = 1.0) -> str:
    """The head of a potential file, invented: no potential of VASP may be passed on."""
    element = name.split("_", maxsplit=1)[0]
    return (
        f"  PAW_PBE {name} 01Jan2000\n   {valence}\n parameters from PSCTR are:\n"
        f"   VRHFIN ={element}: invented\n   LEXCH  = PE\n   TITEL  = PAW_PBE {name} 01Jan2000\n"
        f"   POMASS =    1.000; ZVAL   =    {valence:.3f}    mass and valenz\n"
        "END of PSCTR-controll parameters\n 1.0 2.0 3.0\n End of Dataset\n"
    )


def potcar(names) -> str:
    return "".join(potential(name) for name in names)


def test_settings_are_the_published_ones(half):
    settings = incar(half)
    published = {
        "ENCUT": 520, "ISMEAR": 0, "SIGMA": 0.05, "EDIFF": 1e-6, "EDIFFG": -0.02, "LASPH": True, "ISPIN": 2,
        "LDAU": True, "LDAUTYPE": 2, "LORBIT": 11, "LAECHG": True, "IBRION": 2, "ISIF": 2, "NSW": 80,
    }  # fmt: skip
    assert {key: settings[key] for key in published} == published
    assert settings["NUPDOWN"] == 2 * 4 + 2 * 5
    of = dict(zip(potcar_symbols(half), settings["LDAUU"], strict=True))
    assert of == {"Na_pv": 0, "Fe_pv": 5.3, "P": 0, "O": 0}
    assert [u == 5.3 for u in settings["LDAUU"]] == [orbital == 2 for orbital in settings["LDAUL"]]
    assert not any(settings["LDAUJ"])


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("single", {"IBRION": -1, "NSW": 0}),
        ("cell", {"IBRION": 2, "ISIF": 3, "NSW": 80}),
    ],
)
def test_motion_follows_the_task(half, task, expected):
    settings = incar(changed(half, task=task))
    assert {key: settings[key] for key in expected} == expected


def test_no_u_without_a_correlated_element(half):
    other = changed(half, level=half.level.model_copy(update={"hubbard_u": {"Mn": 3.9}}).model_dump())
    assert not any(key.startswith("LDAU") for key in incar(other))


def test_a_calculation_may_ask_for_smaller_forces_than_the_authors(half):
    assert incar(changed(half, fmax=0.005))["EDIFFG"] == -0.005


def test_moments_are_high_spin_and_in_the_order_of_poscar(half):
    order = poscar_order(half.numbers)
    expected = [{2: 4.0, 3: 5.0, 0: 0.0}[int(state)] for state in half.oxidation_states[order]]
    assert incar(half)["MAGMOM"] == expected


def test_an_antiferromagnet_has_no_negative_total(half):
    level = half.level.model_copy(update={"magnetism": "antiferromagnetic", "hubbard_u": {"Fe": 5.3}})
    pair = changed(
        half,
        numbers=[26, 26, 8],
        positions=[[0, 0, 0], [2, 0, 0], [0, 2, 0]],
        oxidation_states=[2, 3, 0],
        level=level.model_dump(),
    )
    assert initial_moments(pair).tolist() == [-4, 5, 0]  # NUPDOWN -1 would leave the total free
    assert incar(pair)["NUPDOWN"] == 1


def test_an_unsteered_calculation_has_a_free_total_and_starts_magnetic(half):
    free = changed(half, unsteered=True, oxidation_states=[0] * len(half))
    assert "NUPDOWN" not in incar(free)
    assert set(initial_moments(free)[free.numbers == 26]) == {5.0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"level": EMBEDDED.model_dump()}, "set level.code to VASP"),
        ({"orbital": "b"}, "use seed 'a'"),
        ({"cell": np.diag([-10.5, 6.3, 5.0]).tolist()}, "left-handed"),
        ({"task": "series"}, "needs the geometries"),
    ],
)
def test_what_vasp_cannot_do_is_refused_before_anything_is_written(half, tmp_path, change, message):
    with pytest.raises(UserError, match=message) as error:
        write_inputs(changed(half, **change), tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_atoms_of_an_element_stand_together_and_the_way_back_is_kept(half, tmp_path, configure):
    from pymatgen.io.vasp.inputs import Incar, Kpoints, Poscar

    configure(None)
    write_inputs(half, tmp_path)
    poscar = Poscar.from_file(tmp_path / "POSCAR", check_for_potcar=False)
    assert sorted(poscar.site_symbols) == sorted(set(poscar.site_symbols))
    assert len(poscar.site_symbols) == 4
    known, order = read_card(tmp_path)
    assert known.to_json() == half.to_json()
    structure = poscar.structure
    assert [int(z) for z in structure.atomic_numbers] == half.numbers[order].tolist()
    back = np.argsort(order)
    np.testing.assert_allclose(structure.cart_coords[back], half.positions, atol=1e-12)
    np.testing.assert_allclose(structure.lattice.matrix, half.cell, atol=1e-14)
    written = Incar.from_file(tmp_path / "INCAR")
    assert written["MAGMOM"] == incar(half)["MAGMOM"]
    assert written["LDAUU"] == incar(half)["LDAUU"]
    kpoints = Kpoints.from_file(tmp_path / "KPOINTS")
    assert (kpoints.style.name, tuple(kpoints.kpts[0])) == ("Gamma", (1, 2, 3))


def test_a_shifted_mesh_is_that_of_monkhorst_and_pack(half, tmp_path, configure):
    from pymatgen.io.vasp.inputs import Kpoints

    configure(None)
    level = half.level.model_copy(update={"kpoints": (1, 2, 2), "shifted": True})
    write_inputs(changed(half, level=level.model_dump()), tmp_path)
    kpoints = Kpoints.from_file(tmp_path / "KPOINTS")
    assert (kpoints.style.name, tuple(kpoints.kpts[0])) == ("Monkhorst", (1, 2, 2))


def test_a_series_with_cells_is_refused(half, tmp_path, configure):
    configure(None)
    series = changed(
        half, task="series", series=[half.positions.tolist()], series_cells=[half.cell.tolist()]
    )
    with pytest.raises(UserError, match="one cell; ask for single points"):
        write_inputs(series, tmp_path)


def test_a_series_has_a_folder_for_each_geometry(half, tmp_path, configure):
    from pymatgen.io.vasp.inputs import Poscar

    configure(None)
    series = changed(half, task="series", series=[half.positions.tolist(), (half.positions + 0.1).tolist()])
    write_inputs(series, tmp_path)
    assert [path.name for path, _ in run_folders(series, tmp_path)] == ["000", "001"]
    read = [Poscar.from_file(tmp_path / n / "POSCAR", check_for_potcar=False) for n in ("000", "001")]
    off = read[1].structure.cart_coords - read[0].structure.cart_coords
    np.testing.assert_allclose(off, 0.1, atol=1e-9)
    assert (tmp_path / "calculation.json").exists()


def test_missing_potentials_are_said_in_one_line(half, tmp_path, configure, caplog):
    configure(None)
    message = write_inputs(half, tmp_path)
    assert message is not None and "\n" not in message
    assert " ".join(potcar_symbols(half)) in message and "PMG_VASP_PSP_DIR" in message
    assert (tmp_path / "POTCAR.missing").read_text() == message + "\n"
    assert not (tmp_path / "POTCAR").exists()
    assert message in caplog.text
    configure(tmp_path / "nowhere")
    assert "nowhere" in str(write_inputs(half, tmp_path))


def test_potentials_of_the_materials_project_are_joined_in_order(half, tmp_path, configure):
    for name in POTENTIALS.values():
        folder = tmp_path / "psp" / "POT_GGA_PAW_PBE" / name
        folder.mkdir(parents=True)
        (folder / "POTCAR").write_text(potential(name))
    configure(tmp_path / "psp")
    run = tmp_path / "run"
    run.mkdir()
    (run / "POTCAR.missing").write_text("from before")
    assert write_inputs(half, run) is None
    assert not (run / "POTCAR.missing").exists()
    symbols = list(dict.fromkeys(half.atoms().symbols))
    assert potcar_symbols(half) == [POTENTIALS[symbol] for symbol in symbols]
    check_potcar(run, potcar_symbols(half))


def test_a_potcar_of_the_user_is_kept_but_checked(half, tmp_path, configure):
    configure(None)
    content = potcar(potcar_symbols(half))
    (tmp_path / "POTCAR").write_text(content)
    assert write_inputs(half, tmp_path) is None
    assert (tmp_path / "POTCAR").read_text() == content
    (tmp_path / "POTCAR").write_text(potcar(reversed(potcar_symbols(half))))
    with pytest.raises(UserError, match="in this order"):
        write_inputs(half, tmp_path)


def test_a_folder_is_not_given_to_a_second_calculation(half, tmp_path, configure):
    configure(None)
    write_inputs(half, tmp_path)
    write_inputs(half, tmp_path)  # once more is no harm
    with pytest.raises(UserError, match="choose another"):
        write_inputs(changed(half, task="cell"), tmp_path)


def test_a_damaged_card_is_named(half, tmp_path, configure):
    configure(None)
    with pytest.raises(UserError, match=r"calculation\.json does not exist"):
        read_card(tmp_path)
    write_inputs(half, tmp_path)
    card = json.loads((tmp_path / "calculation.json").read_text())
    (tmp_path / "calculation.json").write_text(json.dumps(card | {"order": card["order"][1:]}))
    with pytest.raises(UserError, match="order"):
        read_card(tmp_path)
