"""The page of a run: computed answer, the tables' numbers, nothing of the user's text taken for markup."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from naming import naming
from page_run import HOSTILE, MODELS, configure, leave_behind
from sealed import write_sealed

from workflow_lib.core.errors import UserError
from workflow_lib.core.io import read_json, write_json
from workflow_lib.frames.frame import Frame
from workflow_lib.models.identity import VARIANTS
from workflow_lib.results import Run
from workflow_lib.stages.report import model_charts
from workflow_lib.stages.report.answer import answer_of
from workflow_lib.stages.report.charts import SYMBOLS
from workflow_lib.stages.report.energy_charts import METHODS, found_chart, hull_chart, voltage_chart
from workflow_lib.stages.report.label_charts import LEFT, MARKS, RIGHT, label_charts
from workflow_lib.stages.report.run import _elements, run_report
from workflow_lib.stages.report.sections import listing
from workflow_lib.stages.report.structures import Structures, collect

COLOURS = {"mace": "#000000", "painn": "#000000"}


class Elements(HTMLParser):
    """Every element of a page with its attributes, and the text of the page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        self._inside = tag

    def handle_data(self, data):
        if self._inside not in ("script", "style"):
            self.text += data


def test_users_text_stays_text(page: Path):
    elements = Elements(page.read_text())
    assert HOSTILE in elements.text
    images = [attributes for tag, attributes in elements.found if tag == "img"]
    assert all(str(image["src"]).startswith("data:") for image in images)
    assert not any(name.startswith("on") for _, attributes in elements.found for name in attributes)
    assert [tag for tag, _ in elements.found].count("script") == 3  # data, plotly, the page's own


def test_no_address_leaves_the_page(page: Path):
    for tag, attributes in Elements(page.read_text()).found:
        for name in ("src", "href"):
            target = attributes.get(name)
            assert target is None or target.startswith(("data:", "#")), (tag, target)
    assert page.stat().st_size < 15e6


def test_every_trace_is_one_that_plotly_knows(data: dict):
    count = 0
    for views in data["charts"].values():
        for view in views.values():
            go.Figure(view)  # raises for a property or value that plotly.js would ignore
            count += 1
    assert count > 20


def test_every_marker_draws_something() -> None:
    """Plotly draws a thin symbol as a line only, which a filled marker does not have."""
    symbols = [*SYMBOLS.values(), *METHODS.values()]
    assert not [symbol for symbol in symbols if "-thin" in symbol and not symbol.endswith("-open")]
    assert {variant.marker for variant in VARIANTS.values()} <= set(MARKS)


def test_points_of_the_hull_are_those_of_the_table(run_folder: Path, data: dict):
    table = Run(run_folder).table("thermodynamics/formation")
    view = data["charts"]["hull"]["mace"]
    for source in ("dft", "mace-baseline-f0-s1", "mace-entropy-f0-s1"):
        points = [
            (y, target[0], text)
            for trace in view["data"]
            for y, target, text in zip(
                trace["y"], trace.get("customdata", ()), trace.get("text", ()), strict=False
            )
            if target[1] == source
        ]
        rows = table[(table["id"] == source) & (table["protocol"] != "search")]
        assert len(points) == len(rows) == 16
        for energy, key, text in points:
            row = rows[rows["state_key"] == key.removeprefix("state ")].iloc[0]
            # Six significant digits of at most 1000 meV.
            assert energy == pytest.approx(row["formation_mev_fu"], abs=2e-3)
            assert f"{row['above_hull_mev_fu']:.1f} above the hull" in text
            assert f"degeneracy {row['degeneracy']:.0f}" in text


def test_a_dft_state_that_may_not_enter_the_hull_is_left_out_of_the_page(copy: Path):
    """One that did not converge has no formation energy in the tables."""
    table = Run(copy).table("thermodynamics/formation")
    lost = (table["id"] == "dft") & (table["x"] == 0.5)
    lost &= table["state_key"] == table.loc[lost, "state_key"].iloc[0]
    table.loc[lost, ["formation_mev_fu", "above_hull_mev_fu"]] = np.nan
    write_sealed("thermodynamics/formation", copy / "thermodynamics", table)
    run_report(copy, copy / "report")
    run = Run(copy)
    chart = hull_chart(run, Structures(), COLOURS)
    found = found_chart(run, Structures(), COLOURS)
    for drawn in (chart.views["mace"], found.views["mace-entropy-f0-s1"]):
        (dft,) = [trace for trace in drawn["data"] if trace["name"] == "DFT"]
        assert len(dft["y"]) == 15 and None not in dft["y"]


