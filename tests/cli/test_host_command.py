"""``workflow-lib host``: from a crystal file to a host that a run can use, or one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase.io import write

from workflow_lib.__main__ import main
from workflow_lib.lattice.host import Host
from workflow_lib.lattice.redox import RedoxRule


@pytest.fixture
def cif(host: Host, tmp_path: Path) -> Path:
    write(tmp_path / "full.cif", host.full_cell(1.0))
    return tmp_path / "full.cif"


def call(cif: Path, *more: str) -> int:
    out = cif.parent / "h.json"
    return main(["host", str(cif), "--mobile", "Na", "--redox", "Fe", "--out", str(out), *more])


def test_a_cif_becomes_a_host(cif: Path, rule: RedoxRule, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(cif) == 0
    said = capsys.readouterr().out
    assert "NaFePO4 (Pnma, 28 atoms): made from full.cif" in said and "give --empty" in said
    made = Host.load(cif.parent / "h.json", rule)
    assert (made.formula_units, made.space_group) == (4, "Pnma")
    assert np.array_equal(made.cell_full, made.cell_empty)


def test_the_empty_end_gives_the_other_cell(
    cif: Path, host: Host, rule: RedoxRule, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = host.full_cell(0.0)
    write(cif.parent / "POSCAR", empty[[atom.symbol != "Na" for atom in empty]], format="vasp")
    assert call(cif, "--empty", str(cif.parent / "POSCAR"), "--name", "mine") == 0
    assert capsys.readouterr().out.startswith("mine: made from full.cif and POSCAR")
    made = Host.load(cif.parent / "h.json", rule)
    assert made.name == "mine"
    np.testing.assert_allclose(made.cell_empty, host.cell_empty, atol=1e-4)  # digits of the files
    np.testing.assert_allclose(made.cell_full, host.cell_full, atol=1e-4)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--mobile", "Nb"], "must hold Nb and Fe"),
        (["--redox", "Fee"], "no element 'Fee'"),
        (["--states", "3", "2"], "from the lower to the higher state"),
        (["--states", "2", "ten"], "'ten' is not a valid integer"),
        (["--tolerance", "nan"], "not a finite number above zero"),
        (["--empty", "none.cif"], "none.cif does not exist"),
    ],
)
def test_what_makes_no_host_is_one_line_and_no_file(
    cif: Path, more: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(cif, *more) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1
    assert not (cif.parent / "h.json").exists()


def test_partial_occupancies_are_refused_by_name(cif: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = cif.read_text().splitlines()
    rows = [number for number, line in enumerate(lines) if line.split()[:1] == ["Na"] and "1.0" in line]
    assert rows
    lines[rows[0]] = lines[rows[0]].replace("1.0000", "0.5000", 1)
    cif.write_text("\n".join(lines))
    assert call(cif) == 2
    said = capsys.readouterr().err
    assert "partially occupied" in said and "Na" in said and said.count("\n") == 1
