"""notebooks/: their code runs here as one script, what they keep is what they give, and their files make a run."""

import asyncio
import base64
import importlib.util
import json
import re
import shlex
from io import BytesIO

import pytest
from PIL import Image

from attrbind_exp.config import CONF
from tests.test_pages import start  # noqa: F401

FOLDER = CONF.parent / "notebooks"
NAMES = [file.stem for file in sorted(FOLDER.glob("*.ipynb"))]
pytestmark = pytest.mark.skipif(not NAMES, reason="notebooks/ is not in an installed package")


def cells(name, kind):
    """The cells of one kind of a notebook; source and text are one string each."""
    found = [cell for cell in json.loads((FOLDER / f"{name}.ipynb").read_text())["cells"] if cell["cell_type"] == kind]
    return [cell | {"source": "".join(cell["source"])} for cell in found]


def outputs(name):
    return [output for cell in cells(name, "code") for output in cell["outputs"]]


def kept_text(name):
    """What the cells printed."""
    return "".join("".join(output["text"]) for output in outputs(name) if output["output_type"] == "stream")


def shown(name):
    """The pictures that stand in a notebook."""
    return [
        base64.b64decode(output["data"]["image/png"])
        for output in outputs(name)
        if "image/png" in output.get("data", {})
    ]


def run(name, start, folder, further=""):  # noqa: F811
    """What the code cells print as one script, and what `further` prints after them."""
    printed, code = folder / "printed.txt", "\n".join(cell["source"] for cell in cells(name, "code"))
    said = f"import warnings\nwarnings.simplefilter('error', UserWarning)\n{code}\nprint('AFTER')\n{further}"
    assert start("script", said, [], folder, printed) == 0, printed.read_text()
    return printed.read_text().split("AFTER\n")


def test_the_method_ends_at_the_heat_map_of_the_one_line(tmp_path, start):  # noqa: F811
    """Equations 3 and 4 by hand are the classes' to the last bit or nearly, and so is the heat map; only the edited
    mask has the red heart alone."""
    further = (
        "print(float((edited.embedding(1).keys - after_4).abs().max()), float(abs(edited_heat - result.heat_map).max()))\n"
        "print([bool(heat[30, 35] >= 0.5) for heat in (plain_heat, edited_heat)])\n"  # on the white heart
        "print([bool(heat[90, 95] >= 0.5) for heat in (plain_heat, edited_heat)])"  # on the red one
    )
    printed, after = run("method_in_one_picture", start, tmp_path, further)
    assert kept_text("method_in_one_picture") in printed
    errors, white, red = after.splitlines()
    assert all(float(error) < 1e-5 for error in errors.split())
    assert (white, red) == ("[True, False]", "[True, True]")


def test_the_ablation_gives_the_table_that_it_keeps(tmp_path, start):  # noqa: F811
    further = (
        "import json, numpy as np\n"
        "truth = decode_mask(sample.segmentation, sample.size)\n"
        "at = figures[0].threshold\n"
        "iou = lambda heat: 100 * ((heat >= np.float32(at)) & truth).sum() / ((heat >= np.float32(at)) | truth).sum()\n"
        "print(json.dumps({'mIoU': {f.label: f.mIoU for f in figures}, 'gain': gain.max(), 'drawn': iou(heats[1]) - iou(heats[0])}))"
    )
    printed, after = run("your_own_ablation", start, tmp_path, further)
    assert kept_text("your_own_ablation") in printed
    found = json.loads(after)
    given = [
        "".join(o["data"]["text/plain"]) for o in outputs("your_own_ablation") if o["output_type"] == "execute_result"
    ]
    (table,) = [text for text in given if "mIoU" in text]
    kept = dict(re.findall(r"^(\w+(?: alpha=\S+)?) +(\d+\.\d) ", table, re.MULTILINE))
    assert list(kept) == list(found["mIoU"])
    assert all(abs(float(kept[label]) - mIoU) < 0.2 for label, mIoU in found["mIoU"].items())
    assert found["gain"] == pytest.approx(found["drawn"], abs=1)  # the picture is of the very map that was scored


