"""The page to try it: what is sent to the browser, what is refused, what is taken away; and the page in Chromium."""

import base64
import json
import os
import runpy
import shutil
import time
import tomllib
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import yaml
from packaging.requirements import Requirement
from PIL import Image

from attrbind_exp import __version__
from attrbind_exp.api.load import load_segmenter
from attrbind_exp.commands import command_line
from attrbind_exp.config import CONF
from attrbind_exp.demo import command
from attrbind_exp.demo.answers import About, look, take_away
from attrbind_exp.demo.compute import (
    LEVELS,
    MOST_CHARACTERS,
    Compared,
    Seen,
    check_expression,
    heat_map,
    heat_maps,
    open_limited,
    see,
    shown_size,
    to_levels,
)
from attrbind_exp.demo.examples import EXAMPLES
from attrbind_exp.demo.files import ALL, NAMES, Choice, beside, label, repeat_command
from attrbind_exp.demo.sent import in_words, notes, to_send
from attrbind_exp.edits import Averaging, NounChunk, Variant
from attrbind_exp.heatmaps.daam import Daam
from attrbind_exp.heatmaps.diffsegmenter import DiffSegmenter
from attrbind_exp.heatmaps.segmenter import Segmenter
from attrbind_exp.types import HeatMap, UserError
from tests.accessibility import faults

TEXT, SWAPPED = EXAMPLES[2].expression, EXAMPLES[2].swapped  # a green heart below a blue one
EDITS = {"baseline": [(None, ())], "noun_chunk": [(None, (NounChunk(),))],
         "attribute_binding": [(a, (NounChunk(), Averaging(a))) for a in (0.0, 0.5, 0.9)]}  # fmt: skip
VARIANTS = [
    Variant(method, edits, alpha, heatmap)
    for method, chains in EDITS.items() for alpha, edits in chains for heatmap in ("diffsegmenter", "daam")
]  # fmt: skip
ABOUT = About("bundled", "It knows shapes.", "It knows only shapes.", ["seed=0"])
BEGIN = {"method": 2, "reading": 0, "alpha": 2, "threshold": 50}


@pytest.fixture(scope="module")
def compared(model):
    return Compared(Segmenter(model, methods={"diffsegmenter": DiffSegmenter(), "daam": Daam()}), VARIANTS, 64)


@pytest.fixture(scope="module")
def seen(compared):
    return see(compared, open_limited(str(EXAMPLES[2].path)), [TEXT, SWAPPED])


def unpacked(sent, expression=0):
    """The levels (M, H, W) that the browser unpacks."""
    levels = zlib.decompress(base64.b64decode(sent["expressions"][expression]["maps"]))
    return np.frombuffer(levels, np.uint8).reshape(-1, *sent["size"])


def test_levels_are_the_highest_that_heat_reaches():
    heat = np.array([[0.0, 0.0049, 0.005, 0.5], [0.4999, 0.9999, 1.0, 0.07]], np.float32)
    assert to_levels(heat).tolist() == [[0, 0, 1, 100], [99, 199, 200, 14]]


def test_masks_made_of_levels_are_exact_at_every_threshold():
    edges = (np.arange(101) / 100).astype(np.float32)  # and the numbers just beside them
    heat = np.concatenate([edges, np.nextafter(edges, np.float32(0)), np.nextafter(edges[:-1], np.float32(1))])
    for k in range(101):
        assert ((to_levels(heat) >= 2 * k) == HeatMap(heat).mask(k / 100)).all(), k


def test_what_is_sent_is_what_the_python_api_sees(compared, seen):
    """The same model by `load_segmenter`; rows of a pass of another size differ by rounding."""
    image = open_limited(str(EXAMPLES[2].path))
    sent = json.loads(json.dumps(to_send(compared, image, seen, None)))
    names = [m["name"] for m in sent["methods"]]
    assert names == ["baseline", "NCR", "NCR + UEA"] and sent["readings"] == ["diffsegmenter", "daam"]
    for heatmap in ("diffsegmenter", "daam"):
        api = load_segmenter(heatmap=heatmap, alpha=0.5)
        for edit, method, alpha in (("baseline", 0, None), ("ncr", 1, None), ("ncr+uea", 2, 0.5)):
            variant = sent["variants"].index([method, sent["readings"].index(heatmap), alpha])
            for n, text in enumerate((TEXT, SWAPPED)):
                levels = unpacked(sent, n)[sent["expressions"][n]["map_of_variant"][variant]]
                heat = api(image, text, edit=edit).heat_map
                assert (levels <= LEVELS * heat + 0.01).all() and (levels > LEVELS * heat - 1.01).all()


