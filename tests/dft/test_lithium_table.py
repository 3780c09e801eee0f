"""What DFT says of LixFePO4: energies against its ends, voltage, and ends that are not at rest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from campaigns.naxfepo4_gpaw.lithium_table import write_lithium
from campaigns.naxfepo4_gpaw.states import POOR, RICH
from campaigns.naxfepo4_gpaw.tables import voltages
from workflow_lib.dft.calculation import Calculation
from workflow_lib.dft.level import EMBEDDED
from workflow_lib.dft.store import Store
from workflow_lib.lattice.host import Host

EMPTY, FULL = -180.0, -192.0
HALF = "1x1x1:Na1001:Fe2323"


def relaxation(
    store: Store, key: str, energies: list[float], *, ended: str | None = "done", orbital: str = "a"
) -> None:
    """A relaxation of a state with Li; ``ended``: how, None while it runs."""
    states = np.array([int(digit) for digit in key.split("Fe")[1]])
    calculation = Calculation(
        name=f"Li of {key}",
        group=f"Li of {key}",
        kind="lithium",
        task="cell",
        numbers=np.full(4, 26),
        positions=np.arange(12.0).reshape(4, 3),
        cell=np.eye(3) * 9.0,
        oxidation_states=states,
        orbital=orbital,
        level=EMBEDDED,
        formula_units=4,
    )
    with store.writing(calculation) as log:
        for energy in energies:
            content = {"energy": energy, "cell": calculation.cell.tolist()}
            content |= {"forces": [[0.0, 0, 0]] * 4, "stress": np.zeros((3, 3)).tolist()}
            log.frame(content | {"magmoms": [3.7] * 4})
        if ended:
            log.end(ended, None if ended == "done" else "0.2 eV/A after 6 steps")


def table(store: Store, folder: Path) -> pd.DataFrame:
    sodium = pd.DataFrame({"state_key": [POOR, HALF, RICH], "energy_ev": [EMPTY, -188.0, -196.0]})
    write_lithium(store.records(), sodium.assign(formation_mev_fu=[0.0, 5.0, 0.0]), folder)
    return pd.read_csv(folder / "lithium.csv").set_index("state")


@pytest.mark.parametrize("above", [-0.04, 0.0, 0.1])
def test_formation_energies_are_against_the_line_between_the_ends(tmp_path, above):
    store = Store(tmp_path / "store")
    relaxation(store, RICH, [FULL + 1.0, FULL])
    relaxation(store, HALF, [(EMPTY + FULL) / 2 + above])
    found = table(store, tmp_path)
    assert found.loc["Li1001:Fe2323", "formation_mev_fu"] == pytest.approx(1000 * above / 4, abs=1e-6)
    assert found.loc[["Na0000:Fe3333", "Li1111:Fe2222"], "formation_mev_fu"].tolist() == [0, 0]
    assert found.loc["Li1001:Fe2323", "sodium_formation_mev_fu"] == 5.0


def test_an_end_that_is_not_at_rest_is_none(tmp_path):
    """On its way down it would lower every other state with it."""
    store = Store(tmp_path / "store")
    relaxation(store, RICH, [FULL], ended=None)
    relaxation(store, HALF, [-186.0])
    found = table(store, tmp_path)
    assert found["formation_mev_fu"].isna().all()
    assert found.loc["Li1111:Fe2222", "energy_ev"] == FULL


@pytest.mark.parametrize("ended", ["done", "failed"])
@pytest.mark.parametrize("energies", [(-186.0, -186.1), (-186.1, -186.0)])
def test_of_a_state_the_lowest_orbital_that_ended_counts(tmp_path, energies, ended):
    """Also of those that ended without coming to rest; one that runs still stands behind them."""
    store = Store(tmp_path / "store")
    relaxation(store, RICH, [FULL])
    for orbital, energy in zip("ac", energies, strict=True):
        relaxation(store, HALF, [energy], orbital=orbital, ended=ended)
    relaxation(store, HALF, [-186.2], ended=None, orbital="b")
    row = table(store, tmp_path).loc["Li1001:Fe2323"]
    assert (row["orbital"], row["energy_ev"]) == ("ac"[int(np.argmin(energies))], -186.1)


def test_the_average_voltage_is_that_of_the_ends(host: Host):
    metal = -1.3
    states = pd.DataFrame({"x": [0.0, 0.5, 1.0], "energy_ev": [EMPTY, -186.5, FULL], "status": "done"})
    steps = voltages(states, metal, host)
    assert steps["voltage_v"].iloc[-1] == pytest.approx(-(FULL - EMPTY - 4 * metal) / 4)
    assert steps["voltage_v"].iloc[:-1].mean() == pytest.approx(steps["voltage_v"].iloc[-1])
    running = states.assign(status=["done", "interrupted", "done"])
    assert len(voltages(running, metal, host)) == 1
