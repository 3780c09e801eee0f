"""GPAW recomputes stored frames, and its failures are told in one line."""

import logging
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from ase.units import GPa
from computed_again import calculation_of
from samples import LEVEL, ROOT

from workflow_lib.core.errors import UserError
from workflow_lib.dft.export import frames_of
from workflow_lib.dft.jobs import run_jobs
from workflow_lib.dft.level import EMBEDDED, Level
from workflow_lib.dft.store import Store, _decode, _encode
from workflow_lib.frames.table import read_parquet

EMBEDDED_FRAMES = ROOT / "resources/naxfepo4-gpaw/frames.parquet"
FORMAL = {"Na": 1, "P": 5, "O": -2, "Si": 4, "S": 6}
ENERGY, FORCE, MOMENT, STRESS = 1e-4, 10e-3, 0.02, 0.05 * GPa
"""eV/atom, eV/A, muB, eV/A^3: what another machine, library or start may change (docs/dft.md, noise)."""


def wanted_states(frame):
    """Fe by its moment; the other transition metals of the set are all 2+."""
    states = np.where(np.isin(frame.numbers, (25, 27, 28)), 2, 0)
    iron = frame.numbers == 26
    states[iron] = np.where(np.abs(frame.magmoms[iron]) < 4.0, 2, 3)
    return states


def recompute(frame, tmp_path):
    request = calculation_of(frame, wanted_states(frame), EMBEDDED)
    store = Store(tmp_path)
    tally = run_jobs([request], store, formal_charges=FORMAL)
    record = store.get(request)
    assert tally.done == [request.name], record.reason
    [again] = frames_of([record], "test")
    assert again.energy == pytest.approx(frame.energy, abs=ENERGY * len(frame))
    np.testing.assert_allclose(again.forces, frame.forces, atol=FORCE)
    np.testing.assert_allclose(again.magmoms, frame.magmoms, atol=MOMENT)
    np.testing.assert_allclose(again.stress, frame.stress, atol=STRESS)
    if frame.charges is not None:
        np.testing.assert_allclose(again.charges, frame.charges, atol=0.02)
    return record


def one_of_each_kind():
    """The last frame of each kind: relaxed ones are the most telling."""
    return {frame.kind: frame for frame in read_parquet(EMBEDDED_FRAMES)}


@pytest.mark.dft_quick
def test_the_relaxed_cell_of_fepo4_is_recomputed(tmp_path):
    """24 atoms, no charge order to hold; with all symmetry and a low start."""
    path = [f for f in read_parquet(EMBEDDED_FRAMES) if len(f) == 24 and f.kind == "relaxation"]
    record = recompute(min(path, key=lambda frame: frame.fmax), tmp_path)
    # Every d shell is half full: no minority orbital holds more than covalency brings.
    assert all(orbital[-1] < 0.4 for orbital in record.frames[-1]["orbitals"].values())


@pytest.mark.dft
@pytest.mark.parametrize("kind", sorted(one_of_each_kind()))
def test_one_stored_frame_of_each_kind_is_recomputed(kind, tmp_path):
    frame = one_of_each_kind()[kind]
    record = recompute(frame, tmp_path)
    # A second call finds the answer in the store.
    assert run_jobs([record.calculation], Store(tmp_path), formal_charges=FORMAL).known == [frame.frame_id]


def _half(frames):
    return next(f for f in frames if f.group == "x050_s1" and f.kind == "relaxation")


def test_gpaw_missing_is_one_line_with_the_way_to_get_it(frames, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "gpaw", None)
    frame = _half(frames)
    request = calculation_of(frame, frame.oxidation_states, LEVEL)
    with pytest.raises(UserError, match="make dft-setup"):
        run_jobs([request], Store(tmp_path), formal_charges=FORMAL)
    assert not list(tmp_path.glob("*.jsonl"))


def test_pybader_missing_is_one_line_where_charges_are_asked_for(frames, tmp_path, monkeypatch):
    modules = __import__("sys").modules
    monkeypatch.setitem(modules, "gpaw", SimpleNamespace(setup_paths=[]))
    monkeypatch.setitem(modules, "pybader.interface", None)
    frame = _half(frames)
    request = calculation_of(frame, frame.oxidation_states, LEVEL)
    with pytest.raises(UserError, match=r"Bader charges need pybader.*make dft-setup"):
        run_jobs([request], Store(tmp_path), formal_charges=FORMAL)
    with pytest.raises(UserError, match="no PBE PAW set"):
        run_jobs([replace(request, charges=False)], Store(tmp_path), formal_charges=FORMAL)


class Converged:
    """In the place of a converged GPAW calculator: high-spin Fe, and spins that may be turned over."""

    def __init__(self, request, signs=1):
        self.request, self.signs = request, signs

    def get_magnetic_moments(self, atoms):
        return self.signs * np.select([self.request.oxidation_states == s for s in (2, 3)], [3.7, 4.3], 0.0)

    def get_potential_energy(self, atoms=None, **_):
        return -180.0


