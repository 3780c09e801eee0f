"""The embedded frames: what their provenance says, in their units, each in a known charge state."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pyarrow.parquet as pq
import pytest
from samples import HOST, ROOT, check_bader_charges

from workflow_lib.config_files import load_config
from workflow_lib.core.io import read_json, sha256
from workflow_lib.dft.level import EMBEDDED
from workflow_lib.frames.frame import Frame, frame_to_atoms
from workflow_lib.frames.table import read_parquet
from workflow_lib.lattice.host import Host
from workflow_lib.lattice.redox import RedoxRule

FOLDER = ROOT / "resources/naxfepo4-gpaw"
REFERENCE = EMBEDDED.energy_reference
STATES = 16


@pytest.fixture(scope="module")
def learnt() -> list[Frame]:
    return read_parquet(FOLDER / "frames.parquet")


@pytest.fixture(scope="module")
def embedded_rule() -> RedoxRule:
    return load_config(ROOT / "config/config.yaml").redox


@pytest.fixture(scope="module")
def embedded_host(embedded_rule: RedoxRule) -> Host:
    return Host.load(HOST, embedded_rule)


def test_tables_match_their_provenance(learnt):
    provenance = read_json(FOLDER / "provenance.json")
    assert set(provenance["tables"]) == {path.name for path in FOLDER.glob("*.parquet")}
    ids = []
    for name, checksum in provenance["tables"].items():
        assert sha256(FOLDER / name) == checksum, name
        frames = read_parquet(FOLDER / name)
        assert len(frames) == pq.read_metadata(FOLDER / name).num_rows
        assert Counter(frame.kind for frame in frames) == provenance["frames"][name]
        assert {frame.energy_reference for frame in frames} == {REFERENCE}
        ids += [frame.frame_id for frame in frames]
    assert len(set(ids)) == len(ids)  # nothing is both learnt from and tested on
    assert provenance["energy_reference"] == REFERENCE
    assert all(frame.stress_converged and frame.stress is not None for frame in learnt)


def test_labels_have_their_units_and_signs(learnt):
    """Forces against fmax and their sum, sign of the Bader charges, neutrality of the Bader sums."""
    left = []
    for frame in learnt:
        assert frame.fmax == pytest.approx(np.linalg.norm(frame.forces, axis=1).max())
        left.append(np.abs(frame.forces.mean(axis=0)).max())
        np.testing.assert_array_equal(frame.stress, frame.stress.T)
        check_bader_charges(frame)
    # eV/A an atom; the real-space grid breaks translation, so that PAW forces do not quite sum to zero.
    # 0.3 meV/A at most were seen, far below what a wrong unit would give.
    assert max(left) < 1e-3 and np.median(left) < 1e-4


def test_stress_is_the_derivative_of_the_energy_along_the_relaxations(learnt):
    """Two frames of one path: dE = V tr(sigma d_eps) - sum F dx, by the trapezoidal rule."""
    found = []
    by_path: dict[str, list[Frame]] = {}
    for frame in learnt:
        if frame.kind == "relaxation" and frame.path:
            by_path.setdefault(frame.path, []).append(frame)
    for frames in by_path.values():
        for one, two in pairwise(frames):
            middle = 0.5 * (one.cell + two.cell)
            strain = np.linalg.solve(middle, two.cell - one.cell)
            strain = 0.5 * (strain + strain.T)
            # What the atoms move beside the cell.
            scaled = [np.linalg.solve(f.cell.T, f.positions.T).T for f in (one, two)]
            moved = (scaled[1] - scaled[0]) @ middle
            volume = abs(np.linalg.det(middle))
            work = 0.5 * volume * np.sum((one.stress + two.stress) * strain)
            work -= 0.5 * np.sum((one.forces + two.forces) * moved)
            found.append((two.energy - one.energy, work))
    energy, work = np.array(found).T
    small = np.abs(energy) < 0.5  # eV per cell; longer steps are not harmonic
    assert small.sum() > 30
    # 2 meV per cell and 0.998 were seen: steps are finite, and plane waves change with the cell.
    assert np.median(np.abs(energy - work)[small]) < 4e-3
    assert np.corrcoef(energy[small], work[small])[0, 1] > 0.99


def test_every_frame_of_the_host_is_a_neutral_state_of_it(learnt, embedded_rule, embedded_host):
    named = [frame for frame in learnt if frame.group.startswith("x")]
    keys: dict[str, set[str]] = {}
    for frame in named:
        states, reason = embedded_rule.assign(frame.numbers, frame.magmoms, frame.energy_reference)
        assert states is not None, (frame.frame_id, reason)
        assert np.count_nonzero(states == 2) == np.count_nonzero(frame.numbers == 11)
        key = embedded_host.key(embedded_host.locate(frame_to_atoms(frame), states))
        keys.setdefault(frame.group, set()).add(key)
    assert len(keys) == STATES and all(len(found) == 1 for found in keys.values())
    assert len(set.union(*keys.values())) == STATES
