"""The notebook `docs/notebooks/first-look.ipynb` runs from its first cell to its last."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import nbformat
import pytest
from charge_order_toy import register, save_toy

from workflow_lib.core.io import read_json, write_json
from workflow_lib.lattice.redox import RedoxRule

NOTEBOOK = Path(__file__).parents[3] / "docs/notebooks/first-look.ipynb"
MODEL = "painn-entropy-f0-s1"


def test_every_cell_runs(
    run_folder: Path,
    rule: RedoxRule,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    register(monkeypatch)  # the toy potential in place of a trained network
    shutil.copytree(run_folder, tmp_path / "results/demo")
    toy = save_toy(tmp_path / "results/demo/training/toy-entropy-f0-s1", rule, "surrogate")
    written = tmp_path / "results/demo/config.json"
    named = read_json(written)
    named["models"].append({"name": "toy", "variants": ["entropy"]})
    write_json(written, named)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    names: dict[str, Any] = {}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not cell.outputs  # numbers of an old run would stay in it
            source = cell.source.replace(f'run.model("{MODEL}")', f'run.model("{toy.name}")')
            exec(compile(source, str(NOTEBOOK), "exec"), names)
    said = capsys.readouterr().out
    assert "1x1x1:Na1000:Fe2333" in said and "steps:" in said and "mean temperature" in said
    labels = [text.get_text() for text in names["axes"].get_legend().get_texts()]
    assert labels == ["dft", "painn-baseline-f0-s1", MODEL]
    assert len(names["temperatures"]) == 51