def test_a_pass_of_few_rows_makes_the_same_maps(compared, seen):
    few = Compared(compared.segmenter, VARIANTS, 3)
    again = see(few, open_limited(str(EXAMPLES[2].path)), [TEXT, SWAPPED])
    for one, other in zip(seen, again, strict=True):
        assert one.index == other.index
        np.testing.assert_allclose(one.completed, other.completed, rtol=1e-4, atol=1e-6)


def test_variants_that_share_an_embedding_are_sent_once(compared):
    plain = see(compared, open_limited(str(EXAMPLES[7].path)), ["the moon"])[0]
    heat, place = heat_maps(compared, plain, (128, 128))
    assert heat.shape == (2, 128, 128) and place == [0, 1] * 5  # a map for each reading
    assert notes(plain) == ["Nothing modifies “moon”: the edits change nothing, all maps are the baseline’s."]
    assert notes(replace(plain, index=(0, 1) * 5)) == []  # an edit without a gate acted


def test_target_and_chunk_are_marked(compared, seen):
    sent = to_send(compared, open_limited(str(EXAMPLES[2].path)), seen, None)
    first, second = sent["expressions"]
    marked = lambda e: (e["text"][slice(*e["chunk"])], e["text"][slice(*e["target"])])  # noqa: E731
    assert marked(first) == ("the green heart", "heart") and marked(second) == ("the blue heart", "heart")


def test_the_colours_are_those_of_all_our_pictures(compared, seen):
    sent = to_send(compared, open_limited(str(EXAMPLES[2].path)), seen, None)
    assert sent["heat"][:3] == [68, 1, 84] and sent["heat"][-3:] == [253, 231, 36]  # viridis
    assert len(sent["heat"]) == 3 * 201 and sent["line"] == "#d55e00"
    middle = sent["difference"][600:603]
    assert len(sent["difference"]) == 3 * 401 and max(middle) < 30  # dark where nothing differs


def test_large_pictures_are_sent_smaller():
    assert shown_size(Image.new("RGB", (128, 100))) == (100, 128)
    assert shown_size(Image.new("RGB", (1600, 800))) == (160, 320)
    assert shown_size(Image.new("RGB", (3000, 31))) == (3, 320)


def test_edits_have_the_papers_names():
    kept = (NounChunk("template"), Averaging(0.3))
    assert [in_words(Variant("x", e)) for e in ((), (Averaging(1.0),), kept)] == [
        "baseline",
        "UEA",
        "NCR with prompt + UEA",
    ]


