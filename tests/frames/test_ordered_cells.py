"""CIF files: ordered cells alone are read, and decorated species are labels."""

from __future__ import annotations

from pathlib import Path

import pytest

from workflow_lib.core.errors import UserError
from workflow_lib.frames.structure import read_structure

CASES = Path(__file__).parent / "cases"


@pytest.mark.parametrize(("name", "site"), [("na070", "Na1 0.7"), ("fe06mn04", "0.6")])
def test_partial_occupancies_are_refused_by_site(name, site):
    with pytest.raises(UserError, match=rf"partially occupied sites \(.*{site}.*supercell"):
        read_structure(CASES / f"occupancy/{name}.cif")


@pytest.mark.parametrize("occupancy", ["0.0", "0.50(2)", "1.3", "?"])
def test_other_partial_occupancies(tmp_path, occupancy):
    text = (CASES / "occupancy/na070.cif").read_text().replace(" 0.7\n", f" {occupancy}\n")
    (tmp_path / "t.cif").write_text(text)
    with pytest.raises(UserError, match=r"Na1 "):
        read_structure(tmp_path / "t.cif")


def test_full_occupancies_are_read(tmp_path):
    text = (CASES / "occupancy/na070.cif").read_text().replace(" 0.7\n", " 1.000(4)\n")
    (tmp_path / "t.cif").write_text(text)
    assert len(read_structure(tmp_path / "t.cif")) == 28


def test_decorated_species_are_labels(tmp_path):
    text = (CASES / "occupancy/na070.cif").read_text().replace(" 0.7\n", " 1.0\n")
    text = text.replace("Na1 Na ", "Na1 Na+ ").replace("Fe1 Fe ", "Fe1 Fe2+ ")
    text = text.replace("P1 P ", "P1 P5+ ").replace(" O 0.", " O2- 0.")
    (tmp_path / "t.cif").write_text(text)
    found = read_structure(tmp_path / "t.cif")
    states = found.arrays["oxidation_states"]
    expected = {11: 1, 26: 2, 15: 5, 8: -2}
    assert states.tolist() == [expected[z] for z in found.numbers]
    (tmp_path / "t.cif").write_text(text.replace("Fe2+", "Fe"))
    found = read_structure(tmp_path / "t.cif")
    assert set(found.arrays["oxidation_states"][found.numbers == 26]) == {0}


def cif(sites: str, columns: str = "type_symbol fract_x fract_y fract_z") -> str:
    """A CIF of space group 1 with these sites, a label first."""
    edges = "".join(
        f"_cell_length_{axis} {length}\n" for axis, length in zip("abc", (5, 6, 7), strict=True)
    )
    angles = "".join(f"_cell_angle_{angle} 90\n" for angle in ("alpha", "beta", "gamma"))
    names = "".join(f"_atom_site_{name}\n" for name in ("label", *columns.split()))
    return f"data_x\n{edges}{angles}_space_group_IT_number 1\nloop_\n{names}{sites}"


@pytest.mark.parametrize("occupancy", ["", " 1.0"])
def test_two_species_on_one_site_are_refused_also_without_occupancies(tmp_path, occupancy):
    columns = "type_symbol fract_x fract_y fract_z" + (" occupancy" if occupancy else "")
    rows = ("Fe1 Fe 0 0 0", "Mn1 Mn 1.0 0 0", "O1 O .5 .5 .5")
    (tmp_path / "t.cif").write_text(cif("".join(f"{row}{occupancy}\n" for row in rows), columns))
    with pytest.raises(UserError, match=r"Fe1 and another site are in one place|Mn1 and another"):
        read_structure(tmp_path / "t.cif")


@pytest.mark.parametrize("style", ["Fe2+ Fe3+ O2-", "Fe+2 Fe+3 O-2"])
def test_both_styles_of_decorated_species(tmp_path, style):
    places = ("0 0 0", ".3 .2 .1", ".5 .5 .5")
    rows = [
        f"X{i} {one} {place}\n" for i, (one, place) in enumerate(zip(style.split(), places, strict=True))
    ]
    (tmp_path / "t.cif").write_text(cif("".join(rows)))
    found = read_structure(tmp_path / "t.cif")
    assert dict(
        zip(
            found.get_scaled_positions()[:, 0].round(1).tolist(),
            found.arrays["oxidation_states"].tolist(),
            strict=True,
        )
    ) == {0: 2, 0.3: 3, 0.5: -2}
