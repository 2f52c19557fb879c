"""The documentation site: it builds strictly, asks no network for anything, and its page of keys has every key of conf/."""

import importlib.util
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from types import FunctionType

import pytest
import yaml

import attrbind_exp
from attrbind_exp import edits
from attrbind_exp.config import CONF
from tests.accessibility import faults
from tests.test_report_browser import driver, show  # noqa: F401
from tests.test_report_browser import pytestmark as needs_browser

ROOT = CONF.parent
DOCS = ROOT / "docs"
pytestmark = pytest.mark.skipif(not (ROOT / "mkdocs.yml").is_file(), reason="docs/ is not in an installed package")
BUILDERS = ("mkdocs", "material", "mkdocstrings", "latex2mathml")
# Attributes by which a browser fetches what a page shows; `href` does so in <link> alone.
FETCHED = {"src", "srcset", "poster", "data", "background"}
# Scripts of the theme that fetch something where a page has what they serve; no page has.
ASLEEP = {
    "https://unpkg.com/mermaid@11/dist/mermaid.min.js": 'class="mermaid"',
    "https://unpkg.com/resize-observer-polyfill": "a browser older than 2020",
    "https://api.github.com/": 'data-md-component="source"',
    "https://${e}/api/v4/": 'data-md-component="source"',
}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site. A dead link, a page that the navigation lacks or an unknown name fails the build."""
    if missing := [name for name in BUILDERS if importlib.util.find_spec(name) is None]:
        pytest.skip(f"{', '.join(missing)} not installed: make docs installs requirements-docs.lock")
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(
        build, cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class Fetches(HTMLParser):
    """What a page fetches, and the styles and scripts that stand in it."""

    def __init__(self):
        super().__init__()
        self.urls, self.code, self.inside = [], [], None

    def handle_starttag(self, tag, attributes):
        self.inside = tag if tag in ("style", "script") else None
        for name, value in attributes:
            link = tag == "link" and name == "href" and ("rel", "canonical") not in attributes
            if value and (name in FETCHED or link or (tag == "use" and name.endswith("href"))):
                self.urls.append(value)
            if name == "style":
                self.code.append(value)

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, text):
        if self.inside:
            self.code.append(text)


def fetched_by_code(text):
    """URLs that a style or a script fetches, as far as they are written out."""
    calls = r"(?:url|fetch|import|importScripts|\b[\w$]{1,3})\(|@import\s+|\bfrom\s*(?=[\"'])|\.(?:src|href)\s*="
    return re.findall(rf"(?:{calls})\s*[\"'`]?((?:https?:)?//[^\"'`)\s]+)", text)


def is_outside(url):
    return re.match(r"\s*(?:https?:|wss?:)?//", url) is not None


def test_the_check_finds_what_a_page_fetches():
    page = (
        '<link rel="stylesheet" href="https://a/x.css"><script src="//b/x.js"></script><img src="pic.png">'
        '<a href="https://c/">c</a><style>@import "https://d/x.css"; p {background: url(https://e/x.png)}</style>'
        '<script>fetch("https://f/x.json"); l("https://g/x.js")</script>'
    )
    found = Fetches()
    found.feed(page)
    assert [url for url in found.urls if is_outside(url)] == ["https://a/x.css", "//b/x.js"]
    assert [fetched_by_code(code) for code in found.code] == [
        ["https://d/x.css", "https://e/x.png"],
        ["https://f/x.json", "https://g/x.js"],
    ]


def test_nothing_is_fetched_from_a_network(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    outside = {}
    for page in pages:
        found = Fetches()
        found.feed(page.read_text(encoding="utf-8"))
        urls = [url for url in found.urls if is_outside(url)]
        outside[page.name] = urls + [url for code in found.code for url in fetched_by_code(code)]
    files = [file for kind in ("*.css", "*.js") for file in site.rglob(kind) if file.name != "search_index.js"]
    for file in files:
        urls = fetched_by_code(file.read_text(encoding="utf-8"))
        outside[file.name] = [url for url in urls if not url.startswith(tuple(ASLEEP))]
    assert {name: urls for name, urls in outside.items() if urls} == {}
    for sign in set(ASLEEP.values()):
        assert not any(sign in page.read_text(encoding="utf-8") for page in pages), sign


@needs_browser
def test_the_site_works_from_a_folder(site, show):  # noqa: F811
    """In a browser: nothing is asked of a server, no script complains, and the search finds a page."""
    for name in ("index.html", "method.html"):
        page = show(site / name)
        found = page.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
        assert [url for url in found if not url.startswith("file:")] == []
    page.execute_script(
        "document.querySelector('#__search').click(); const box = document.querySelector('.md-search__input');"
        "box.focus(); box.value = 'Slurm'; box.dispatchEvent(new Event('input', {bubbles: true}));"
        "box.dispatchEvent(new KeyboardEvent('keyup', {bubbles: true}))"
    )
    from selenium.webdriver.support.ui import WebDriverWait

    links = "return [...document.querySelectorAll('.md-search-result__link')].map(link => link.href)"
    hits = WebDriverWait(page, 20).until(lambda page: page.execute_script(links))
    assert any("sweeps-gpus-slurm.html" in hit for hit in hits)


@needs_browser
@pytest.mark.parametrize("scheme, width", [("default", 1280), ("slate", 390)])
def test_no_serious_fault_keeps_readers_out(site, show, scheme, width):  # noqa: F811
    """axe-core on every kind of page, light and dark; and none scrolls sideways as a whole."""
    for name in ("index", "first-steps", "results", "python-reference", "config-keys", "examples", "method"):
        page = show(site / f"{name}.html", width)
        page.execute_script(f"document.querySelector('input[data-md-color-scheme={scheme}]').click()")
        assert page.execute_script("return document.body.dataset.mdColorScheme") == scheme
        assert (name, faults(page)) == (name, [])
        assert (name, page.execute_script("return document.documentElement.scrollWidth")) == (name, width)


def test_formulas_are_drawn_without_a_script(site):
    page = (site / "method.html").read_text(encoding="utf-8")
    assert page.count('<div class="formula"><math') >= 4 and "arithmatex" not in page and "$$" not in page


def test_the_page_of_examples_holds_the_scripts(site):
    page = re.sub(r"<[^>]+>", "", (site / "examples.html").read_text(encoding="utf-8"))
    for script in (ROOT / "examples").glob("*.py"):
        assert f'"{script.stem}.png"' in page and script.read_text().splitlines()[-1].split("(")[0] in page, script


def config_keys():
    """The module docs/hooks/config_keys.py, which no package holds."""
    spec = importlib.util.spec_from_file_location("config_keys", DOCS / "hooks" / "config_keys.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def leaves(value, name=""):
    """Names of all keys of a loaded YAML file that have no keys below them, written with dots."""
    if isinstance(value, dict) and value and all(isinstance(key, str) for key in value) and "_target_" not in value:
        return [leaf for key, below in value.items() for leaf in leaves(below, f"{name}.{key}" if name else key)]
    if isinstance(value, dict) and "_target_" in value and name.count(".") < 2:
        rest = {key: below for key, below in value.items() if key != "_target_"}
        return leaves(rest, name) if rest else []
    return [name]


def test_the_page_of_keys_has_every_option_and_every_key():
    page = config_keys().all_keys()
    groups = [folder for folder in CONF.iterdir() if folder.is_dir() and folder.name != "hydra"]
    for folder in [*groups, CONF / "hydra" / "launcher"]:
        section = page.split(f"\n## {folder.name}\n" if folder.name != "alpha" else "## alpha\n")[1].split("\n## ")[0]
        for file in folder.glob("*.yaml"):
            assert file.stem == "_common" or f"| `{file.stem}`" in section, file
            loaded = yaml.safe_load(file.read_text(encoding="utf-8"))
            loaded.pop("defaults", None)
            loaded.pop("_target_", None)
            for key in loaded:
                assert f"`{folder.name}.{key}" in section, f"{key} of {file}"
    for name in ("run", "segment", "compare", "score", "parse", "doctor", "pretrain"):
        section = page.split(f"\n## Keys of {name}\n")[1].split("\n## ")[0]
        loaded = yaml.safe_load((CONF / f"{name}.yaml").read_text(encoding="utf-8"))
        kept = {key: value for key, value in loaded.items() if key not in ("hydra", "defaults")}
        for key in leaves(kept):
            assert f"| `{key}` |" in section, f"{key} of {name}.yaml"
    for file in (ROOT / "sweeps").glob("*.yaml"):
        assert f"| `{file.stem}` |" in page, file


def test_a_key_stands_with_its_value_and_its_comment(tmp_path):
    read = config_keys().read_keys
    file = tmp_path / "option.yaml"
    file.write_text(
        "# The head of the file.\n"
        "_target_: module.Class\n"
        "plain: 3        # how many\n"
        "                # and how often\n"
        "# above its key\n"
        'nested: {one: "a # b", two: [1, 2]}\n'
        "weights: {8: 1.0}  # by ratio\n"
        "methods:\n"
        "  - {name: first, edits: []}\n"
        "  - {name: second, edits: [1]}\n"
    )
    assert [tuple(key) for key in read(file)] == [
        ("plain", "3", "how many and how often"),
        ("nested.one", '"a # b"', "above its key"),
        ("nested.two", "[1, 2]", ""),
        ("weights", "{8: 1.0}", "by ratio"),
        ("methods", "first, second", ""),
    ]
    assert config_keys().head(file) == "The head of the file."


DOORS = ("backbones.backbone", "heatmaps.method", "tasks.task", "tracking.tracker", "scoring.metric")
IN_PYTHON = ("api.load", "api.segmenter", "api.result")


def public_names():
    """All that a person imports, all by which a class of one's own is written, and what can be called on each: ("Edit",
    "Edit.apply")."""
    found = [getattr(attrbind_exp, name) for name in attrbind_exp.__all__ if name != "__version__"]
    found += [getattr(edits, name) for name in edits.__all__]
    for module in [importlib.import_module(f"attrbind_exp.{name}") for name in (*DOORS, *IN_PYTHON)]:
        defined = {name: one for name, one in vars(module).items() if getattr(one, "__module__", "") == module.__name__}
        found += [
            one for name, one in defined.items() if not name.startswith("_") and isinstance(one, type | FunctionType)
        ]
    for one in found:
        yield one.__qualname__
        for base in [c for c in getattr(one, "__mro__", ()) if c.__module__.startswith("attrbind_exp.")]:
            told_of = base if base in found else one  # what a base brings that the page has stands there
            for name, value in vars(base).items():
                if isinstance(value, FunctionType | property) and value.__doc__ and not name.startswith("_"):
                    yield f"{told_of.__qualname__}.{name}"


def test_every_public_name_is_in_the_reference(site):
    names = set(public_names())
    assert {"NounChunk", "load_segmenter", "Result.show", "Comparison.save", "Tracker.close", "Observation"} < names
    there = re.findall(r'id="attrbind_exp(\.[\w.]+)"', (site / "python-reference.html").read_text())
    lacking = sorted(name for name in names if not any(anchor.endswith(f".{name}") for anchor in there))
    assert not lacking, lacking
