"""What people get wrong with options and classes of their own: the error says what, where, and the mend."""

import re

import pytest

from attrbind_exp import load_segmenter
from attrbind_exp.commands.command_line import rewrite_arguments
from attrbind_exp.commands.own_folder import use_config_dir
from attrbind_exp.edits import Edit
from attrbind_exp.evaluation.source import source_digest
from attrbind_exp.heatmaps.diffsegmenter import DiffSegmenter
from attrbind_exp.paths import PACKAGE
from attrbind_exp.types import UserError
from tests.test_command import command

SMALL = ("tracker=none", "gallery=0", "changed=0", "dataset.limit=1", "text_processor=baseline", "text_blind=false")
READING = """\
from dataclasses import dataclass

from attrbind_exp.heatmaps.diffsegmenter import DiffSegmenter


@dataclass(frozen=True)
class {name}(DiffSegmenter):
    power: int = 0
"""


@pytest.fixture
def own(tmp_path):
    """A user's folder with a good reading, `sharp_reading.Sharp`; its module's name is nobody else's."""
    folder = tmp_path / "mine"
    write(folder, "sharp_reading.py", READING.format(name="Sharp"))
    write(folder, "heatmap/sharp.yaml", "sharp:\n  _target_: sharp_reading.Sharp\n")
    return folder


def write(folder, name, text):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)


def fails(own, *arguments, module="run"):
    """The one line of an error."""
    small = SMALL if module == "run" else SMALL[:1]
    code, _, err = command(f"--config-dir={own}", *small, f"hydra.run.dir={own / 'out'}", *arguments, module=module)
    assert code == 2 and "HYDRA_FULL_ERROR" not in err, err
    return err.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("target", "file", "said"),
    [
        ("wrong_import.A", "import torhc\n", "'{file}', line 1: ModuleNotFoundError: No module named 'torhc'"),
        (
            "wrong_name.A",
            "import json\nfrom math import tua\n",
            "'{file}', line 2: ImportError: cannot import name 'tua'",
        ),
        ("wrong_syntax.A", "x = 1\nclass A\n    pass\n", "'{file}', line 2: SyntaxError: expected ':'"),
        ("wrong_class.Sharq", READING.format(name="Sharp9"), "'{file}' has no Sharq; did you mean Sharp9?"),
        (
            "wrong_made.A",
            "class A:\n    def __init__(self):\n        {}['gone']\n",
            "'{file}', line 3: KeyError: 'gone'",
        ),
        ("not_there.A", None, "there is no not_there; its file not_there.py belongs into the folder that --config-dir"),
    ],
)
def test_a_class_that_cannot_be_loaded_is_told_with_file_line_and_error(own, target, file, said):
    name = own / f"{target.split('.')[0]}.py"
    if file is not None:
        write(own, name.name, file)
    line = fails(own, "heatmap=sharp", f"heatmap.sharp._target_={target}")
    assert line.startswith(f"error: heatmap.sharp: _target_ {target} ") and said.format(file=name) in line, line


@pytest.mark.parametrize(
    ("group", "text", "said"),
    [
        ("heatmap", "_target_: sharp_reading.Sharp\n", "heatmap has _target_ without a name; '{file}' must be NAME:"),
        ("metric", "_target_: sharp_reading.Sharp\n", "metric has _target_ without a name; '{file}' must be NAME:"),
        ("heatmap", "bad: 5\n", "heatmap.bad has no _target_; an option of heatmap must be NAME:"),
        (
            "tracker",
            "bad:\n  _target_: a.B\n",
            "tracker has no _target_ at its top; '{file}' must be _target_: FILE.CLASS",
        ),
        (
            "refine",
            "bad:\n  _target_: a.B\n",
            "refine has no _target_ at its top; '{file}' must be _target_: FILE.CLASS",
        ),
        (
            "text_processor",
            "methods:\n  - {name: x, edits: []}\n",
            "template=None; give .* defaults: \\[_common, _self_",
        ),
    ],
)
def test_an_option_of_the_wrong_form_is_told_with_its_file(own, group, text, said):
    write(own, f"{group}/bad.yaml", text)
    line = fails(own, f"{group}=bad")
    assert re.search(said.format(file=own / group / "bad.yaml"), line), line


@pytest.mark.parametrize("edits", ["[half.Half]", "half.Half", "[{half: 1}]"])
def test_edits_that_are_none_are_told_with_their_method(own, edits):
    text = f"defaults: [_common, _self_]\nmethods:\n  - {{name: mine, edits: {edits}}}\n"
    write(own, "text_processor/bad.yaml", text)
    assert "the edits of 'mine' in text_processor.methods are" in fails(own, "text_processor=bad")


def test_an_option_that_is_no_yaml_is_told_with_its_line(own):
    write(own, "heatmap/bad.yaml", "bad:\n  _target_: [sharp\n")
    assert re.search(r"expected ',' or ']'.* in \".*mine/heatmap/bad.yaml\", line 3", fails(own, "heatmap=bad"))


def test_an_unknown_option_says_where_ones_own_would_lie(own):
    with pytest.raises(UserError, match=r"one of your own needs --config-dir=DIR with DIR/heatmap/sharp.yaml"):
        rewrite_arguments(["heatmap=sharp"])
    with use_config_dir(own), pytest.raises(UserError, match=rf"your own would be '{own}/heatmap/shrp.yaml'"):
        assert rewrite_arguments(["heatmap=sharp"]) == ["heatmap=sharp"] and rewrite_arguments(["heatmap=shrp"])