def test_the_hull_of_a_search_is_whole_in_its_window(copy: Path):
    """It runs through charge-ordered states too, which may lie below all that the search found."""
    hulls = Run(copy).table("thermodynamics/hull")
    rows = hulls[hulls["id"] == "mace-entropy-f0-s1"].assign(scope="searched")
    energies = rows["formation_mev_fu"].where(rows["x"].isin([0.0, 1.0]), -90.0)
    assert (energies == -90).any()
    others = hulls[(hulls["id"] != "mace-entropy-f0-s1") | (hulls["scope"] != "searched")]
    table = pd.concat([others, rows.assign(formation_mev_fu=energies)], ignore_index=True)
    write_sealed("thermodynamics/hull", copy / "thermodynamics", table)
    view = found_chart(Run(copy), Structures(), COLOURS).views["mace-entropy-f0-s1"]
    assert view["layout"]["yaxis"]["range"][0] < -90


def test_without_a_voltage_of_dft_the_page_has_no_voltages(copy: Path):
    """A potential trained elsewhere may have the metal at its level, and DFT none."""
    table = Run(copy).table("thermodynamics/voltage")
    write_sealed("thermodynamics/voltage", copy / "thermodynamics", table[table["id"] != "dft"])
    run_report(copy, copy / "report")
    assert voltage_chart(Run(copy), COLOURS) is None
    configuration = read_json(copy / "config.json")
    level = configuration["dataset"]["energy_reference"]
    for known, why in (
        ("another", f"thermodynamics.metals has no energy of Na metal at {level}"),
        (level, "DFT has no usable energy of both end members"),
    ):
        metal = {"element": "Na", "level": known, "energy_ev": -1.3, "source": "bcc"}
        write_json(copy / "config.json", configuration | {"thermodynamics": {"metals": [metal]}})
        assert f"There are no voltages: {why}." in answer_of(Run(copy)).notes


def test_states_that_trained_are_pale_in_the_hull(run_folder: Path, data: dict):
    table = Run(run_folder).table("thermodynamics/formation")
    seen = table[(table["id"] == "mace-entropy-f0-s1") & (table["protocol"] != "search")]["seen"]
    assert 0 < seen.sum() < len(seen)
    pale = [
        opacity
        for trace in data["charts"]["hull"]["mace"]["data"]
        for opacity, target in zip(
            np.atleast_1d(trace["marker"].get("opacity", 1.0)) if "marker" in trace else (),
            trace.get("customdata", ()),
            strict=False,
        )
        if target[1] == "mace-entropy-f0-s1" and opacity < 1
    ]
    assert len(pale) == seen.sum()


def test_an_interval_that_leaves_the_axis_is_cut_with_an_arrow(run_folder: Path):
    table = Run(run_folder).table("comparison/contrasts").iloc[:2]
    rows = table.assign(error_without=8.0, error_with=[8.0, 2.0], difference=[0.0, -6.0])
    # The axis ends at 1.25 times the largest error: 10.
    (chart,) = label_charts(rows.assign(low=[-4.0, -9.0], high=[1.0, 3.0]), COLOURS)
    inside, outside = chart.rows
    unit = (RIGHT - LEFT) / 10
    assert inside.interval == pytest.approx((LEFT + 4 * unit, LEFT + 9 * unit)) and inside.cut == (
        False,
        False,
    )
    assert outside.interval == (0, 100) and outside.cut == (True, True)
    assert outside.with_label == pytest.approx(LEFT + 2 * unit)
    assert [text for text, _ in outside.values] == [
        "painn",
        "8.0",
        "2.0",
        "−6.0",
        "−9.0",
        "+3.0",
        "no: trained 1 time",
    ]
    assert [text for _, text in chart.ticks] == ["0", "2", "4", "6", "8", "10"]
    (chart,) = label_charts(rows.assign(low=np.nan, high=np.nan), COLOURS)
    assert chart.rows[0].interval is None and chart.rows[0].values[4][0] == "none"


def test_tables_do_not_round_a_score_to_perfect_or_chance_to_decided():
    table = pd.DataFrame(
        {
            "states_spearman": [0.9967, 1.0],
            "p_together": [0.0496, 0.0504],
            "hull_mae_mev_fu": [0.9967, 12.34],
        }
    )
    cells = listing("t", "T", "", table).rows
    assert [[cell.text for cell in row] for row in cells] == [
        ["0.997", "0.0496", "1.0"],
        ["1", "0.0504", "12"],
    ]
    assert cells[0][0].value == "0.9967"


def test_structures_are_those_of_the_files(run_folder: Path, data: dict):
    run = Run(run_folder)
    for atoms in run.structures("charge_order/reference"):
        stored = data["structures"][f"state {atoms.info['state_key']}"]
        assert next(iter(stored)) == "dft" and set(stored) == {"dft", *MODELS}
        np.testing.assert_allclose(np.reshape(stored["dft"]["p"], (-1, 3)), atoms.positions, atol=6e-4)
        assert stored["dft"]["o"] == atoms.arrays["oxidation_states"].tolist()
    frame = run.frames()[0]
    assert data["structures"][f"frame {frame.frame_id}"]["dft"]["z"] == list(frame.numbers)