def test_another_order_of_spins_than_the_one_begun_with_is_lost(frames):
    from workflow_lib.dft.engines.gpaw.engine import StateLost, SteeredGPAW

    frame = _half(frames)
    request = calculation_of(frame, frame.oxidation_states, LEVEL)
    anti = replace(request, level=LEVEL.model_copy(update={"magnetism": "antiferromagnetic"}))
    atoms, iron = request.atoms(), np.flatnonzero(frame.numbers == 26)
    one, alternating = np.ones(len(frame)), np.ones(len(frame))
    one[iron[0]] = alternating[iron[1::2]] = -1
    for asked, kept_signs in ((request, np.ones(len(frame))), (anti, alternating)):
        engine = SteeredGPAW(asked, None, None)
        for signs in (np.ones(len(frame)), one, alternating):
            # All spins turned over are the same state.
            for flip in (1, -1):
                calculator = Converged(asked, flip * signs)
                if (signs == kept_signs).all():
                    assert (engine._evaluate(atoms, calculator) == asked.oxidation_states).all()
                else:
                    with pytest.raises(StateLost, match=r"moments of signs [+-]{4}"):
                        engine._evaluate(atoms, calculator)


@pytest.mark.parametrize(
    "error", [RuntimeError("basins hold too few electrons"), ImportError("no pybader")]
)
def test_bader_charges_that_fail_leave_an_empty_field_and_a_warning(error, frames, monkeypatch, caplog):
    from workflow_lib.dft.engines.gpaw import bader
    from workflow_lib.dft.engines.gpaw.engine import SteeredGPAW

    def fails(_):
        raise error

    monkeypatch.setattr(bader, "bader_charges", fails)
    frame = _half(frames)
    engine = SteeredGPAW(calculation_of(frame, frame.oxidation_states, LEVEL), None, None)
    assert engine.charges() is None
    assert f"Bader charges stay empty: {error}" in caplog.text


def test_all_requests_are_checked_before_the_first_starts(frames, tmp_path):
    frame = _half(frames)
    good = calculation_of(frame, frame.oxidation_states, LEVEL)
    bad = calculation_of(frame, np.where(frame.numbers == 26, 3, 0), LEVEL, name="not neutral")
    with pytest.raises(UserError, match="not neutral: the wanted charge states"):
        run_jobs([good, bad], Store(tmp_path), formal_charges=FORMAL)


def test_only_a_geometry_converged_as_well_as_today_is_not_computed_again(frames, tmp_path):
    """The end of an interrupted relaxation; entries from before 1e-5 do not state their criterion."""
    from workflow_lib.dft.engines.gpaw.engine import CONVERGENCE, SteeredGPAW

    frame = _half(frames)
    request = calculation_of(frame, frame.oxidation_states, LEVEL)
    atoms = request.atoms()
    entry = {"positions": atoms.positions.tolist(), "cell": atoms.cell[:].tolist(), "energy": -1.0}
    with Store(tmp_path).writing(request) as log:
        engine = SteeredGPAW(request, log, None)
        for stated, known in (({}, False), ({"density_criterion": CONVERGENCE["density"]}, True)):
            log.frame(entry | stated)
            assert engine._is_last(atoms) is known
        atoms.positions[0] += 0.01
        assert not engine._is_last(atoms)


