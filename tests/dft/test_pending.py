"""The list of arrangements that the searches ask DFT for."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sealed import write_sealed

from workflow_lib.core.errors import UserError
from workflow_lib.core.io import write_json
from workflow_lib.lattice.arrangement import Arrangement, StateKey
from workflow_lib.results_reading import seal
from workflow_lib.stages.search.pending import COLUMNS, collect_pending

A, B, C, D, E = (
    f"1x3x1:Na{ions}:Fe{ions.replace('1', '2').replace('0', '3')}"
    for ions in ("111111110000", "111110111000", "111111100100", "111100000000", "111000100000")
)
KNOWN = ("1x1x1:Na1100:Fe2323", "1x1x1:Na1000:Fe2333")


def found(folder, model, rows):
    """The folder of one search; rows are (cell, method, key, n, sites, formation)."""
    table = pd.DataFrame(
        [
            {
                "id": model, "cell": cell, "method": method, "state_key": key, "x": n / sites,
                "n_occupied": n, "formation_mev_fu": energy,
            }
            for cell, method, key, n, sites, energy in rows
        ]
    )  # fmt: skip
    return write_sealed("search/found", folder / model, table).parent


@pytest.fixture
def reference(tmp_path):
    return known(tmp_path / "charge_order", KNOWN)


def known(folder, keys):
    """The folder of the reference, as far as the list is read: states in their smallest cells."""
    write_json(folder / "known_states.json", {"states": sorted(keys)})
    seal(folder, "charge-order-reference")
    return folder


def supercell(host, key, repeat):
    """The key of a supercell that repeats a state of the host's cell."""
    small, copies = host.parse(key), int(np.prod(repeat))
    parts = (
        tuple(s * copies + k for s in part for k in range(copies))
        for part in (small.occupied, small.reduced)
    )
    return host.key(Arrangement(repeat, *parts))


@pytest.mark.parametrize("repeat", [(1, 1, 2), (1, 2, 1), (2, 1, 1)])
def test_a_supercell_of_what_dft_has_is_not_asked_for(tmp_path, reference, host, repeat):
    cell, n = "x".join(map(str, repeat)), 4
    copy = supercell(host, KNOWN[0], repeat)
    other = supercell(host, "1x1x1:Na1010:Fe2323", repeat)
    blind = [str(StateKey.parse(key).ion_key) for key in (copy, other)]
    rows = [(cell, "ga", key, n, 8, 1.0 + k) for k, key in enumerate((copy, other, *blind))]
    table = collect_pending([found(tmp_path, "m", rows)], reference, host, tmp_path, lowest=4)
    assert set(table["state_key"]) == {other, blind[1]}


def test_a_larger_cell_that_dft_has_is_not_asked_for(tmp_path, host):
    reference = known(tmp_path / "charge_order", [*KNOWN, A])
    rows = [("1x3x1", "ga", A, 8, 12, 1.0), ("1x3x1", "ga", B, 8, 12, 2.0)]
    table = collect_pending([found(tmp_path, "m", rows)], reference, host, tmp_path)
    assert table["state_key"].tolist() == [B]


def test_lowest_of_each_composition_without_what_dft_has(tmp_path, reference, host):
    big = "1x3x1"
    one = found(
        tmp_path,
        "b-entropy",
        [
            ("1x1x1", "ga", KNOWN[0], 2, 4, 5.0),
            (big, "ga", A, 8, 12, 10.0),
            (big, "random", A, 8, 12, 10.0),  # the same, found twice
            (big, "random", B, 8, 12, 12.0),
            (big, "random", C, 8, 12, 11.0),
            (big, "ga", D, 4, 12, 40.0),
            (big, "ga", E, 4, 12, None),  # diverged
        ],
    )
    two = found(tmp_path, "a-entropy", [(big, "ga", C, 8, 12, 9.5)])
    table = collect_pending([one, two], reference, host, tmp_path, lowest=2)
    assert tuple(table.columns) == COLUMNS
    assert table[["n_occupied", "state_key"]].to_numpy().tolist() == [
        [4, D],
        [8, C],
        [8, A],
    ]
    asked = table.set_index("state_key").loc[C]
    assert asked["asked_by"] == "a-entropy;b-entropy"
    assert asked["formation_mev_fu"] == "9.500;11.000"
    assert asked["models"] == 2 and asked["charge_order"] == "given"
    written = pd.read_csv(tmp_path / "pending.csv", dtype={"formation_mev_fu": str})
    assert written["state_key"].tolist() == table["state_key"].tolist()


def test_what_dft_has_takes_no_other_arrangements_place(tmp_path, reference, host):
    """The two lowest are asked for, not the two lowest that are unknown."""
    rows = [
        ("1x1x1", "ga", KNOWN[0], 2, 4, 1.0),
        ("1x1x1", "ga", "1x1x1:Na1001:Fe2323", 2, 4, 2.0),
        ("1x1x1", "ga", "1x1x1:Na1010:Fe2323", 2, 4, 3.0),
    ]
    table = collect_pending([found(tmp_path, "m", rows)], reference, host, tmp_path, lowest=2)
    assert table["state_key"].tolist() == ["1x1x1:Na1001:Fe2323"]


def test_charge_blind_arrangements_are_open_and_known_by_their_ions(tmp_path, reference, host):
    rows = [
        ("1x1x1", "ga", "1x1x1:Na1100", 2, 4, 1.0),
        ("1x1x1", "ga", "1x1x1:Na1010", 2, 4, 2.0),
    ]
    table = collect_pending([found(tmp_path, "m", rows)], reference, host, tmp_path)
    assert table["state_key"].tolist() == ["1x1x1:Na1010"]
    assert table["charge_order"].tolist() == ["open"]


def test_nothing_pending_is_an_empty_table(tmp_path, reference, host):
    path = found(tmp_path, "m", [("1x1x1", "ga", KNOWN[0], 2, 4, 1.0)])
    assert collect_pending([path], reference, host, tmp_path).empty
    assert collect_pending([], reference, host, tmp_path).empty
    assert tuple(pd.read_csv(tmp_path / "pending.csv").columns) == COLUMNS


def test_missing_and_cut_tables_are_named(tmp_path, reference, host):
    with pytest.raises(UserError, match=r"nowhere/found.csv does not exist; make it again"):
        collect_pending([tmp_path / "nowhere"], reference, host, tmp_path)
    folder = found(tmp_path, "m", [("1x1x1", "ga", KNOWN[0], 2, 4, 1.0)])
    text = (folder / "found.csv").read_text()
    (folder / "found.csv").write_text(text[: len(text) // 2])
    with pytest.raises(UserError, match=r"found.csv was changed or cut since `search` wrote it"):
        collect_pending([folder], reference, host, tmp_path)
    assert not (tmp_path / "pending.csv").exists()