def test_the_mobile_element_of_the_pictures_is_that_of_the_host(copy: Path):
    """Na is the host's; a charge of +1 alone makes no ion mobile, and another charge none fixed."""
    for charges in ({"Na": 1, "P": 5, "O": -2}, {"Na": 2, "P": 1, "O": -2}):
        changed = read_json(copy / "config.json")
        changed["redox"]["formal_charges"] = charges
        write_json(copy / "config.json", changed)
        drawn = _elements(Run(copy), collect(Run(copy)))
        assert [entry["symbol"] for entry in drawn.values() if entry["mobile"]] == ["Na"]


def test_atoms_of_the_maps_have_the_charge_state_they_are_coloured_by(data: dict):
    view = data["charts"]["embedding"]["mace-entropy-f0-s1"]
    for trace, state in zip(view["data"], (2, 3), strict=True):
        for key, source, atom in trace["customdata"]:
            assert data["structures"][key][source]["o"][atom] == state


def test_many_models_share_the_points_of_the_maps(run_folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(model_charts, "MAP_POINTS", 40)
    chart = model_charts.embedding_chart(Run(run_folder), Structures())
    assert chart is not None and list(chart.views) == sorted(MODELS)
    counts = [sum(len(trace["x"]) for trace in view["data"]) for view in chart.views.values()]
    assert len(set(counts)) == 1 and 0 < counts[0] <= 4 * 40 / len(MODELS)  # whole frames


def test_what_an_earlier_configuration_left_is_not_on_the_page(copy: Path, page: Path, frames: list[Frame]):
    leave_behind(copy, [frame for frame in frames if frame.state_key])
    assert run_report(copy, copy / "report").read_text() == page.read_text()


def test_a_comparison_that_is_no_longer_asked_for_is_not_on_the_page(copy: Path, page: Path):
    title = "Charge orders on identical atoms"
    assert title in page.read_text()
    changed = read_json(copy / "config.json")
    changed["charge_order"]["identical_atoms"] = None
    configure(copy, changed)
    assert title not in run_report(copy, copy / "report").read_text()


def test_a_missing_bar_may_be_for_want_of_trainings(page: Path):
    assert "No bar: fewer than three trainings, or too few DFT values" in page.read_text()


def test_the_answer_of_another_run_stands_beside(copy: Path, run_folder: Path, page: Path):
    other = read_json(page.with_name("answer.json"))
    assert other["verdict"] in page.read_text()
    write_json(copy.parent / "study.json", other | {"run": "study", "verdict": f"Yes {HOSTILE}"})
    changed = read_json(copy / "config.json") | {"report": {"beside": str(copy.parent / "study.json")}}
    configure(copy, changed)
    text = Elements(run_report(copy, copy / "report").read_text()).text
    assert "Beside it: the run study" in text and f"Yes {HOSTILE}" in text
    write_json(copy.parent / "study.json", {"run": "study"})
    with pytest.raises(UserError, match=r"study\.json is no answer\.json of a report"):
        run_report(copy, copy / "report")


def test_a_stage_that_the_page_does_not_know_comes_in_with_its_figures(page: Path):
    # dataset/redox is drawn by no code of the page: its file, its caption, a section of its own.
    assert "two separate peaks mean that the assignment is safe" in page.read_text()
    assert 'id="dataset"' in page.read_text()
    for system in ("NaxFePO4", "LixFePO4"):
        assert f"(phase_diagram/{system}/fit.svg)" in page.read_text()


def test_a_run_without_a_comparison_is_no_report(tmp_path: Path):
    write_json(tmp_path / "config.json", {"run": "toy"} | naming("mace-baseline-f0-s1"))
    with pytest.raises(UserError, match="has no table comparison, comparison/contrasts; run the workflow"):
        run_report(tmp_path, tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_results_of_an_earlier_configuration_make_no_page(copy: Path):
    """A run writes its configuration first: after a kill the new one stands above the old tables."""
    before = read_json(copy / "config.json")
    write_json(copy / "config.json", before | {"training": {"epochs": 5, "max_steps": None}})
    with pytest.raises(UserError, match=r"unfinished: training\.epochs: 3, now 5; finish it: snakemake"):
        run_report(copy, copy / "report")
    (copy / "provenance.json").unlink()
    with pytest.raises(UserError, match=r"unfinished: provenance\.json is not there yet"):
        run_report(copy, copy / "report")
    assert not (copy / "report").exists()


def test_damaged_results_make_no_page(copy: Path):
    (copy / "thermodynamics/formation.csv").write_text("x\n")
    with pytest.raises(UserError, match=r"formation\.csv was changed or cut"):
        run_report(copy, copy / "report")
    assert not (copy / "report").exists()