class TestWithGpaw:
    """Fast checks of what GPAW is told; they need it installed, not run."""

    @pytest.fixture(autouse=True)
    def _gpaw(self):
        pytest.importorskip("gpaw", reason="run make dft-setup")

    def test_an_element_without_paw_set_is_named(self, frames):
        from workflow_lib.dft.engines.gpaw.installed import require_paw_sets

        frame = _half(frames)
        numbers = np.where(frame.numbers == 15, 94, frame.numbers)
        request = calculation_of(frame, frame.oxidation_states, LEVEL, numbers=numbers)
        with pytest.raises(UserError, match="no PBE PAW set for Pu"):
            require_paw_sets(request)

    def test_the_penalty_is_the_derivative_of_its_energy(self):
        """dE/dD by central differences, on a setup like that of Fe: two d waves among s and p."""
        from workflow_lib.dft.engines.gpaw.occupation_control import OccupationControl

        class Setup:
            l_j = (0, 0, 1, 1, 2, 2)
            n_j = (4, -1, 3, -1, 3, -1)
            N0_q = np.linspace(0.3, 0.9, 21)

        rng = np.random.default_rng(5)
        size = sum(2 * momentum + 1 for momentum in Setup.l_j)
        density = rng.normal(size=(2, size, size))
        density += density.transpose(0, 2, 1)
        target = rng.normal(size=(2, 5, 5))
        target += target.transpose(0, 2, 1)
        control = OccupationControl({7: target}, {7: 5.3})

        def energy(matrices):
            return control.update_non_local_hamiltonian(matrices, Setup, 7, np.zeros_like(matrices))

        potential = np.zeros_like(density)
        control.update_non_local_hamiltonian(density, Setup, 7, potential)
        for _ in range(10):
            step = rng.normal(size=density.shape)
            step += step.transpose(0, 2, 1)
            slope = (energy(density + 1e-4 * step) - energy(density - 1e-4 * step)) / 2e-4
            # The energy is quadratic: central differences are exact but for rounding.
            assert slope == pytest.approx((potential * step).sum(), rel=1e-8)
        control.active = False
        assert energy(density) == 0.0
        assert not control.post_scf_convergence()  # residuals are still those under control
        control.free = 3
        assert control.post_scf_convergence()
        assert (
            OccupationControl({7: target}, {7: 5.3}).update_non_local_hamiltonian(
                density, Setup, 6, np.zeros_like(density)
            )
            == 0.0
        )

    def test_an_scf_that_does_not_converge_is_stored_as_failed(self, frames, tmp_path, monkeypatch, caplog):
        """The real engine with two iterations and no fallback."""
        from workflow_lib.dft.engines.gpaw import engine as gpaw_engine

        caplog.set_level(logging.WARNING)
        monkeypatch.setattr(gpaw_engine, "SCF_FALLBACKS", (gpaw_engine.ScfSettings(1, {}, 2),))
        frame = next(f for f in frames if f.group == "x000_s0")
        request = calculation_of(frame, frame.oxidation_states, LEVEL)
        request = replace(request, level=Level(cutoff=150.0, kpoints=(1, 1, 1)))
        store = Store(tmp_path)
        tally = run_jobs([request], store, formal_charges=FORMAL)
        assert tally.failed == [request.name]
        record = store.get(request)
        assert (record.status, record.reason) == ("failed", "not self-consistent after 2 iterations")
        assert "not self-consistent" in caplog.text
        # Not tried again unless asked for.
        assert run_jobs([request], store, formal_charges=FORMAL).failed == [request.name]
        assert store.get(request).attempts == 1

    @pytest.mark.parametrize("field", ["fallback", "rung"])
    def test_a_fallback_that_failed_before_a_kill_is_not_tried_again(
        self, field, frames, tmp_path, monkeypatch
    ):
        """Killed on the second of three: the next process goes on there, also from an older log."""
        from gpaw import KohnShamConvergenceError

        from workflow_lib.dft.engines.gpaw import engine as gpaw_engine

        fallbacks = tuple(gpaw_engine.ScfSettings(1, {}, iterations) for iterations in (2, 3, 4))
        monkeypatch.setattr(gpaw_engine, "SCF_FALLBACKS", fallbacks)
        tried = []

        def cold(self, atoms, scf):
            tried.append(scf.iterations)
            if tried == [2, 3]:
                raise KeyboardInterrupt
            raise KohnShamConvergenceError

        monkeypatch.setattr(gpaw_engine.SteeredGPAW, "_cold", cold)
        frame = next(f for f in frames if f.group == "x000_s0")
        request = calculation_of(frame, frame.oxidation_states, LEVEL)
        request = replace(request, level=Level(cutoff=150.0, kpoints=(1, 1, 1)))
        store = Store(tmp_path)
        with pytest.raises(KeyboardInterrupt):
            run_jobs([request], store, formal_charges=FORMAL)
        assert store.get(request).status == "interrupted"
        log = store.path(request)
        lines = [_decode(line) for line in log.read_bytes().splitlines(keepends=True)]
        assert sum("fallback" in line for line in lines) == 1
        renamed = [{field if key == "fallback" else key: line[key] for key in line} for line in lines]
        log.write_bytes(b"".join(map(_encode, renamed)))
        assert run_jobs([request], store, formal_charges=FORMAL).failed == [request.name]
        assert tried == [2, 3, 3, 4]
        assert store.get(request).reason == "not self-consistent after 4 iterations"
        # Asked to try a failed one again, it is tried in every way.
        run_jobs([request], store, formal_charges=FORMAL, retry_failed=True)
        assert tried == [2, 3, 3, 4, 2, 3, 4]


def test_unsteered_ions_that_may_be_magnetic_start_with_a_moment(frames):
    from workflow_lib.dft.engines.gpaw.engine import SteeredGPAW

    frame = _half(frames)
    asked = replace(calculation_of(frame, np.zeros(len(frame), dtype=np.int64), LEVEL), unsteered=True)
    atoms = asked.atoms()
    assert SteeredGPAW(asked, None, None)._prepare(atoms) == ({}, {})
    np.testing.assert_array_equal(atoms.get_initial_magnetic_moments(), 4.0 * (frame.numbers == 26))
