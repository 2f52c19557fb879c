"""report.html in headless Chromium: sorting, filtering, sliders, curves, themes, a phone's width. Any error of its script,
and anything that its security policy had to block, fails the test."""

import os
import shutil
from pathlib import Path

import pytest

from attrbind_exp.reporting.maps import Swatch
from attrbind_exp.reporting.write import make_report
from tests.accessibility import faults
from tests.test_report import BASE, HOSTILE, OURS, draw, hostile, write_run  # noqa: F401

DRIVER = shutil.which("chromedriver")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(
    not (DRIVER and BROWSER), reason="no chromium with chromedriver on this machine (Debian: chromium chromium-driver)"
)
FLAGS = (
    "headless=new", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
    "disable-component-update", "disable-sync", "hide-scrollbars", "window-size=1200,900",
    "blink-settings=preferredColorScheme=1",
)  # fmt: skip


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in (
        *FLAGS,
        *(["no-sandbox"] if os.geteuid() == 0 else []),
        f"user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    made = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield made
    made.quit()


@pytest.fixture
def show(driver):
    """Opens a report; what the browser complains of until the end of the test fails it."""

    def opened(report: Path, width: int = 1200):
        phone = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
        driver.get(report.as_uri())
        return driver

    driver.get_log("browser")
    yield opened
    assert driver.get_log("browser") == []


def run(driver, script):
    return driver.execute_script(f"return {script}")


def choose(driver, select, value):
    """Choose an option as a hand does: by what it says."""
    said = run(driver, f"""[...document.getElementById('{select}').options].map((o) => o.textContent)""")
    number = next(i for i, text in enumerate(said) if text.startswith(value))
    driver.execute_script(
        "const s = document.getElementById(arguments[0]); s.selectedIndex = arguments[1];"
        "for (const e of ['input', 'change']) s.dispatchEvent(new Event(e, { bubbles: true }))", select, number,
    )  # fmt: skip


def table(driver):
    return run(
        driver, "[...document.querySelectorAll('#rows tbody tr')].map((r) => [...r.cells].map((c) => c.textContent))"
    )


def click(driver, selector):
    run(driver, f"document.querySelector({selector!r}).click()")


@pytest.fixture
def sweep(tmp_path):
    """Two splits, four variants, pictures of two expressions."""
    alphas = [("attribute_binding", a) for a in (0.1, 0.5, 0.9)]
    texts = ["white dog", "black dog", "Red Hat", "children in red"]
    for split, gain in (("val", 1), ("test", 2)):
        ious = {BASE: [10, 20, 30, 40], **{a: [10 + gain * k, 20, 30, 40 - k] for k, a in enumerate(alphas, 1)}}
        made = write_run(tmp_path / split, ious, split=split, texts=texts, dataset=f"refcoco {split}")
        draw(made, "gallery", 0, "s1")
        draw(made, "improved", 0, "s0")
    return make_report(tmp_path)


def test_rows_sort_by_every_column(show, sweep):
    driver = show(sweep)
    assert [r[3] for r in table(driver)] == ["+6.0", "0.0", "0.0", "-3.0"]  # most improved first
    click(driver, "[data-sort=change]")
    assert table(driver)[0][:4] == ["children in red", "40.0", "37.0", "-3.0"]
    click(driver, "[data-sort=text]")
    assert [r[0] for r in table(driver)] == ["black dog", "children in red", "Red Hat", "white dog"]
    assert run(driver, "document.querySelector('[data-sort=text]').parentElement.ariaSort") == "ascending"
    click(driver, "[data-sort=text]")
    assert table(driver)[0][0] == "white dog"
    choose(driver, "second", "attribute_binding alpha=0.5")
    assert table(driver)[0][:4] == ["white dog", "10.0", "14.0", "+4.0"]


def test_rows_filter_by_slice_and_text(show, sweep):
    driver = show(sweep)
    choose(driver, "slice", "kind=odd")
    assert {r[0] for r in table(driver)} == {"black dog", "children in red"}
    driver.find_element("id", "text").send_keys("RED")
    assert [r[0] for r in table(driver)] == ["children in red"]
    assert "1 of 4 expressions. Their mean IoU: 40.0 to 37.0." in run(
        driver, "document.getElementById('count').textContent"
    )
    driver.find_element("id", "text").send_keys("no such thing")
    assert table(driver) == []


def test_the_choice_of_data_reaches_every_section(show, sweep):
    driver = show(sweep)
    visible = "[...document.querySelectorAll('[data-group]')].map((d) => !d.hidden)"
    assert run(driver, visible) == [False, True]  # the last split first: thresholds come from the other
    choose(driver, "group", "refcoco val")
    assert run(driver, visible) == [True, False] and table(driver)[0][3] == "+3.0"
    assert run(driver, "document.querySelector('.of-group').textContent") == "refcoco val, attribute_binding"
    assert run(driver, "document.getElementById('one-threshold').textContent") == "the threshold 0.30"


def test_the_slider_moves_between_the_chosen_pictures(show, sweep):
    driver = show(sweep)
    assert run(driver, "document.querySelectorAll('.card').length") == 2
    choose(driver, "which", "most improved")
    assert run(driver, "[...document.querySelectorAll('.card p')].map((p) => p.textContent)") == [
        "white dog",
        "IoU 10.0 to 16.0",
    ]
    choose(driver, "left", "image")
    assert run(driver, "[...document.querySelectorAll('.names span')].map((s) => s.textContent)") == [
        "image",
        OURS_LABEL,
    ]
    clip = "getComputedStyle(document.querySelectorAll('.stage img')[1]).clipPath"
    before = run(driver, clip)
    driver.execute_script("document.querySelector('.stage').scrollIntoView({ block: 'center' })")
    from selenium.webdriver import ActionChains

    stage = driver.find_element("css selector", ".stage input")
    ActionChains(driver).move_to_element(stage).click_and_hold().move_by_offset(-60, 0).release().perform()
    assert run(driver, "Number(document.querySelector('.stage input').value)") < 40
    assert run(driver, clip) != before
    assert run(driver, "[...document.querySelectorAll('.stage img')].every((i) => i.complete && i.naturalWidth > 0)")


def test_a_picture_says_its_thresholds_and_classes(show, tmp_path):
    folder = write_run(tmp_path / "run", {BASE: [10, 20], OURS: [20, 20]})
    at = {"baseline": 0.5, OURS_LABEL: 0.35}  # both were scored at 0.5
    draw(folder, "gallery", 0, "s0", thresholds=at, swatches=(Swatch("ring", (230, 159, 0)),))
    driver = show(make_report(folder))
    said = "[...document.querySelectorAll('.card .names span, .card p, .card .swatch')].map((s) => s.textContent)"
    assert run(driver, said) == [
        "baseline, threshold\u00a00.50", f"{OURS_LABEL}, threshold\u00a00.35",
        "expression 0", "IoU 10.0 to 20.0, both at 0.30", "ring",
    ]  # fmt: skip
    assert run(driver, "getComputedStyle(document.querySelector('.swatch i')).backgroundColor") == "rgb(230, 159, 0)"


OURS_LABEL = f"{OURS[0]} alpha={OURS[1]}"


def test_curves_show_ours_and_the_papers(show, sweep):
    driver = show(sweep)
    legend = "[...document.querySelectorAll('#alpha-chart .legend button')].map((b) => b.textContent)"
    assert run(driver, legend) == [
        "refcoco val", "baseline, refcoco val", "refcoco test", "baseline, refcoco test", "the paper (Stable Diffusion 1.5, RefCOCO)",
    ]  # fmt: skip
    assert run(driver, "document.querySelectorAll('#alpha-chart circle').length") == 3 + 3 + 9
    dashes = (
        "[...document.querySelectorAll('#alpha-chart .legend line')].map((l) => l.getAttribute('stroke-dasharray'))"
    )
    val, _, test, _, paper = run(driver, dashes)
    assert len({val, test, paper}) == 3, "lines can be told apart without colours"
    click(driver, "#alpha-chart .legend button")
    assert run(driver, "document.querySelectorAll('#alpha-chart circle').length") == 3 + 9
    click(driver, "#alpha-difference")
    assert run(driver, legend)[2] == "baseline" and not run(driver, "document.getElementById('alpha-note').hidden")
    driver.execute_script("document.getElementById('threshold-chart').scrollIntoView({ block: 'center' })")
    from selenium.webdriver import ActionChains

    ActionChains(driver).move_to_element(driver.find_element("css selector", "#threshold-chart svg")).perform()
    tip = run(driver, "[...document.querySelectorAll('#threshold-chart .tip span')].map((s) => s.textContent)")
    assert tip[:2] == ["alpha=0.9", "25.8"] and len(tip) == 8


@pytest.mark.parametrize("width", [390, 1200])
def test_the_page_never_scrolls_sideways(show, sweep, width):
    driver = show(sweep, width)
    assert run(driver, "document.documentElement.scrollWidth") == width
    assert (
        run(driver, "getComputedStyle(document.querySelector('.figures td:nth-child(2)')).fontVariantNumeric")
        == "tabular-nums"
    )


def test_light_and_dark(show, sweep):
    driver = show(sweep)
    colour = "getComputedStyle(document.body).backgroundColor"
    assert run(driver, colour) == "rgb(255, 255, 255)"
    click(driver, "#theme")
    assert run(driver, colour) == "rgb(20, 23, 27)"
    driver.refresh()
    assert run(driver, colour) == "rgb(20, 23, 27)"  # kept
    click(driver, "#theme")
    assert run(driver, colour) == "rgb(255, 255, 255)"


def test_long_names_of_variants_break_between_their_words(show, sweep):
    driver = show(sweep, 390)
    name = "document.querySelector('#results tbody tr:nth-child(3) th[scope=row]')"
    assert run(driver, f"{name}.textContent").startswith("attribute_binding alpha=")
    assert run(driver, f"{name}.innerHTML").startswith("attribute_<wbr>binding alpha=")


@pytest.mark.parametrize("width", [390, 1200])
def test_no_serious_fault_keeps_anyone_out(show, sweep, width):
    """axe-core on the page and on an expression's view, light and dark."""
    driver = show(sweep, width)
    for _ in ("light", "dark"):
        assert faults(driver) == []
        click(driver, "#rows tbody tr:nth-child(1) a")
        assert faults(driver) == []
        click(driver, "#view-close")
        click(driver, "#theme")


def test_axe_finds_a_fault(show, sweep):
    driver = show(sweep)
    driver.execute_script("document.body.append(Object.assign(document.createElement('img'), { src: 'data:,' }))")
    assert [fault.partition(" ")[0] for fault in faults(driver)] == ["image-alt"]


def test_more_rows_come_on_demand(show, tmp_path):
    folder = write_run(tmp_path / "run", {BASE: [10] * 150, OURS: [20] * 150})
    driver = show(make_report(folder))
    assert len(table(driver)) == 100
    click(driver, "#more")
    assert len(table(driver)) == 150 and run(driver, "document.getElementById('more').hidden")


def test_hostile_text_stays_text(show, hostile):  # noqa: F811
    driver = show(make_report(hostile))
    assert driver.title.endswith("· attrbind_exp") and "hacked'> & {{ 7 * 7 }}" in driver.title
    assert run(driver, "document.querySelectorAll('img:not(.stage img)').length + document.scripts.length") == 2
    shown = "return [...document.querySelectorAll('#rows tbody td:first-child')].some((d) => d.textContent === arguments[0])"
    assert driver.execute_script(shown, HOSTILE)  # compared there: half a surrogate pair cannot be handed over
    choose(driver, "right", HOSTILE)
    assert run(driver, "document.querySelectorAll('.names span')[1].textContent") == HOSTILE
    assert run(driver, "document.documentElement.scrollWidth") == 1200


def test_a_sweep_without_a_finished_run_has_a_page(show, tmp_path):
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "expressions.jsonl").write_text("{}\n")
    driver = show(make_report(tmp_path))
    assert "not finished" in run(driver, "document.body.innerText")