def test_what_cannot_be_looked_at_is_said_in_words(compared, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_text("no picture")
    Image.new("1", (6000, 5000)).save(tmp_path / "large.png")
    good = str(EXAMPLES[0].path)
    for path, text, said in (
        (None, "dog", "No picture; drop one"), (str(bad), "dog", "Image 'bad.png' cannot be decoded"), (good, " ", "No expression"),
        (str(tmp_path / "large.png"), "dog", "The picture has 6000 x 5000 pixels; give one of at most 24 million."),
        (good, "x" * 201, f"The expression has 201 characters; give at most {MOST_CHARACTERS}."), (good, "?!", "names nothing"),
    ):  # fmt: skip
        sent, kept = look(compared, ABOUT, BEGIN, path, text, "")
        assert said in sent["error"] and str(tmp_path) not in sent["error"] and kept is None
    assert check_expression("  the\n red  dog ") == "the red dog"


def test_only_pictures_that_are_not_drawn_get_the_warning(compared, tmp_path):
    renamed, photo = tmp_path / "photo.jpg", tmp_path / EXAMPLES[0].name
    shutil.copy(EXAMPLES[0].path, renamed)
    Image.new("RGB", (40, 30), "green").save(photo)
    warnings = [look(compared, ABOUT, BEGIN, str(path), "the moon", "")[0]["warning"] for path in (renamed, photo)]
    assert warnings == [None, "It knows only shapes."]


def test_the_files_hold_what_was_chosen_at_the_pictures_own_size(compared, tmp_path):
    photo = tmp_path / "it's one.png"
    Image.open(EXAMPLES[2].path).resize((700, 500)).save(photo)
    _, kept = look(compared, ABOUT, BEGIN, str(photo), TEXT, SWAPPED)
    number = VARIANTS.index(next(v for v in VARIANTS if v.alpha == 0.9 and v.heatmap == "daam"))
    paths = {
        name: Path(take_away(name, compared, ABOUT, {"variant": number, "threshold": 0.3}, kept))
        for name in (*NAMES, ALL)
    }
    assert all(path.name == name for name, path in paths.items())
    with np.load(paths["heat.npz"]) as arrays:
        heats = [heat_map(compared, one, number, (500, 700)) for one in kept.seen]
        assert (arrays["heat"] == heats[0]).all() and (arrays["difference"] == heats[1] - heats[0]).all()
        assert (arrays["mask"] == (arrays["heat"] >= np.float32(0.3))).all()
        assert (np.asarray(Image.open(paths["mask.png"])) == 255 * arrays["mask"]).all()
    said = yaml.safe_load(paths["repeat.yaml"].read_text())
    assert (said["alpha"], said["reading"], said["threshold"], said["target"]) == (0.9, "daam", 0.3, "heart")
    assert "'image=it'\"'\"'s one.png'" in said["command"] and "alpha=0.9 'heatmap=[daam]'" in said["command"]
    with zipfile.ZipFile(paths[ALL]) as zipped:
        assert zipped.namelist() == [*NAMES, "it's one.png"] and zipped.read("it's one.png") == photo.read_bytes()
        assert zipped.read("mask.png") == paths["mask.png"].read_bytes()
    for wrong in (None, {"variant": 99, "threshold": 0.5}, {"variant": 0, "threshold": 2}):
        with pytest.raises(UserError, match=r"press|choose both"):
            take_away("mask.png", compared, ABOUT, wrong, kept)


def test_a_picture_that_is_called_as_a_file_of_ours_gets_another_name(compared, tmp_path):
    photo = tmp_path / "mask.png"
    shutil.copy(EXAMPLES[2].path, photo)
    _, kept = look(compared, ABOUT, BEGIN, str(photo), TEXT, "")
    with zipfile.ZipFile(take_away(ALL, compared, ABOUT, {"variant": 0, "threshold": 0.3}, kept)) as zipped:
        assert zipped.namelist() == [*NAMES, "picture_mask.png"] and len(set(zipped.namelist())) == 5
        assert zipped.read("picture_mask.png") == photo.read_bytes() != zipped.read("mask.png")
        assert yaml.safe_load(zipped.read("repeat.yaml"))["picture"] == "picture_mask.png"


def test_the_command_repeats_the_mask(compared, seen, tmp_path, monkeypatch):
    """The command segment, as repeat.yaml has it, in this process."""
    from attrbind_exp.commands import segment

    number = next(n for n, v in enumerate(VARIANTS) if v.method == "noun_chunk" and v.heatmap == "daam")
    typed = command.names_the_model(["port=7", "share=false", "seed=0", "alpha=wide", "model=bundled"])
    arguments = repeat_command(compared, str(EXAMPLES[2].path), TEXT, Choice(number, 0.62), typed)
    assert not any(a.startswith(("port", "share", "alpha=")) for a in arguments)
    monkeypatch.setattr("sys.argv", ["segment", *arguments, f"hydra.run.dir={tmp_path / 'out'}"])
    command_line.run_main(segment.check_arguments, "segment")
    mask = np.asarray(Image.open(tmp_path / "out" / "mask.png")) > 0
    assert (mask == HeatMap(heat_map(compared, seen[0], number, (128, 128))).mask(0.62)).mean() > 0.9999


def test_beside_a_map_stand_those_of_all_methods_read_like_it(compared):
    chosen = next(n for n, v in enumerate(VARIANTS) if v.alpha == 0.5 and v.heatmap == "daam")
    assert [label(compared, n) for n in beside(compared, chosen)] == ["baseline", "NCR", "NCR + UEA, alpha 0.5"]
    assert all(VARIANTS[n].heatmap == "daam" for n in beside(compared, chosen))
    assert [VARIANTS[n].alpha for n in beside(compared, 0)] == [None, None, 0.9]


def test_the_drawn_pictures_are_there_and_read_as_meant():
    assert len({e.name for e in EXAMPLES}) == 8 and all(e.path.is_file() for e in EXAMPLES)
    assert all(e.expression != e.swapped and len(e.expression) <= MOST_CHARACTERS for e in EXAMPLES)


def test_without_gradio_one_line_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    monkeypatch.setattr("sys.argv", ["demo"])
    with pytest.raises(SystemExit) as ended:
        command.start()
    error = capsys.readouterr().err
    assert (
        ended.value.code == 2 and error == f"error: {command.NO_GRADIO}\n" and "pip install 'gradio>=6.31,<7'" in error
    )


def test_the_space_calls_the_same_page(monkeypatch):
    space = CONF.parent / "space"
    if not space.is_dir():
        pytest.skip("space/ lies in a checkout alone")
    started = []
    monkeypatch.setattr("attrbind_exp.commands.start.start", started.append)
    runpy.run_path(str(space / "app.py"), run_name="__main__")
    assert started == ["demo"]
    head = yaml.safe_load((space / "README.md").read_text().split("---")[1])
    assert head["sdk"] == "gradio" and (space / head["app_file"]).is_file() and len(head["short_description"]) <= 60
    extra = tomllib.loads((space.parent / "pyproject.toml").read_text())["project"]["optional-dependencies"]["demo"]
    assert Requirement(extra[0]).specifier.contains(head["sdk_version"])
    (line,) = [
        line for line in (space / "requirements.txt").read_text().splitlines() if line.startswith("attrbind_exp")
    ]
    wanted = Requirement(line)  # the wheel beside it, as hatchling calls it
    assert wanted.extras == {"demo"} and wanted.url.endswith(f"/main/attrbind_exp-{__version__}-py3-none-any.whl")


# ---- the page in a browser ---------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def address(compared):
    pytest.importorskip("gradio", reason="Gradio is not installed: pip install 'gradio>=6.31,<7'")
    from attrbind_exp.demo import page

    made = page.make_page(compared, ABOUT, BEGIN)
    yield page.launch(made, "127.0.0.1", None, share=False, open_it=False, block=False)
    made.close()


@pytest.fixture(scope="module")
def downloads(tmp_path_factory):
    """The folder where the browser puts what it downloads."""
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def driver(tmp_path_factory, downloads):
    from tests.test_report_browser import BROWSER, DRIVER, FLAGS

    if not (BROWSER and DRIVER):
        pytest.skip("no chromium with chromedriver on this machine (Debian: chromium chromium-driver)")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    root = ["no-sandbox"] if os.geteuid() == 0 else []
    for flag in (*FLAGS, *root, f"user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(f"--{flag}")
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    made = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield made
    made.quit()


def wait_for(driver, script, seconds=60):
    """What the script gives, as soon as it is something. The server may be at work on a busy machine."""
    end = time.monotonic() + seconds
    while not (found := driver.execute_script(f"return {script}")):
        assert time.monotonic() < end, f"waited in vain for {script}"
        time.sleep(0.02)
    return found


def wait_until(there, seconds=20):
    end = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def requested(driver):
    """The addresses that the page has asked for since the last call."""
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]


def captions(driver):
    return driver.execute_script("return [...document.querySelectorAll('#v-grid .value')].map((e) => e.textContent)")


DOWNLOADS = {
    "Mask": "mask.png",
    "Heat": "heat.npz",
    "Figure": "figure.png",
    "Command": "repeat.yaml",
    "All, with": "all.zip",
}


def test_the_page_in_a_browser(address, driver, downloads, compared, seen, tmp_path):
    """Upload, type, slide, point, choose, download, on a phone's width; nothing comes from another host."""
    picture = tmp_path / "mine.jpg"
    shutil.copy(EXAMPLES[2].path, picture)
    phone = {"width": 390, "height": 900, "deviceScaleFactor": 1, "mobile": True}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    driver.get(address)
    wait_for(
        driver,
        "document.querySelector('#picture input[type=file]') && document.querySelector('#second textarea, #second input')",
    )
    driver.find_element("css selector", "#picture input[type=file]").send_keys(str(picture))
    wait_for(driver, "document.querySelector('#picture img')")
    for field, text in (("#second", SWAPPED), ("#expression", TEXT + "\n")):
        driver.find_element("css selector", f"{field} textarea, {field} input").send_keys(text)
    wait_for(driver, "document.getElementById('v-body').dataset.drawn")
    assert (
        driver.execute_script(
            "return document.querySelector('#v-words .chunk').textContent + document.querySelector('#v-words .target').textContent"
        )
        == "the green heart"
    )
    assert driver.execute_script("return document.documentElement.scrollWidth") == 390
    assert len(captions(driver)) == 2 + 3 * 2

    # The mask's share of the chosen map (NCR + UEA, diffsegmenter) is that of the very mask, before sliding and after.
    def share(alpha, threshold):
        number = next(n for n, v in enumerate(VARIANTS) if v.alpha == alpha and v.heatmap == "diffsegmenter")
        heat = heat_map(compared, seen[0], number, (128, 128))
        return f"{100 * HeatMap(heat).mask(threshold).mean():.1f} % of the picture", heat

    assert captions(driver)[1] == share(0.9, 0.5)[0]
    for slider, value in (("threshold", 37), ("alpha", 1)):
        driver.execute_script(
            "const s = document.getElementById('v-' + arguments[0]); s.value = arguments[1]; s.dispatchEvent(new Event('input'))",
            slider,
            value,
        )
    wait_for(driver, "document.getElementById('v-body').dataset.drawn.includes('\"alpha\":1,\"threshold\":37')")
    said, heat = share(0.5, 0.37)
    assert captions(driver)[1] == said != share(0.9, 0.37)[0]

    # Arrow keys show the heat of the same pixel on every map; the first press goes four pixels from the middle.
    pressed = driver.find_element("css selector", "#v-grid [aria-pressed=true]")
    pressed.send_keys("\ue014")  # right
    assert captions(driver)[0] == "x 68, y 64" and captions(driver)[6] == f"heat {to_levels(heat)[64, 68] / LEVELS:.2f}"

    # One click brings one file.
    for button, name in DOWNLOADS.items():
        driver.find_element("xpath", f"//button[contains(., '{button}')]").click()
        wait_for(driver, f"document.getElementById('v-file').textContent.startsWith('{name} is among')")
        wait_until((downloads / name).is_file)
    assert sorted(path.name for path in downloads.iterdir()) == sorted(DOWNLOADS.values())
    mask = HeatMap(heat).mask(0.37)
    assert ((np.asarray(Image.open(downloads / "mask.png")) > 0) == mask).all()
    with np.load(downloads / "heat.npz") as arrays:
        assert (arrays["heat"] == heat).all() and (arrays["mask"] == mask).all() and arrays["threshold"] == 0.37
    assert Image.open(downloads / "figure.png").width > 4 * 128
    said = yaml.safe_load((downloads / "repeat.yaml").read_text())
    assert (said["picture"], said["alpha"], said["threshold"]) == ("mine.jpg", 0.5, 0.37)
    with zipfile.ZipFile(downloads / "all.zip") as zipped:
        assert zipped.read("mine.jpg") == picture.read_bytes() and zipped.namelist()[:-1] == list(NAMES)

    hosts = {
        urlsplit(url).hostname for url in requested(driver) if urlsplit(url).scheme in ("http", "https", "ws", "wss")
    }
    assert hosts == {"127.0.0.1"}
    assert [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"] == []


# Gradio's own: its box for a picture is a button whose name ("Drop an image file here to upload") is not what is written
# on it ("Drop Image Here - or - Click to Upload"), and neither can be set.
GRADIOS_FAULTS = ("label-content-name-mismatch",)


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_serious_fault_keeps_visitors_out(address, driver, theme, width):
    """axe-core before a picture is looked at, with its maps and those of a second expression, and with an error."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    driver.get(f"{address}?__theme={theme}")
    wait_for(driver, "document.querySelector('#drawn button')")
    assert driver.execute_script("return document.body.classList.contains('dark')") == (theme == "dark")
    assert faults(driver, GRADIOS_FAULTS) == []
    driver.find_element("css selector", "#drawn button:nth-child(3)").click()
    wait_for(driver, "document.getElementById('v-body').dataset.drawn")
    driver.execute_script("document.querySelector('#viewer details').open = true")
    assert driver.execute_script("return document.getElementById('v-swap').checkVisibility()")
    assert faults(driver, GRADIOS_FAULTS) == []
    driver.execute_script("window.attrbind.complain('No expression.')")
    assert faults(driver, GRADIOS_FAULTS) == []


def test_seen_holds_a_row_for_every_variant(seen):
    assert all(isinstance(one, Seen) and max(one.index) == len(one.completed) - 1 for one in seen)
