"""The page in a real browser: what a reader sees, clicks and hears (`make test-report`)."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from page_run import MODELS
from PIL import Image

from workflow_lib.results import Run

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser
CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))),
    None,
)
# 3D without a graphics card; no sandbox because CI runs as root.
OPTIONS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
WIDTHS = {"laptop": (1366, 768), "phone": (390, 844)}
PATIENCE = 240_000  # ms; other tests may share the core


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    if CHROMIUM is None:
        pytest.fail("No Chromium on this machine: remove .venv/browser and run 'make .venv/browser'")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS, timeout=PATIENCE)
        yield browser
        browser.close()


@pytest.fixture(params=WIDTHS)
def opened(request: pytest.FixtureRequest, browser: Browser, page: Path) -> Iterator[Page]:
    """The page at one width; errors, warnings and requests fail the test that caused them."""
    width, height = WIDTHS[request.param]
    context = browser.new_context(
        viewport={"width": width, "height": height},
        has_touch=request.param == "phone",
        accept_downloads=True,
    )
    context.set_default_timeout(PATIENCE)
    tab, wrong = context.new_page(), []
    tab.on("console", lambda m: wrong.append(m.text) if m.type in ("error", "warning") else None)
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on(
        "request",
        lambda r: wrong.append(r.url) if not r.url.startswith((page.as_uri(), "data:", "blob:")) else None,
    )
    tab.goto(page.as_uri())
    yield tab
    # Hints of Chromium on the speed of plotly's and of software's drawing are no faults of the page.
    hints = ("gpu stall", "swiftshader", "willreadfrequently")
    assert [text for text in wrong if not any(hint in text.lower() for hint in hints)] == []
    context.close()


def drawn(tab: Page, chart: str) -> None:
    """Scroll to a chart and wait until it is drawn."""
    tab.locator(f'[data-chart="{chart}"]').scroll_into_view_if_needed()
    tab.wait_for_selector(f'[data-chart="{chart}"] .main-svg')


def test_the_page_is_ready_soon(opened: Page):
    # Processor time of the page's own work, which does not depend on what else the machine does.
    session = opened.context.new_cdp_session(opened)
    session.send("Performance.enable")
    session.send("Performance.disable")
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    opened.reload()
    assert opened.locator("figure.label .errors").first.is_visible()
    metrics = {item["name"]: item["value"] for item in session.send("Performance.getMetrics")["metrics"]}
    assert 0 < metrics["TaskDuration"] < 1, metrics["TaskDuration"]  # s
    assert not opened.evaluate("'Plotly' in window")  # read only when a chart needs it


def test_the_first_figure_has_the_numbers_of_the_table(opened: Page, run_folder: Path):
    table = Run(run_folder).table("comparison/contrasts").set_index(["endpoint", "model"])
    assert opened.locator("figure.label").count() == 2
    figure = opened.locator('figure.label[data-label="energy_mae_mev_atom"]')
    for model in ("mace", "painn"):
        row = table.loc[("energy_mae_mev_atom", model)]
        said = figure.locator("title", has_text=f"{model}:").text_content()
        assert f"without {row['error_without']:.1f}, with the label {row['error_with']:.1f}" in said
    figure.locator("summary").focus()
    opened.keyboard.press("Enter")
    assert figure.locator("tbody tr").first.inner_text().split()[:3] == ["mace", "7.0", "4.0"]
    with opened.expect_download() as download:
        figure.locator('[data-save="csv"]').click()
    lines = Path(download.value.path()).read_text().splitlines()
    assert lines[1] == "mace,7,4,-3,-5,-1,no: trained 1 time"
    with opened.expect_download() as download:
        figure.locator('[data-save="png"]').click()
    with Image.open(download.value.path()) as picture:
        assert picture.width == pytest.approx(2 * figure.bounding_box()["width"], abs=2)
        assert len(picture.convert("RGB").getcolors(100_000)) > 10  # not an empty one


def test_nothing_is_wider_than_the_screen(opened: Page):
    # The models of a run may have long names.
    opened.evaluate(
        "document.querySelectorAll('figure select').forEach("
        "select => select.add(new Option('chgnet-pretrained-baseline-f0-s1, energies of all frames')))"
    )
    width = opened.evaluate("document.documentElement.clientWidth")
    assert opened.evaluate("document.documentElement.scrollWidth") == width
    first = opened.locator(".verdict").bounding_box()
    assert first["y"] + first["height"] < opened.viewport_size["height"]  # on the first screen


def test_every_control_answers(opened: Page):
    for index in range(opened.locator("figure.chart").count()):
        figure = opened.locator("figure.chart").nth(index)
        drawn(opened, figure.get_attribute("data-chart"))
        select = figure.locator("select")
        if select.count():
            before = figure.locator(".main-svg").first.inner_html()
            last = select.locator("option").last.text_content()
            select.select_option(last)
            opened.wait_for_timeout(100)
            assert figure.locator(".main-svg").first.inner_html() != before
        button = figure.locator("[data-values]")
        button.click()
        assert button.get_attribute("aria-expanded") == "true"
        assert figure.locator(".values tbody tr").count() > 0
        button.click()
        assert figure.locator(".values").is_hidden()
        for kind in ("csv", "png"):
            with opened.expect_download() as download:
                figure.locator(f'[data-save="{kind}"]').click()
            assert download.value.suggested_filename.endswith(f".{kind}")
            assert Path(download.value.path()).stat().st_size > 20
    for summary in opened.locator("main summary").all():
        summary.click()
    for link in opened.locator("nav a").all():
        target = link.get_attribute("href")
        assert opened.locator(f"section{target}").count() == 1


def test_hover_and_click_show_the_numbers_of_the_tables(opened: Page, run_folder: Path):
    table = Run(run_folder).table("thermodynamics/formation")
    drawn(opened, "hull")
    row = table[(table["id"] == "mace-entropy-f0-s1") & (table["protocol"] == "distorted")]
    row = row.sort_values("formation_mev_fu").iloc[-1]  # far from all others, so that it can be pointed at
    places = """([key, source]) => {
        const plot = document.querySelector('[data-chart="hull"] .plot');
        for (const trace of plot._fullData) for (let k = 0; k < trace.x.length; k++)
            if (trace.customdata?.[k]?.[0] === key && trace.customdata[k][1] === source) {
                const box = plot.getBoundingClientRect(), { xaxis: a, yaxis: b } = plot._fullLayout;
                return [box.x + a._offset + a.l2p(trace.x[k]), box.y + b._offset + b.l2p(trace.y[k])];
            }
    }"""
    x, y = opened.evaluate(places, [f"state {row['state_key']}", row["id"]])
    opened.mouse.move(x, y)
    opened.wait_for_selector('[data-chart="hull"] .hovertext')
    said = opened.locator('[data-chart="hull"] .hovertext').first.text_content()
    assert row["state_key"].split(":")[1] in said
    assert f"formation energy {row['formation_mev_fu']:.1f}".replace("-", "-") in said.replace(
        "\N{MINUS SIGN}", "-"
    )
    opened.mouse.click(x, y)
    dialog = opened.locator("dialog#structure")
    opened.wait_for_selector("#structure-plot canvas")
    assert dialog.is_visible()
    facts = opened.locator("#structure-facts").inner_text()
    for column, digits in (("formation_mev_fu", 1), ("above_hull_mev_fu", 1), ("energy_ev", 4)):
        assert f"{row[column]:.{digits}f}" in facts
    counts = opened.evaluate(
        """() => Object.fromEntries(document.getElementById('structure-plot').data
            .filter((trace) => trace.type === 'scatter3d' && trace.mode === 'markers')
            .map((trace) => [trace.name, [trace.x.length, trace.marker.color]]))"""
    )
    # x = 1/2 in the cell of four formula units: two Na, so two Fe2+ and two Fe3+.
    assert (counts["Fe²⁺"], counts["Fe³⁺"]) == ([2, "#0072B2"], [2, "#D55E00"])
    assert counts["Na"][0] == 2 and counts["P"][0] == 4
    assert set(opened.locator("#structure-source option").all_text_contents()) == {"DFT", *MODELS}
    opened.locator("#structure-source").select_option("dft")
    assert f"{row['energy_ev']:.4f}" not in opened.locator("#structure-facts").inner_text()
    for button in dialog.locator("[data-turn], [data-zoom]").all():
        eye = "JSON.stringify(document.getElementById('structure-plot').layout.scene.camera.eye)"
        old = opened.evaluate(eye)
        button.click()
        opened.wait_for_timeout(50)
        assert opened.evaluate(eye) != old
    with opened.expect_download() as download:
        opened.locator("#structure-save").click()
    assert Path(download.value.path()).read_text().startswith("26\nLattice=")
    opened.locator("#structure-atoms summary").click()
    assert opened.locator("#structure-atoms tbody tr").count() == 26
    opened.keyboard.press("Escape")
    assert dialog.is_hidden()


def test_a_structure_opens_by_keyboard(opened: Page):
    drawn(opened, "embedding")
    opened.locator('[data-chart="embedding"] [data-values]').focus()
    opened.keyboard.press("Enter")
    opened.locator('[data-chart="embedding"] .values td button').first.focus()
    opened.keyboard.press("Enter")
    opened.wait_for_selector("#structure-plot canvas")
    near = opened.locator("#structure-near").inner_text()
    assert "Fe²⁺, marked by a ring" in near or "Fe³⁺, marked by a ring" in near
    lengths = [float(part) for part in near.split("Bonds: ")[1].split(" Å")[0].split(", ")]
    assert len(lengths) == 6 and all(1.8 < length < 2.6 for length in lengths)  # FeO6 of the olivine
    opened.keyboard.press("Escape")


def test_the_table_sorts_filters_and_downloads(opened: Page, run_folder: Path):
    table = Run(run_folder).table("comparison")
    rows = opened.locator("#comparison-table tbody tr")
    head = opened.locator("#comparison-table thead button", has_text="energy_mae_mev_atom")
    column = list(table.columns).index("energy_mae_mev_atom")
    for order, ascending in (("ascending", True), ("descending", False)):
        head.click()
        shown = [float(row.locator("th, td").nth(column).get_attribute("data-v")) for row in rows.all()]
        assert shown == sorted(table["energy_mae_mev_atom"], reverse=not ascending)
        assert opened.locator(f'#comparison-table th[aria-sort="{order}"]').count() == 1
    opened.locator('[data-filter="comparison-table"]').fill("mace entropy")
    assert rows.filter(visible=True).count() == 1
    assert opened.locator("#comparison-table-count").text_content() == "1 of 4 rows"
    with opened.expect_download() as download:
        opened.locator('[data-csv="comparison-table"]').click()
    lines = Path(download.value.path()).read_text().splitlines()
    assert lines[0].split(",") == list(table.columns)
    assert len(lines) == 2 and "mace-entropy-f0-s1" in lines[1]


def test_axe_finds_nothing(opened: Page):
    from axe_playwright_python.sync_playwright import Axe

    drawn(opened, "hull")
    opened.locator("figure.label summary").first.click()
    opened.locator('[data-chart="hull"] [data-values]').click()
    found = Axe().run(opened).response["violations"]
    assert [(item["id"], [node["target"] for node in item["nodes"]][:3]) for item in found] == []
    opened.locator('[data-chart="hull"] .values td button').first.click()
    opened.wait_for_selector("#structure-plot canvas")
    found = Axe().run(opened).response["violations"]
    assert [(item["id"], [node["target"] for node in item["nodes"]][:3]) for item in found] == []


def test_it_prints_with_every_chart(opened: Page):
    opened.evaluate("dispatchEvent(new Event('beforeprint'))")
    opened.wait_for_function(
        "[...document.querySelectorAll('figure.chart')].every((item) => item.querySelector('.main-svg'))"
    )
    assert len(opened.pdf(format="A4")) > 50_000