def test_pictures_filter_by_slice_and_by_gain_or_loss(show, sweep, tmp_path):
    draw(tmp_path / "test", "harmed", 0, "s3")  # "children in red": 40 to 37
    driver = show(make_report(tmp_path))
    said = "[...document.querySelectorAll('.card p:nth-of-type(1)')].map((p) => p.textContent)"
    choose(driver, "picture-change", "gains")
    assert run(driver, said) == ["white dog"]
    choose(driver, "picture-change", "losses")
    assert run(driver, said) == ["children in red"]
    choose(driver, "picture-change", "no change")
    assert run(driver, said) == ["black dog"]
    choose(driver, "picture-change", "all")
    choose(driver, "picture-slice", "kind=odd")
    assert sorted(run(driver, said)) == ["black dog", "children in red"]
    assert run(driver, "document.getElementById('pictures-count').textContent") == "2 of 3 are shown."
    choose(driver, "left", "image")
    choose(driver, "picture-change", "gains")
    assert run(driver, said) == [], "a picture has no IoU"


def test_everything_can_be_reached_by_keyboard_and_has_a_name(show, sweep):
    driver = show(sweep, 390)
    controls = (
        "[...document.querySelectorAll('a, button, select, input, summary, .box')].filter((e) => e.checkVisibility())"
    )
    assert run(driver, f"{controls}.filter((e) => e.tabIndex < 0).length") == 0
    nameless = (
        f"{controls}.filter((e) => !(e.ariaLabel || e.textContent.trim() || e.labels?.length)).map((e) => e.outerHTML)"
    )
    assert run(driver, nameless) == []
    driver.execute_script("document.querySelector('[data-sort=target]').focus({ focusVisible: true })")
    assert run(driver, "getComputedStyle(document.activeElement).outlineStyle") == "solid"
    from selenium.webdriver import ActionChains

    ActionChains(driver).send_keys("\ue007").perform()  # Enter
    assert run(driver, "document.querySelector('[data-sort=target]').parentElement.ariaSort") == "ascending"


