"""The store of relaxations: exact, whole or not at all, one relaxation for equivalent arrangements."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from charge_order_toy import save_toy
from samples import HOST

from workflow_lib.core import code, progress
from workflow_lib.core.errors import UserError
from workflow_lib.lattice.arrangement import Arrangement
from workflow_lib.lattice.host import Host
from workflow_lib.lattice.redox import RedoxRule
from workflow_lib.models.trained import TrainedModel
from workflow_lib.simulation import relaxation
from workflow_lib.simulation.cache import (
    RelaxationCache,
    model_identity,
    moved,
    relax_arrangements,
    relaxation_key,
)
from workflow_lib.simulation.relaxation import Relaxation
from workflow_lib.simulation.settings import Stop

pytestmark = pytest.mark.usefixtures("toy")
COARSE = {"stop": Stop(fmax=0.5, max_steps=3), "batch_size": 4}


def example(energy: float = -1 / 3, status: str = "converged") -> Relaxation:
    atoms = bulk("NaCl", "rocksalt", a=np.pi * 2, cubic=True)
    atoms.rattle(0.1, seed=3)
    atoms.set_array("oxidation_states", np.arange(len(atoms)))
    return Relaxation(atoms, energy, 0.1 + 0.2, 7, status)


def test_what_comes_back_is_what_went_in_bit_for_bit(tmp_path: Path) -> None:
    cache = RelaxationCache(tmp_path, "model")
    cache.put_many({"key": example()})
    back = RelaxationCache(tmp_path, "model").get("key")
    assert back is not None
    given = example()
    assert np.array_equal(back.atoms.positions, given.atoms.positions)
    assert np.array_equal(back.atoms.cell[:], given.atoms.cell[:])
    assert np.array_equal(back.atoms.numbers, given.atoms.numbers)
    assert np.array_equal(back.atoms.arrays["oxidation_states"], np.arange(8))
    assert (back.energy, back.fmax, back.steps) == (given.energy, given.fmax, 7)
    assert cache.get("other") is None
    assert RelaxationCache(tmp_path, "another model").get("key") is None


def test_diverged_relaxations_are_kept_as_such(tmp_path: Path) -> None:
    cache = RelaxationCache(tmp_path, "model")
    lost = example(energy=float("nan"), status="diverged")
    lost.atoms.positions[:] = np.nan
    cache.put_many({"key": lost})
    back = cache.get("key")
    assert back is not None
    assert back.status == "diverged"
    assert np.isnan(back.energy)
    assert np.isnan(back.atoms.positions).all()


def test_the_first_result_stays(tmp_path: Path) -> None:
    cache = RelaxationCache(tmp_path, "model")
    cache.put_many({"key": example(1.0)})
    cache.put_many({"key": example(2.0), "new": example(3.0)})
    assert {key: item.energy for key, item in cache.get_many(["key", "new"]).items()} == {
        "key": 1.0,
        "new": 3.0,
    }


def test_a_damaged_or_unwritable_store_is_one_clear_line(tmp_path: Path) -> None:
    cache = RelaxationCache(tmp_path, "model")
    cache.path.write_bytes(b"not a database, though long enough to be looked at" * 100)
    with pytest.raises(UserError, match="delete the file"):
        cache.get("key")
    with pytest.raises(UserError, match="delete the file"):
        RelaxationCache(tmp_path, "model")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="choose a folder you can write to"):
        RelaxationCache(tmp_path / "file", "model")


def test_kill_leaves_whole_batches(tmp_path: Path) -> None:
    script = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import itertools
from test_relaxation_cache import RelaxationCache, example
cache = RelaxationCache({str(tmp_path)!r}, "model")
for batch in itertools.count():
    cache.put_many({{f"{{batch}}-{{i}}": example(float(batch)) for i in range(5)}})
"""
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(root), str(root / "tests/support")])}
    with subprocess.Popen([sys.executable, "-c", script], cwd=root, env=environment) as process:
        cache = RelaxationCache(tmp_path, "model")
        deadline = time.monotonic() + 600
        while len(cache) < 25 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
    count = len(cache)
    assert count >= 25
    assert count % 5 == 0
    keys = [f"{batch}-{i}" for batch in range(count // 5) for i in range(5)]
    assert list(cache.get_many(keys)) == keys
    cache.put_many({"after": example()})
    assert len(cache) == count + 1


def test_keys_tell_starts_and_settings_apart(host: Host) -> None:
    base = {"polaron_distortion": 0.06, "stop": Stop(0.05, 150)}
    keys = {
        relaxation_key(host, "1x1x1:Na1100:Fe2233", **(base | change))
        for change in (
            {},
            {"polaron_distortion": 0.0},
            *(
                {"stop": stop}
                for stop in (
                    *(Stop(0.02, 150), Stop(0.05, 200), Stop(0.05, 150, 0.1), Stop(0.05, 150, 0.2)),
                    Stop(0.05, 150, 0.1, "lbfgs"),
                )
            ),
        )
    }
    keys.add(relaxation_key(host, "1x1x1:Na1100:Fe2323", **base))
    other = Host.__new__(Host)
    other.__dict__.update(host.__dict__)
    other.cell_full = host.cell_full * 1.01
    keys.add(relaxation_key(other, "1x1x1:Na1100:Fe2233", **base))
    # The same charge of the framework, but phosphorus is the anion whose shells the start distorts.
    charges = {"Na": 1, "P": -3, "O": 0}
    unit = Host.load(HOST, host.rule.model_copy(update={"formal_charges": charges}))
    keys.add(relaxation_key(unit, "1x1x1:Na1100:Fe2233", **base))
    assert len(keys) == 10
    plain = {"polaron_distortion": 0.0, "stop": Stop(0.05, 150)}
    assert relaxation_key(unit, "1x1x1:Na1100:Fe2233", **plain) in keys


def test_identity_of_a_model_is_what_decides_its_energies(rule: RedoxRule, tmp_path: Path) -> None:
    def identity(name: str, embedding: str, **options: object) -> str:
        return model_identity(TrainedModel.load(save_toy(tmp_path / name, rule, embedding, **options)))  # type: ignore[arg-type]

    same = identity("a", "surrogate")
    assert identity("b", "surrogate", seed=2, fold=3) == same  # same tensors in both
    assert identity("c", "none") != same
    assert identity("d", "surrogate", explodes=True) != same
    loaded = TrainedModel.load(tmp_path / "a")
    del loaded.card["tensors_sha256"]
    with pytest.raises(ValueError, match="only a saved model"):
        model_identity(loaded)


def test_other_code_is_another_identity(
    rule: RedoxRule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change of the optimiser is not answered from the old cache; one of the figures empties none."""
    model = TrainedModel.load(save_toy(tmp_path / "a", rule, "none"))
    genuine = code.source_of

    def identity(changed: str | None) -> str:
        copy = tmp_path / "changed.py"

        def source(module: str) -> Path:
            if module != changed:
                return genuine(module)
            copy.write_bytes(genuine(module).read_bytes() + b"# changed")
            return copy

        monkeypatch.setattr(code, "source_of", source)
        code.code_checksum.cache_clear()
        return model_identity(model)

    before = identity(None)
    for module in ("simulation.relaxation", "simulation.torchsim", "models.trained", "lattice.host"):
        assert identity(f"workflow_lib.{module}") != before, module
    for module in ("stages.comparison.figures", "stages.training.fit", "cli.models", "models.evaluate"):
        assert identity(f"workflow_lib.{module}") == before, module
    code.code_checksum.cache_clear()


def test_ions_that_fall_into_one_another_have_diverged(
    rule: RedoxRule, host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """Blind MACE once made O2 in NaFe4(PO4)4, 4.5 eV below its neighbours, and a hull through it."""
    model = TrainedModel.load(save_toy(tmp_path / "model", rule, "surrogate"))
    plain = relaxation.relax

    def falls(model, atoms, **named):
        results = plain(model, atoms, **named)
        oxygen = np.flatnonzero(atoms[0].numbers == 8)
        near = sorted(oxygen, key=lambda k: atoms[0].get_distance(oxygen[0], k, mic=True))[1]
        results[0].atoms.set_distance(oxygen[0], near, 1.27, fix=0, mic=True)
        return results

    monkeypatch.setattr(relaxation, "relax", falls)
    cache = RelaxationCache(tmp_path / "cache", model_identity(model))
    states = [Arrangement((1, 1, 1), (0,), (0,)), Arrangement((1, 1, 1), (0, 1, 2, 3), (0, 1, 2, 3))]
    first, second = relax_arrangements(model, host, states, polaron_distortion=0.06, cache=cache, **COARSE)
    assert first.status == "diverged" and second.status != "diverged"
    assert first.reason == "O and O came as close as 1.27 A, 2.29 at the start"
    assert "diverged after" in capsys.readouterr().err
    monkeypatch.setattr(relaxation, "relax", None)
    [again] = relax_arrangements(model, host, states[:1], polaron_distortion=0.06, cache=cache, **COARSE)
    assert again.status == "diverged"


@pytest.mark.parametrize("charges", [True, False])
def test_what_became_another_arrangement_has_moved(host: Host, charges: bool) -> None:
    rng = np.random.default_rng(3)
    first, *_, second = host.enumerate((1, 1, 1), 2, charges=charges)

    def ended(atoms, status="converged"):
        return Relaxation(atoms, -1.0, 0.01, 7, status)

    stays = host.build(first)
    stays.rattle(0.1, seed=5)
    stays.set_cell(stays.cell[:] * 1.03, scale_atoms=True)
    assert not moved(host, first, ended(stays))
    # Asked for in another form that symmetry makes the same.
    images = [host.random((1, 1, 1), 2, charges=charges, rng=rng) for _ in range(40)]
    same = [a for a in images if host.key(a) == host.key(first) and a != first]
    assert same and not moved(host, same[0], ended(stays))

    hopped = host.build(second)
    assert moved(host, first, ended(hopped))
    away = host.build(first)
    away.positions[np.flatnonzero(away.numbers == 11)[0]] += (0.0, 1.4, 0.9)
    assert moved(host, first, ended(away))
    broken = host.build(first)
    broken.rattle(1.5, seed=5)
    assert moved(host, first, ended(broken))
    assert not moved(host, first, ended(broken, "diverged"))


def test_equivalent_arrangements_are_relaxed_once(rule: RedoxRule, host: Host, tmp_path: Path) -> None:
    folder = save_toy(tmp_path / "model", rule, "surrogate")
    model = TrainedModel.load(folder)
    cache = RelaxationCache(tmp_path / "cache", model_identity(model))
    images = [Arrangement((1, 1, 1), (site,), (site,)) for site in range(4)]
    assert len({host.key(image) for image in images}) == 1
    results = relax_arrangements(model, host, images, polaron_distortion=0.06, cache=cache, **COARSE)
    assert len(cache) == 1
    assert len({item.energy for item in results}) == 1
    # All at the canonical representative, which is what the key names.
    for item in results:
        located = host.locate(item.atoms, item.atoms.arrays["oxidation_states"])
        assert located == host.canonical(images[0])


def test_an_interrupted_run_goes_on_with_the_same_batches(
    rule: RedoxRule, host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = TrainedModel.load(save_toy(tmp_path / "model", rule, "surrogate"))
    wanted = host.enumerate((1, 1, 1), 2, charges=True)
    batches: list[list[bytes]] = []
    genuine, allowed = relaxation.relax, [99]

    def watched(trained, atoms, **options):
        if len(batches) == allowed[0]:
            raise KeyboardInterrupt
        batches.append([item.positions.tobytes() for item in atoms])
        return genuine(trained, atoms, **options)

    monkeypatch.setattr(relaxation, "relax", watched)

    def run(name: str) -> list[Relaxation]:
        cache = RelaxationCache(tmp_path / name, model_identity(model))
        return relax_arrangements(model, host, wanted, polaron_distortion=0.06, cache=cache, **COARSE)

    whole = run("whole")
    uninterrupted = batches.copy()
    assert [len(batch) for batch in uninterrupted] == [4, 4, 2]
    batches.clear()
    allowed[0] = 1
    with pytest.raises(KeyboardInterrupt):
        run("cut")
    allowed[0] = 99
    resumed = run("cut")
    assert batches == uninterrupted
    for first, second in zip(whole, resumed, strict=True):
        assert first.energy == second.energy
        assert np.array_equal(first.atoms.positions, second.atoms.positions)
    batches.clear()
    run("cut")
    assert batches == []


def test_progress_is_said_and_changes_nothing(
    rule: RedoxRule,
    host: Host,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = TrainedModel.load(save_toy(tmp_path / "model", rule, "surrogate"))
    images = [Arrangement((1, 1, 1), (0, 1), (site, 3)) for site in range(3)]
    energies = []
    for label in (None, "toy relaxing"):
        monkeypatch.setattr(progress, "PAUSE", 0.0)
        cache = RelaxationCache(tmp_path / f"cache-{label}", model_identity(model))
        options = {"polaron_distortion": 0.06, "stop": Stop(1e-6, 20), "batch_size": 2}
        results = relax_arrangements(model, host, images, **options, cache=cache, progress=label)  # type: ignore[arg-type]
        energies.append([item.energy for item in results])
    assert energies[0] == energies[1]
    lines = capsys.readouterr().err.splitlines()
    assert all("toy relaxing: " in line for line in lines)
    assert any("step 10 of at most 20, largest force" in line for line in lines)
    assert f"{len(set(energies[0]))} relaxations in" in lines[-1]
