"""What the campaign asks for next, and what its archive and tables take from the store."""

import sys
import tarfile
from dataclasses import replace

import numpy as np
import pytest

from campaigns.naxfepo4_gpaw import tables
from campaigns.naxfepo4_gpaw.campaign import PARTS
from campaigns.naxfepo4_gpaw.cell_parts import cell_grids, cell_lower, cell_orbitals
from campaigns.naxfepo4_gpaw.frame_parts import VOLUMES, cell_strains, cell_symmetric
from campaigns.naxfepo4_gpaw.go_on import ORDER, archive
from campaigns.naxfepo4_gpaw.level_parts import CHOSEN
from campaigns.naxfepo4_gpaw.states import POOR, RICH, olivine
from workflow_lib.dft.calculation import Calculation
from workflow_lib.dft.store import Store
from workflow_lib.dft.symmetry import operations
from workflow_lib.stages.dft.plan import relaxation_of
from workflow_lib.stages.dft.settings import DftSettings

TWO = "1x1x1:Na1010:Fe3232"


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "store")


def relaxed(key: str, store: Store, *, longer: float = 1.0, orbital: str = "a", **frame) -> Calculation:
    """A state, relaxed at the chosen level to a cell ``longer`` along b."""
    host = olivine()
    start = relaxation_of(host.parse(key), host, DftSettings(level=CHOSEN), CHOSEN)
    start = replace(start, task="cell", orbital=orbital)
    cell = start.cell * [[1], [longer], [1]]
    scaled = np.linalg.solve(start.cell.T, start.positions.T).T
    content = {"positions": (scaled @ cell).tolist(), "cell": cell.tolist(), "energy": -190.0}
    with store.writing(start) as log:
        log.frame(content | {"forces": [[0.0, 0, 0]] * len(start)} | frame)
        log.end("done")
    return start


def test_every_part_has_its_turn():
    assert set(ORDER) == set(PARTS) and len(ORDER) == len(PARTS)


def test_the_seeds_asked_for_are_other_than_the_state_s_own(store):
    """One letter stands for all sites; without Fe2+ there is no choice."""
    own = {POOR: "a", RICH: "a", TWO: "cc"}
    for key, orbital in own.items():
        relaxed(key, store, orbital=orbital)
    asked = {(c.group, c.orbital) for c in cell_orbitals(store)}
    assert asked == {(RICH, "b"), (RICH, "c"), (TWO, "a"), (TWO, "b")}


def test_the_lowest_of_the_seeds_below_a_state_is_relaxed_and_the_others_wait_for_it(store):
    """Two seeds often turn into one orbital: relaxing both would do one thing twice."""
    start = relaxed(TWO, store, orbital="cc")
    for single, energy in zip(cell_orbitals(store), (-190.02, -190.03), strict=True):
        with store.writing(single) as log:
            log.frame({"energy": energy, "forces": [[0.0, 0, 0]] * len(single)})
            log.end("done")
    [lower] = cell_lower(store)
    assert (lower.orbital, lower.state_key) == ("b", TWO)
    for energy, left in ((-190.01, ["b"]), (-190.025, ["b"]), (-190.04, [])):
        again = Store(store.root.with_name(f"relaxed at {energy}"))
        for record in store.records():
            with again.writing(record.calculation) as log:
                log.frame(record.frames[-1])
                log.end("done")
        other = replace(lower, orbital="ab", provenance={})
        with again.writing(other) as log:
            log.frame(store.get(start).frames[-1] | {"energy": energy})
            log.end("done")
        assert [c.orbital for c in cell_lower(again)] == left


def test_a_symmetric_series_keeps_the_operations_of_its_state(store):
    for key in (POOR, RICH, TWO):
        relaxed(key, store)
    series = {calculation.group: calculation for calculation in cell_symmetric(store)}
    assert series.keys() == {POOR, RICH, TWO}
    for calculation in series.values():
        alone = replace(calculation, series=None, series_cells=None)
        assert len(operations(calculation)) == len(operations(alone)) > 1  # of all geometries, of the first
        moved = np.ptp(list(calculation.series), axis=0)
        assert moved.max() > 0.05  # A
        volumes = [
            np.linalg.det(cell) / np.linalg.det(calculation.cell) for cell in calculation.series_cells
        ]
        np.testing.assert_allclose(volumes, np.add(1, VOLUMES), atol=1e-12)
    assert all(len(operations(calculation)) == 1 for calculation in cell_strains(store))


def test_a_cell_that_ended_on_the_grid_of_its_start_is_asked_for_on_its_own(store):
    pytest.importorskip("gpaw", reason="run make dft-setup")
    from workflow_lib.dft.engines.gpaw.start import even_grid

    start = relaxed(TWO, store, longer=1.1)
    relaxed(RICH, store)
    cell = start.cell * [[1], [1.1], [1]]
    assert even_grid(cell, CHOSEN.cutoff) != even_grid(start.cell, CHOSEN.cutoff)
    [single] = cell_grids(store)
    assert (single.task, single.group, single.provenance) == ("single", TWO, {"start": start.digest})
    np.testing.assert_allclose(single.cell, cell, atol=1e-12)
    # Today's relaxations say which grid they had, and it is that of the cell.
    store.path(start).unlink()
    relaxed(TWO, store, longer=1.1, grid=list(even_grid(cell, CHOSEN.cutoff)))
    assert not list(cell_grids(store))


def test_the_archive_holds_failures_with_and_without_a_geometry(store, tmp_path):
    done = relaxed(RICH, store)
    failed, begun = (replace(done, orbital=seed) for seed in "bc")
    with store.writing(failed) as log:
        log.end("failed", "collapsed to Fe 2 2 3 3")
    with store.writing(begun):
        pass
    pack = tmp_path / "pack.tar.xz"
    assert archive(store, pack) == 2
    with tarfile.open(pack) as packed:
        assert set(packed.getnames()) == {f"store/{store.path(c).name}" for c in (done, failed)}


def test_a_damaged_log_is_one_line_of_the_tables(store, monkeypatch, capsys):
    path = store.path(relaxed(RICH, store))
    first, *rest = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first[:-20] + b"\n" + b"".join(rest))
    monkeypatch.setattr(sys, "argv", ["tables", "--store", str(store.root)])
    assert tables.main() == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and "is damaged" in said and said.count("\n") == 1
