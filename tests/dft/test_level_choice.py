"""The table that says which level stands."""

from dataclasses import replace

import numpy as np
import pytest

from workflow_lib.core.errors import UserError
from workflow_lib.dft.basis_error import plane_waves
from workflow_lib.dft.level import Level
from workflow_lib.dft.level_choice import level_table, verdict
from workflow_lib.dft.store import Record
from workflow_lib.lattice.host import Arrangement

COARSE, FINE = Level(cutoff=500.0, kpoints=(1, 1, 1)), Level(cutoff=900.0, kpoints=(2, 2, 2), shifted=True)
STATES = {
    "empty": ((), ()),
    "full": ((0, 1, 2, 3), (0, 1, 2, 3)),
    "i:A": ((0, 3), (0, 2)),
    "i:B": ((0, 3), (0, 1)),
}


@pytest.fixture
def records(host, half):
    """Energies per formula unit; the coarse level is 8 meV off in the formation energy of A."""
    energies = {
        0: {"empty": -40.0, "full": -50.0, "i:A": -44.99, "i:B": -44.89},
        1: {"empty": -42.0, "full": -52.0, "i:A": -46.998, "i:B": -46.897},
    }
    made = []
    for number, by_group in energies.items():
        level = (COARSE, FINE)[number]
        for group, energy in by_group.items():
            atoms = host.build(Arrangement((1, 1, 1), *STATES[group]))
            calculation = replace(
                half,
                group=group,
                kind="level",
                task="single",
                level=level,
                numbers=atoms.numbers,
                positions=atoms.positions,
                cell=atoms.cell[:],
                oxidation_states=atoms.get_array("oxidation_states"),
            )
            off = 0.005 if level is COARSE else 0.0
            frame = {
                "energy": energy * 4,
                "forces": np.full((len(atoms), 3), off).tolist(),
                "stress": (off * np.eye(3)).tolist(),
                "scf_iterations": 20,
                "cpu_seconds": 1.0,
            }
            made.append(Record(calculation, "done", [frame]))
    return made


def test_errors_are_those_of_differences_between_unequal_cells(records):
    table = level_table(records, FINE, empty="empty", full="full")
    coarse = table[table["cutoff_ev"] == 500].set_index("structure")
    assert coarse["formation_mev_fu"]["i:A"] == pytest.approx(10.0)
    assert coarse["formation_error_mev_fu"]["i:A"] == pytest.approx(8.0)
    assert coarse["order_error_mev_fu"]["i:B"] == pytest.approx(-1.0)
    assert coarse["force_error_mev_a"]["full"] == pytest.approx(5.0)
    assert coarse["stress_error_gpa"]["empty"] == pytest.approx(0.801, abs=1e-3)
    assert coarse["pressure_error_gpa"]["empty"] == pytest.approx(-0.801, abs=1e-3)
    assert coarse["x"].to_dict() == {"empty": 0, "full": 1, "i:A": 0.5, "i:B": 0.5}
    stands = verdict(table).set_index("cutoff_ev")["stands"]
    assert not stands[500.0]
    assert stands[900.0]


def test_strained_cells_are_compared_with_strained_ones(records):
    """Of one level a strain moves all energies by as much: it is in no formation energy and no order."""
    strained = []
    for record in records:
        [frame] = record.frames
        calculation = replace(record.calculation, provenance={"strain": 0.02})
        strained.append(
            replace(record, calculation=calculation, frames=[frame | {"energy": frame["energy"] - 4.0}])
        )
    table = level_table([*records, *strained], FINE, empty="empty", full="full")
    columns = ["formation_mev_fu", "formation_error_mev_fu", "order_mev_fu", "order_error_mev_fu"]
    plain, moved = (
        table[table["strain"] == strain].set_index(["cutoff_ev", "structure"])[columns]
        for strain in (0, 0.02)
    )
    assert len(plain) == len(moved) == len(records)
    np.testing.assert_allclose(moved, plain.loc[moved.index], atol=1e-6)
    assert moved["order_mev_fu"][500.0, "i:B"] == pytest.approx(100.0)


def test_a_level_does_not_stand_while_an_error_at_one_strain_is_unknown(records):
    strained = [
        replace(record, calculation=replace(record.calculation, provenance={"strain": 0.02}))
        for record in records
    ]
    whole = level_table([*records, *strained], FINE, empty="empty", full="full")
    assert verdict(whole).set_index("cutoff_ev")["stands"][900.0]
    for gone in ("empty", "i:A"):
        some = [r for r in records if (r.calculation.group, r.calculation.level) != (gone, FINE)]
        table = level_table([*some, *strained], FINE, empty="empty", full="full")
        assert not verdict(table)["stands"].any()


def test_the_deviation_of_plane_waves_is_of_the_number_from_the_ideal_one(records):
    for row in level_table(records, FINE, empty="empty", full="full").itertuples():
        own = next(
            r.calculation
            for r in records
            if (r.calculation.group, r.calculation.level.cutoff) == (row.structure, row.cutoff_ev)
        )
        count, ideal = plane_waves(own.cell, own.level)
        assert row.plane_waves_percent == pytest.approx(100 * (count - ideal) / ideal, rel=1e-9)


def test_a_level_without_both_ends_does_not_stand(records):
    some = [r for r in records if r.calculation.group != "full"]
    assert not verdict(level_table(some, FINE, empty="empty", full="full"))["stands"].any()
    with pytest.raises(UserError, match="no finished single points"):
        level_table([], FINE, empty="empty", full="full")


def test_the_number_of_plane_waves_is_that_of_gpaw():
    """FePO4 at 800 eV on the shifted mesh 1x2x2: GPAW says 14624 at each of the two equal points."""
    cell = np.diag([9.913, 5.914, 4.86])
    count, ideal = plane_waves(cell, Level(cutoff=800.0, kpoints=(1, 2, 2), shifted=True))
    assert count == 14624
    assert count / ideal - 1 == pytest.approx(0, abs=0.01)
