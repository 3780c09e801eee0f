"""The stage as the workflow calls it: with real (small, untrained) models, and what it writes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from ase.io import read
from toy_landscape import SETTINGS, ToyEvaluator, owner

from workflow_lib.core.errors import UserError
from workflow_lib.core.io import read_json, write_json
from workflow_lib.models.registry import FAMILIES
from workflow_lib.models.species import species_alphabet
from workflow_lib.models.trained import TrainedModel, species_to_card
from workflow_lib.results_schema import MODEL
from workflow_lib.simulation.settings import RelaxationSettings
from workflow_lib.stages.search.figures import search_overview
from workflow_lib.stages.search.run import run_search, search_all
from workflow_lib.stages.search.settings import CellSettings, SearchSettings
from workflow_lib.stages.search.tables import FOUND, HISTORY

RELAXATION = RelaxationSettings(max_steps=4, fmax=0.3)
REAL = SearchSettings(
    cells=(
        CellSettings(budget=7, population=5, enumerate=True),
        CellSettings(repeat=(1, 3, 1), compositions=(8,), budget=3, population=2, offspring=1, max_steps=2),
    )
)


@pytest.fixture(scope="module")
def models(rule, tmp_path_factory):
    """A charge-blind and a charge-labelled network, untrained."""
    folder = tmp_path_factory.mktemp("models")
    small = {"n_atom_basis": 8, "n_rbf": 6, "n_interactions": 3, "cutoff": 3.5}
    family = FAMILIES["painn"]
    hyperparameters = family.hyperparameters(**small)
    for name, embedding in (("blind", "none"), ("labelled", "surrogate")):
        species = species_alphabet(rule, [8, 11, 15, 26], embedding)
        potential = family.load().build(hyperparameters, species, init="scratch", seed=1)
        potential.set_reference_energies(dict.fromkeys(species.labels, -5.0))
        card = {
            "name": name,
            "family": "painn",
            "init": "scratch",
            "hyperparameters": hyperparameters.model_dump(mode="json"),
            "species": species_to_card(species),
            "redox_embedding": embedding,
            "redox": rule.model_dump(mode="json"),
            "energy_reference": "test",
            "status": "ok",
            "training": {"steps": 0},
        }
        TrainedModel(potential, card).save(folder / name)
    return folder


def run(models, host, name, folder, *, work="work", out="out", settings=REAL, states=()):
    run_search(
        model=TrainedModel.load(models / name),
        name=name,
        host=host,
        settings=settings,
        relaxation=RELAXATION,
        stress_converged=False,
        states=states,
        seed=3,
        work=folder / work / "search",
        cache=folder / work / "relaxations",
        out=folder / out,
    )
    return folder / out


@pytest.mark.parametrize("name", ["labelled", "blind"])
def test_real_model(models, host, tmp_path, name):
    out = run(models, host, name, tmp_path)
    found = pd.read_csv(out / "found.csv")
    assert tuple(found.columns) == FOUND
    assert (found["id"] == name).all()
    charges = name == "labelled"
    assert found["state_key"].str.contains(":Fe").all() == charges
    assert found["state_key"].str.contains(":Fe").any() == charges

    unit = found[found["cell"] == "1x1x1"]
    listed = unit[unit["method"] == "enumeration"]
    assert len(listed) == (16 if charges else 7)
    assert listed["state_key"].is_unique
    # Every decoration belongs to one of the enumerated: C(4, n) of the ions, times those of the
    # electrons where these are arranged.
    decorations = {0: 1, 1: 4, 2: 6, 3: 4, 4: 1}
    per = listed.groupby("n_occupied")["degeneracy"].sum().to_dict()
    assert per == {n: count ** (2 if charges else 1) for n, count in decorations.items()}

    # Formation energies are what their definition says, from the table's own energies.
    ends = listed.set_index("n_occupied")["energy_ev"] / 4
    units = found["cell"].map({"1x1x1": 4, "1x3x1": 12})
    expected = found["energy_ev"] / units - found["x"] * ends[4] - (1 - found["x"]) * ends[0]
    # Tables keep ten digits of energies of some thousand eV: 1e-4 meV a formula unit.
    assert found["formation_mev_fu"].to_numpy() == pytest.approx(1000 * expected.to_numpy(), abs=1e-2)

    summary = json.loads((out / "summary.json").read_text())
    assert summary["charge_labelled"] == charges and summary["status"] == "ok"
    assert summary["relaxations"] == found.drop_duplicates(["cell", "state_key"]).shape[0]
    for method in ("ga", "random"):
        assert len(found[(found["cell"] == "1x3x1") & (found["method"] == method)]) == 3
    timings = json.loads((out / "timings.json").read_text())
    # Whatever can be asked for twice is answered by the cache; the end members' stop is their own.
    assert summary["relaxations"] <= timings["relaxations_made"] <= summary["relaxations"] + 2
    assert summary["relaxations_beyond_charge_orders"] == timings["relaxations_made"]

    images = read(out / "found.extxyz", ":")
    lowest = (
        found[found["formation_mev_fu"].notna()].groupby(["cell", "n_occupied"])["formation_mev_fu"].min()
    )
    assert len(images) == len(lowest)
    for atoms in images:
        states = atoms.arrays.get("oxidation_states")
        assert (states is not None) == charges
        assert host.key(host.locate(atoms, states)) == atoms.info["state_key"]
        number = int(np.count_nonzero(atoms.numbers == 11))
        energy = lowest[atoms.info["cell"], number]
        assert atoms.info["formation_mev_fu"] == pytest.approx(energy, abs=1e-6)


def hops(monkeypatch, host, key, atoms):
    """Let what starts with the ions of ``key`` end where those ``atoms`` are, far below all else."""
    from workflow_lib.simulation import relaxation

    real = relaxation.relax

    def relax(model, starts, **options):
        results = real(model, starts, **options)
        return [
            replace(result, atoms=atoms, energy=result.energy - 50.0)
            if host.key(host.locate(start, None)) == key
            else result
            for start, result in zip(starts, results, strict=True)
        ]

    monkeypatch.setattr(relaxation, "relax", relax)


def test_structure_that_became_another_arrangement_has_no_energy(models, host, tmp_path, monkeypatch):
    first, second, third = (host.key(a) for a in host.enumerate((1, 1, 1), 2, charges=False))
    hops(monkeypatch, host, first, host.build(host.parse(second)))
    unit = SearchSettings(cells=REAL.cells[:1])
    # The second call takes the relaxations from the cache.
    for out in ("o1", "o2"):
        folder = run(models, host, "blind", tmp_path, out=out, settings=unit)
        found = pd.read_csv(folder / "found.csv").set_index("state_key")
        assert (found.loc[[first], "status"] == "moved").all()
        assert found.loc[[first], ["energy_ev", "formation_mev_fu", "volume_a3"]].isna().all(axis=None)
        assert found.drop(index=first)["formation_mev_fu"].notna().all()
        lowest = read_json(folder / "summary.json")["cells"]["1x1x1"]["methods"]["enumeration"]["lowest"]
        assert lowest["2"]["key"] in (second, third)
        images = read(folder / "found.extxyz", ":")
        assert first not in [atoms.info["state_key"] for atoms in images]


def test_end_member_that_left_its_sites_leaves_no_formation_energy(models, host, tmp_path, monkeypatch):
    broken = host.build(host.parse("1x1x1:Na1111:Fe2222"))
    # Half way between the sites of the channels along b.
    broken.positions[broken.numbers == 11] += broken.cell[1] / 4
    hops(monkeypatch, host, "1x1x1:Na1111", broken)
    out = run(models, host, "labelled", tmp_path, settings=SearchSettings(cells=REAL.cells[:1]))
    found = pd.read_csv(out / "found.csv")
    assert (found.loc[found["x"] == 1, "status"] == "moved").all()
    assert found["formation_mev_fu"].isna().all()


def test_two_runs_write_the_same_bytes(models, host, tmp_path):
    first = run(models, host, "labelled", tmp_path, work="w1", out="o1")
    second = run(models, host, "labelled", tmp_path, work="w2", out="o2")
    names = sorted(path.name for path in first.iterdir())
    assert names == sorted(path.name for path in second.iterdir())
    for name in set(names) - {"timings.json", "search.sha256.json"}:  # the seal names its folder
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


@pytest.mark.parametrize("calls", [1, 2, 3])
def test_interrupted_with_a_real_model(models, host, tmp_path, monkeypatch, calls):
    """Single precision depends on what is in a batch: the rerun must form the same batches.

    Calls: enumeration, first population, offspring, random search.
    """
    from workflow_lib.simulation import relaxation

    whole = run(models, host, "labelled", tmp_path, work="w1", out="o1")
    real, made = relaxation.relax, []

    def stop(*arguments, **options):
        if len(made) == calls:
            raise KeyboardInterrupt
        made.append(1)
        return real(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(relaxation, "relax", stop)
        with pytest.raises(KeyboardInterrupt):
            run(models, host, "labelled", tmp_path, work="w2", out="o2")
    assert not (tmp_path / "o2").exists()
    again = run(models, host, "labelled", tmp_path, work="w2", out="o2")
    for path in whole.iterdir():
        if path.name not in ("timings.json", "search.sha256.json"):
            assert path.read_bytes() == (again / path.name).read_bytes(), path.name


@pytest.mark.parametrize(("name", "shared"), [("labelled", 16), ("blind", 7)])
def test_small_cell_shares_the_relaxations_of_the_charge_orders(models, host, tmp_path, name, shared):
    from workflow_lib.simulation.cache import RelaxationCache, model_identity, relax_arrangements

    model = TrainedModel.load(models / name)
    cache = RelaxationCache(tmp_path / "work/relaxations", model_identity(model))
    states = [a for n in range(5) for a in host.enumerate((1, 1, 1), n, charges=True)]
    relax_arrangements(
        model,
        host,
        states,
        polaron_distortion=RELAXATION.polaron_distortion if name == "labelled" else 0.0,
        stop=RELAXATION.stop(stress_converged=False),
        batch_size=RELAXATION.batch_size,
        cache=cache,
    )
    assert len(cache) == shared
    keys = [host.key(state) for state in states]
    out = run(models, host, name, tmp_path, states=keys)
    beyond = json.loads((out / "summary.json").read_text())["relaxations_beyond_charge_orders"]
    # Those of the large cell alone.
    assert beyond == json.loads((out / "timings.json").read_text())["relaxations_made"] > 0
    assert len(cache) == shared + beyond
    again = run(models, host, name, tmp_path, states=keys, out="again")
    assert json.loads((again / "timings.json").read_text())["relaxations_made"] == 0
    assert json.loads((again / "summary.json").read_text())["relaxations_beyond_charge_orders"] == beyond


def test_end_members_are_there_without_the_small_cell(models, host, tmp_path):
    out = run(models, host, "labelled", tmp_path, settings=SearchSettings(cells=REAL.cells[1:]))
    found = pd.read_csv(out / "found.csv")
    ends = found[found["x"].isin([0, 1])]
    assert ends["state_key"].tolist() == ["1x1x1:Na0000:Fe3333", "1x1x1:Na1111:Fe2222"]
    assert ends["formation_mev_fu"].tolist() == [0, 0]


def test_structures_of_end_members_are_those_of_their_energies(models, host, tmp_path):
    """They relax longer than others in their cell; the file held the atoms of a shorter relaxation."""
    short = CellSettings(compositions=(2,), budget=3, population=2, offspring=1, max_steps=1)
    long = REAL.cells[1].model_copy(update={"max_steps": 8, "fmax": 1e-5})
    out = run(models, host, "blind", tmp_path, settings=SearchSettings(cells=(short, long)))
    images = [atoms for atoms in read(out / "found.extxyz", ":") if atoms.info["cell"] == "1x1x1"]
    assert {0.0, 1.0} <= {atoms.info["x"] for atoms in images}
    found = TrainedModel.load(models / "blind").predict(images, batch_size=4)
    expected = [atoms.info["model_energy_ev"] for atoms in images]
    assert [item.energy for item in found] == pytest.approx(expected, abs=1e-4)
    timings = json.loads((out / "timings.json").read_text())
    summary = json.loads((out / "summary.json").read_text())
    assert summary["relaxations_beyond_charge_orders"] == timings["relaxations_made"]


def test_diverged_model_leaves_empty_columns_not_an_error(host, tmp_path):
    out = tmp_path / "out"
    search_all(
        ToyEvaluator(diverge=True), host=host, settings=SETTINGS, seed=1, owner=owner("broken"),
        work=tmp_path / "work", out=out,
    )  # fmt: skip
    found = pd.read_csv(out / "found.csv")
    assert found["formation_mev_fu"].isna().all() and (found["status"] == "diverged").all()
    assert json.loads((out / "summary.json").read_text())["status"] == "diverged"
    search_overview([out], tmp_path)
    assert pd.read_csv(tmp_path / "overview.csv")["ga_mev_fu"].isna().all()


def test_a_model_whose_training_diverged_relaxes_nothing(models, host, tmp_path):
    lost = tmp_path / "lost"
    shutil.copytree(models / "labelled", lost)
    write_json(lost / "card.json", read_json(lost / "card.json") | {"status": "diverged"})
    out = run(tmp_path, host, "lost", tmp_path)
    found = pd.read_csv(out / "found.csv")
    assert (found["status"] == "diverged").all() and found["formation_mev_fu"].isna().all()
    assert json.loads((out / "summary.json").read_text())["status"] == "diverged"
    assert json.loads((out / "timings.json").read_text())["relaxations_made"] == 0


@pytest.mark.draws
def test_history_and_overview(host, tmp_path):
    folders = []
    for name, charges in (("a-baseline-f0-s1", False), ("a-entropy-f0-s1", True)):
        folders.append(tmp_path / name)
        search_all(
            ToyEvaluator(charges), host=host, settings=SETTINGS, seed=1, owner=owner(name),
            work=tmp_path / "work", out=folders[-1],
        )  # fmt: skip
    history = pd.read_csv(folders[1] / "history.csv")
    assert tuple(history.columns) == (*MODEL, *HISTORY)
    for _, group in history.groupby(["cell", "method", "n_occupied"]):
        assert np.array_equal(group["best_mev_fu"], np.minimum.accumulate(group["formation_mev_fu"]))
    search_overview(folders, tmp_path / "all")
    overview = pd.read_csv(tmp_path / "all/overview.csv")
    assert (tmp_path / "all/overview.svg").exists() and (tmp_path / "all/overview.png").exists()
    # Both cells and each of their compositions, for two models; the small cell was enumerated.
    assert len(overview) == 2 * (3 + 4)
    unit = overview[overview["cell"] == "1x1x1"]
    # The budget is that of all arrangements there are, so nothing was searched for.
    assert unit["ga_found_ground_state"].isna().all()
    assert set(unit["ga_relaxations"]) == {5, 14}
    assert "each search relaxed" in (tmp_path / "all/overview.svg").read_text()
    assert (unit["ga_mev_fu"] - unit["enumeration_mev_fu"]).abs().max() < 1e-6
    shown = overview[overview["shown"]]
    assert shown["n_occupied"].tolist() == [8, 8] and shown["cell"].tolist() == ["1x3x1", "1x3x1"]
    row = shown.iloc[1]
    rows = history[(history["cell"] == "1x3x1") & (history["n_occupied"] == 8)]
    for method in ("ga", "random"):
        best = rows.loc[rows["method"] == method, "formation_mev_fu"].min()
        assert row[f"{method}_mev_fu"] == pytest.approx(best, abs=1e-6)
        own = rows[(rows["method"] == method) & (rows["formation_mev_fu"] == best)]
        assert row[f"{method}_relaxations_needed"] == own["evaluation"].min()
    with pytest.raises(UserError, match="no searches to show"):
        search_overview([], tmp_path)


def test_endless_enumerations_are_refused(host):
    cells = (CellSettings(repeat=(1, 3, 1), compositions=(8,), enumerate=True),)
    with pytest.raises(UserError, match=r"search.cells \(1x3x1\): enumerate would relax \d+ arrangements"):
        SearchSettings(cells=cells).check(host)


def test_missing_model_is_named(host, tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        run(tmp_path, host, "nowhere", tmp_path)
    assert not (tmp_path / "out").exists()