def test_tables_pictures_and_parts_are_named_for_screen_readers(show, sweep):
    driver = show(sweep)
    count = "document.querySelectorAll({!r}).length".format
    assert run(driver, count("main, header, nav[aria-label]")) == 3 and run(driver, count("h1")) == 1
    assert run(driver, count("main > section:not([aria-label], [aria-labelledby])")) == 0
    assert run(driver, "[...document.querySelectorAll('table')].filter((t) => !t.caption?.textContent).length") == 0
    assert run(driver, count("th:not([scope])")) == 0 and run(driver, count("#results tbody th[scope=row]")) == 8
    alts = run(driver, "[...document.images].map((i) => i.alt)")
    assert f"{OURS_LABEL}: white dog" in alts and len(set(alts)) == len(alts) == 4
    chart = run(driver, "document.querySelector('#threshold-chart svg').ariaLabel")
    assert "baseline: highest 25.0 at 0; " in chart


def test_on_paper_there_are_all_figures_and_no_controls(show, sweep):
    driver = show(sweep)
    click(driver, "#theme")  # dark, which paper is not
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 718, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
    )
    try:
        assert run(driver, "[...document.querySelectorAll('button, select, input, nav')].filter((e) => e.checkVisibility()"
                           " && !e.closest('th, .legend')).length") == 0  # fmt: skip
        assert run(driver, "getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert run(driver, "[...document.querySelectorAll('.of')].every((part) => part.checkVisibility())")
        assert run(driver, "document.documentElement.scrollWidth") <= 718
        whole = "[...document.querySelectorAll('.stage img')].every((i) => getComputedStyle(i).clipPath === 'none')"
        assert run(driver, whole)
    finally:
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
        click(driver, "#theme")


VIEW = "[...document.querySelectorAll('#view tbody tr')].map((r) => [...r.cells].map((c) => c.textContent))"


def test_one_click_opens_an_expression_with_all_its_maps(show, sweep):
    driver = show(sweep)
    click(driver, "#rows tbody tr:nth-child(1) a")
    assert run(driver, "document.getElementById('view').open")
    assert run(driver, "document.getElementById('view-title').textContent") == "white dog"
    figures = [["10.0", ""], ["12.0", "+2.0"], ["14.0", "+4.0"], ["16.0", "+6.0"]]
    assert [row[1:] for row in run(driver, VIEW)] == figures
    said = run(driver, "[...document.querySelectorAll('#view-maps figcaption')].map((c) => c.textContent)")
    assert said == ["image", "baseline", OURS_LABEL]
    assert run(driver, "document.getElementById('view-iou').textContent") == "IoU, % at 0.30"
    assert run(driver, "[...document.querySelectorAll('#view-maps img')].every((i) => i.naturalWidth > 0)")
    assert run(driver, "document.querySelector('#view .key').checkVisibility()")  # one scale for all
    address = driver.current_url
    told = "document.getElementById('view').addEventListener('close', arguments[0], { once: true })"
    driver.execute_async_script(
        f"{told}; document.querySelector('#view-close').click()"
    )  # after the click, at times long
    assert run(driver, "location.hash") == "#expressions" and not run(driver, "document.getElementById('view').open")
    driver.get(address)  # a link that was kept
    driver.refresh()
    assert run(driver, "document.getElementById('view').open")
    assert run(driver, "document.documentElement.scrollWidth") == 1200


def test_an_expression_without_maps_names_the_command_that_draws_them(show, tmp_path):
    texts = ["the dog's bowl", "white dog"]
    typed = [
        "dataset=drawn",
        "model=sdxl",
        "alpha=0.9",
        "text_processor=ablation",
        "text_processor.overrides=x.csv",
        "seed=3",
    ]
    folder = write_run(tmp_path / "run", {BASE: [10, 20], OURS: [20, 20]}, texts=texts, overrides=typed)
    driver = show(make_report(folder), 390)
    click(driver, "#rows tbody tr:nth-child(1) a")
    assert not run(driver, "document.getElementById('view-drawn').checkVisibility()")
    command = "attrbind segment image=PICTURE expression='the dog'\\''s bowl' model=sdxl alpha=0.9 text_processor=ablation seed=3"
    assert run(driver, "document.querySelector('#view-draw pre').textContent") == f"{command} threshold=0.30"
    assert "image i0 in place" in run(driver, "document.querySelector('#view-draw p').textContent")
    assert run(driver, "document.querySelector('#view').scrollWidth") <= 390


def test_maps_that_the_page_has_no_room_for_are_linked(show, tmp_path, monkeypatch):
    monkeypatch.setattr("attrbind_exp.reporting.html.page.PICTURES", 1)
    folder = write_run(tmp_path / "a run", {BASE: [10, 20, 30], OURS: [20, 20, 36]})
    for number in range(2):
        draw(folder, "gallery", number, f"s{number}")
    driver = show(make_report(tmp_path))
    assert run(driver, "document.querySelectorAll('.card').length") == 1
    assert run(driver, "document.querySelectorAll('#rows .drawn').length") == 2 and len(table(driver)) == 3
    choose(driver, "drawn", "drawn")
    assert [row[6] for row in table(driver)] == ["s0", "s1"]
    click(driver, "#rows tbody tr:nth-child(2) a")
    href = run(driver, "document.querySelector('#view-beside a').href")
    assert href == (folder / "gallery" / "gallery_001.png").as_uri()


def test_classes_keep_their_colours_in_the_view(show, tmp_path):
    folder = write_run(tmp_path / "run", {BASE: [10, 20], OURS: [20, 20]})
    draw(folder, "gallery", 0, "s0", swatches=(Swatch("ring", (230, 159, 0)),))
    driver = show(make_report(folder))
    click(driver, ".card a")
    assert run(driver, "document.querySelector('#view-classes').textContent") == "ring"
    colour = "getComputedStyle(document.querySelector('#view-classes i')).backgroundColor"
    assert run(driver, colour) == "rgb(230, 159, 0)"