def test_an_option_may_be_called_what_hydra_reads_as_a_number(own):
    """It was "unknown heatmap 'nan'; did you mean nan?"."""
    for name in ("nan", "5", "true"):
        write(own, f"heatmap/{name}.yaml", "sharp:\n  _target_: sharp_reading.Sharp\n")
    with use_config_dir(own):
        assert rewrite_arguments(["heatmap=nan"]) == ["heatmap='nan'"]
        assert rewrite_arguments(["heatmap=[daam,nan]", "heatmap=5,true"]) == [
            "heatmap=[daam,'nan']",
            "heatmap='5','true'",
        ]
    code, _, err = command(f"--config-dir={own}", *SMALL, "heatmap=nan", f"hydra.run.dir={own / 'out'}")
    assert code == 0, err


def test_python_names_objects_of_ones_own():
    class Half(Edit):
        def apply(self, E, encoded, prompt):
            return E

    own = r", or one of your own: an object of its class in Python, .*--config-dir"
    for given, said in (
        ({"heatmap": "max_heads"}, rf"unknown heatmap 'max_heads'; .*{own}"),
        (
            {"heatmap": DiffSegmenter},
            r"heatmap=DiffSegmenter is a class; give an object of it, heatmap=DiffSegmenter\(\)",
        ),
        ({"edit": "half"}, rf"unknown edit 'half'; .*{own}"),
        ({"edit": ["ncr", Half]}, r"edit=Half is a class; give an object of it, edit=Half\(\)"),
    ):
        with pytest.raises(UserError, match=said):
            load_segmenter(**given)


def test_a_finished_run_says_at_its_top_that_the_source_is_another_one(own):
    """The old table was printed for a class that had been edited."""
    arguments = (f"--config-dir={own}", *SMALL, "heatmap=sharp", f"hydra.run.dir={own / 'out'}")
    assert command(*arguments)[0] == 0
    code, out, err = command(*arguments)
    assert code == 0 and "finished before" in out and "WARNING" not in err
    before = (own / "out" / "summary.json").read_bytes()
    write(own, "sharp_reading.py", READING.format(name="Sharp").replace("= 0", "= 2"))
    source_digest.cache_clear()  # as a new process has it
    code, out, err = command(*arguments)
    first = err.strip().splitlines()[0]
    assert code == 0 and first.startswith(
        "WARNING: nothing is scored anew: this run was finished before with another source"
    )
    assert "give another hydra.run.dir" in first and str(own / "out") in first
    assert (own / "out" / "summary.json").read_bytes() == before


EDIT = """\
from dataclasses import dataclass

from attrbind_exp.edits import Edit


@dataclass(frozen=True)
class Halved(Edit):
    def apply(self, E, encoded, prompt):
        edited = E.clone()
        edited[list(prompt.q)] *= 0.5
        return edited
"""


def test_compare_knows_edits_of_ones_own(own):
    """--config-dir was taken, and no word of it known."""
    write(own, "halved_edit.py", EDIT)
    methods = "[{name: baseline}, {name: Half-Noun, edits: [{_target_: halved_edit.Halved}]}]"
    write(own, "text_processor/halved.yaml", f"defaults: [_common, _self_]\nmethods: {methods}\n")
    picture = str(PACKAGE / "assets" / "shapes" / "images" / "test_0016.jpg")
    given = (picture, "the blue circle", f"--config-dir={own}", f"hydra.run.dir={own / 'out'}")
    code, out, err = command(*given, "baseline", "half-noun+ncr", module="compare")
    assert code == 0 and "halved + noun_chunk  target circle" in out, err
    code, _, err = command(*given, "half_nun", module="compare")
    assert code == 2 and "unknown edit 'half_nun'; did you mean half_noun?" in err


def test_results_name_a_reading_that_is_not_the_usual_one():
    picture = str(PACKAGE / "assets" / "shapes" / "images" / "test_0016.jpg")
    said = {"diffsegmenter": "", "daam": " heatmap=daam", DiffSegmenter(power=2): " heatmap=diffsegmenter power=2"}
    for reading, behind in said.items():
        segmenter = load_segmenter(heatmap=reading)
        result = segmenter(picture, "the blue circle", edit="baseline")
        assert result.edit == f"baseline{behind}" and f", baseline{behind}, " in repr(result)
        assert list(result.panels(0.5)) == [f"baseline{behind}", "mask"]
        found = segmenter.compare(picture, "the blue circle", ["baseline", "ncr"])
        assert [*found] == ["baseline", "ncr"] and found["ncr"].edit == f"noun_chunk{behind}"


def test_a_reading_may_lie_in_a_package_of_ones_own(own, tmp_path, monkeypatch):
    """docs/extend.md: code on PYTHONPATH, the option below --config-dir."""
    write(tmp_path, "elsewhere/sharp_package/readings.py", READING.format(name="Sharper"))
    write(own, "heatmap/sharper.yaml", "sharper:\n  _target_: sharp_package.readings.Sharper\n")
    monkeypatch.syspath_prepend(tmp_path / "elsewhere")
    code, out, err = command(f"--config-dir={own}", *SMALL, "heatmap=sharper", f"hydra.run.dir={own / 'out'}")
    assert code == 0 and "baseline" in out, err