def test_the_cell_and_the_yaml_of_the_ablation_are_an_option(tmp_path, start):  # noqa: F811
    """The class as it stands, in a file; the YAML and the command as the text has them, on two expressions."""
    (code,) = [cell["source"] for cell in cells("your_own_ablation", "code") if "class CleanNoun" in cell["source"]]
    text = "\n".join(cell["source"] for cell in cells("your_own_ablation", "markdown"))
    (yaml,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    (tmp_path / "mine" / "text_processor").mkdir(parents=True)
    (tmp_path / "mine" / "clean_noun.py").write_text(code)
    (tmp_path / "mine" / "text_processor" / "clean_noun.yaml").write_text(yaml)
    first, second = (shlex.split(line) for line in re.findall(r"```bash\n(.*?)\n```", text))
    assert first[:2] == second[:2] == ["attrbind", "run"]
    few = ["dataset.limit=2", "gallery=0", "changed=0"]
    printed = tmp_path / "printed.txt"
    assert start("module", "attrbind_exp.run", first[2:] + few, tmp_path, printed) == 0, printed.read_text()
    summary = json.loads((tmp_path / "out" / "clean_noun" / "summary.json").read_text())
    assert [v["label"] for v in summary["variants"]] == ["baseline", "clean_noun alpha=0", "text_blind"]
    assert start("module", "attrbind_exp.run", [*second[2:], "--cfg", "job"], tmp_path, printed) == 0, (
        printed.read_text()
    )


@pytest.mark.parametrize("name", NAMES)
def test_what_a_notebook_keeps_is_small_and_of_no_machine(name):
    file = FOLDER / f"{name}.ipynb"
    assert file.stat().st_size < 400_000
    assert [cell["execution_count"] for cell in cells(name, "code")] == [*range(1, len(cells(name, "code")) + 1)]
    assert {output["output_type"] for output in outputs(name)} <= {"stream", "display_data", "execute_result"}
    assert not any(output.get("name") == "stderr" for output in outputs(name))
    said = [
        text for output in outputs(name) for kind, text in output.get("data", {}).items() if kind.startswith("text/")
    ]
    assert not re.search(
        r"/(?:home|tmp|root|Users|site-packages)/| at 0x[0-9a-f]+", kept_text(name) + "".join(map("".join, said))
    )
    for picture in shown(name):
        with Image.open(BytesIO(picture)) as image:
            assert image.mode == "P"


@pytest.mark.parametrize("name", NAMES)
def test_links_of_a_notebook_lead_to_files(name):
    text = "\n".join(cell["source"] for cell in cells(name, "markdown"))
    for link in re.findall(r"\]\(([^)]+)\)", text):
        path, _, title = link.partition("#")
        assert (FOLDER / path).exists(), link
        assert not title or re.search(rf"^## {title.replace('-', ' ')}$", text, re.MULTILINE), link


@pytest.mark.parametrize("name", NAMES)
def test_jupyter_shows_what_a_notebook_keeps(name):
    """Of every cell: the same kinds of output. Runs where nbclient and ipykernel are (the extra `notebooks`)."""
    nbclient = pytest.importorskip("nbclient", reason="needs the extra notebooks: pip install '.[notebooks]'")
    pytest.importorskip("ipykernel", reason="needs the extra notebooks: pip install '.[notebooks]'")
    nbformat = importlib.import_module("nbformat")
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    kept = kinds(notebook)
    asyncio.run(nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").async_execute())
    assert kinds(notebook) == kept


def kinds(notebook):
    """The kinds of output of every code cell, but what libraries say of a machine."""
    return [
        [sorted(o.get("data", {"text": ""})) for o in cell.outputs if o.get("name") != "stderr"]
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]
