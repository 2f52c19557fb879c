"""Searches: a study is told of runs alone, so a killed one goes on as if nothing had been; what it found is in files."""

import csv
import json
import signal
import subprocess
import sys
import time

import pytest
import yaml

pytest.importorskip("optuna", reason="the extra [tune] is not installed")

from attrbind_exp import config
from attrbind_exp.heatmaps.daam import Daam
from attrbind_exp.heatmaps.layers import Column
from attrbind_exp.heatmaps.ovam import Ovam
from attrbind_exp.paths import options
from attrbind_exp.runs.configuration import counted
from attrbind_exp.runs.summary import read_summary
from attrbind_exp.types import LayerChoice, UserError
from hydra_plugins.attrbind_exp_launchers import launchers
from hydra_plugins.attrbind_exp_launchers._search import Search
from hydra_plugins.attrbind_exp_launchers.tune import grammar
from tests.test_command import command, composed

SPACE = {
    "tau": {"low": 0.001, "high": 2.0, "log": True},
    "weights": {8: [0.0, 1.0], 4: [0.5]},
    "rounds": {"low": 1, "high": 4},
}
# Of the layers' weights only how much that resolution counts which the bundled model reads best: so something is found.
ONE_LAYER = ("~hydra.sweeper.every.weights", "+hydra.sweeper.every.weights={8:[0.0],4:[0.0],2:[1.0,0.9],1:[0.0]}")
SIZE = ("hydra.sweeper.trials=1", "hydra.sweeper.fraction=0.02", "dataset.fraction=0.01")
SMALL = ("sweep=tune", "heatmap=[daam,iseg]", *SIZE, *ONE_LAYER)


def searched(values, seed=0):
    """A search that was told these values, and the constants that it asked for."""
    search = Search("diffseg", SPACE, seed)
    asked = []
    for value in values:
        asked.append(search.ask())
        search.tell(value)
    return search, asked


def test_the_first_trial_is_the_authors_and_others_lie_in_the_space():
    _, asked = searched([1.0] * 30)
    assert asked[0] == {}
    for found in asked[1:]:
        assert list(found) == ["tau", "weights", "rounds"]
        assert 0.001 <= found["tau"] <= 2 and found["tau"] == float(f"{found['tau']:.3g}")
        assert found["weights"][8] in (0.0, 1.0) and found["weights"][4] == 0.5 and found["rounds"] in (1, 2, 3, 4)
    assert len({found["tau"] for found in asked[1:]}) > 20 and {found["weights"][8] for found in asked[1:]} == {
        0.0,
        1.0,
    }


def test_the_same_values_make_the_same_search_and_others_another():
    values = [10.0 + n % 7 for n in range(20)]
    assert searched(values)[1] == searched(values)[1] != searched(values, seed=1)[1]
    failed = [*values[:12], None, *values[13:]]
    assert searched(values)[1][:13] == searched(failed)[1][:13] and searched(values)[1][13:] != searched(failed)[1][13:]


def test_a_search_finds_where_a_hill_is():
    """mIoU is 50 at four rounds and without the coarsest layers, ten less for each step away from there."""
    search = Search("diffseg", SPACE, 0)
    for _ in range(30):
        found = search.ask()
        search.tell(50.0 - 10 * (4 - found["rounds"]) - 10 * found["weights"][8] if found else 15.0)
    constants, mIoU = search.best()
    assert (constants["rounds"], constants["weights"][8], mIoU) == (4, 0.0, 50.0) and search.own == 15.0


def test_the_best_is_the_first_of_the_best_and_the_authors_where_nothing_is_better():
    search, asked = searched([20.0, None, 30.0, 30.0])
    assert search.best() == (asked[2], 30.0) and search.said() == "diffseg 20.0 -> 30.0"
    assert searched([20.0, 20.0, 3.0])[0].best() == ({}, 20.0)
    assert searched([None, 1.0])[0].said() == "diffseg failed -> 1.0"
    with pytest.raises(UserError, match=r"no trial of heatmap=diffseg could be scored; .* trials\.csv"):
        searched([None, None])[0].best()


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ({"tau": 0.5}, r"spaces\.diffseg\.tau=0\.5 is no search space; give a list of choices, or a range such as"),
        ({"tau": []}, r"tau=\[\] has nothing to choose from"),
        ({"weights": {8: {"low": 0}}}, r"spaces\.diffseg\.weights\.8={'low': 0} is no search space"),
        ({"tau": {"low": 0.0, "high": 1.0, "log": True}}, "is no range .*give a list of choices"),
        ({"tau": {"low": 2, "high": 1}}, "is no range"),
        ({"tau": {"low": "a", "high": 1}}, "is no range"),
        ({}, "is no search space"),
    ],
)
def test_what_is_no_space_is_named(space, said):
    with pytest.raises(UserError, match=said):
        Search("diffseg", space, 0)


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("hydra.sweeper.trials=0", "hydra.sweeper.trials=0; give a whole number, 1 or more"),
        ("hydra.sweeper.fraction=2", "hydra.sweeper.fraction=2; give a number above 0, up to 1"),
        ("seed=0,1", "'seed=0,1' has several values; start a search for each of them"),
        (
            "+hydra.sweeper.spaces.daam.tau=[1]",
            "heatmap=daam has no constant 'tau' to be searched; choose from timesteps, weights",
        ),
        (
            "+hydra.sweeper.spaces.dam.tau=[1]",
            "no option 'dam' of heatmap can be searched; choose from cross_only, daam",
        ),
        (
            "dataset.splits=test",
            "dataset.splits=test; a search chooses constants on one split and judges them on others",
        ),
    ],
)
def test_a_search_that_cannot_be_is_refused_before_its_first_trial(tmp_path, typed, said):
    code, _, err = command(*SMALL, typed, f"hydra.sweep.dir={tmp_path / 'search'}")
    assert code == 2 and said in err and "Traceback" not in err and not (tmp_path / "search" / "daam").exists()


def test_without_optuna_a_search_says_how_to_get_it(tmp_path, monkeypatch):
    def missing(name):
        raise ModuleNotFoundError("No module named 'optuna'", name="optuna")

    monkeypatch.setattr(launchers.importlib, "import_module", missing)
    with pytest.raises(
        UserError, match=r"^sweep=tune needs packages .* get them by 'pip install optuna', the extra \[tune\]$"
    ):
        launchers.load("_search", "tune", "sweep=tune")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a small search that nothing disturbed, and what it said."""
    folder = tmp_path_factory.mktemp("tune") / "whole"
    code, _, err = command(*SMALL, f"hydra.sweep.dir={folder}")
    assert code == 0, err
    return folder, err


def trials(folder):
    with open(folder / "trials.csv") as lines:
        return list(csv.DictReader(lines))


def test_progress_is_shown(whole):
    _, err = whole
    assert [line.partition(",")[0] for line in err.splitlines() if line.startswith("trial ")] == [
        f"trial {n} of 1" for n in range(2)
    ]


def test_what_is_found_is_what_the_files_say(whole):
    folder, _ = whole
    found = trials(folder)
    assert [(t["heatmap"], t["trial"]) for t in found] == [
        (name, str(n)) for name in ("daam", "iseg") for n in range(2)
    ]
    option = yaml.safe_load((folder / "tuned.yaml").read_text())
    for name in ("daam", "iseg"):
        own, *others = [(float(t["mIoU"]), json.loads(t["constants"])) for t in found if t["heatmap"] == name]
        runs = {}
        for file in (folder / name).glob("*/config.yaml"):
            method = yaml.safe_load(file.read_text())["heatmap"][name]
            runs[json.dumps({key: method[key] for key in others[0][1]}, sort_keys=True)] = read_summary(
                file.parent
            ).mIoU
        for mIoU, constants in others:
            numbers = constants | {"weights": {int(ratio): weight for ratio, weight in constants["weights"].items()}}
            assert runs[json.dumps(numbers, sort_keys=True)] == pytest.approx(mIoU, abs=1e-4)
        best, constants = max(others, key=lambda trial: trial[0])
        if best > own[0]:
            tuned = option[f"{name}_tuned_on_shapes"]
            assert all(json.loads(json.dumps(tuned[key])) == value for key, value in constants.items())
        assert (f"{name}_tuned_on_shapes" in option) == (best > own[0])
    assert option, "the test wants a search that finds something"


def test_the_table_judges_on_test_at_thresholds_of_val(whole):
    folder, _ = whole
    option = yaml.safe_load((folder / "tuned.yaml").read_text())
    (compared,) = folder.glob("compared-*")
    val, test = (read_summary(compared / split) for split in ("val", "test"))
    lines = (folder / "tuned.md").read_text().splitlines()
    for name in ("daam", "iseg"):
        other = f"{name}_tuned_on_shapes" if f"{name}_tuned_on_shapes" in option else name
        figures = []
        for heatmap in (name, other):
            label = f"baseline heatmap={heatmap}"
            figures.append(test.variant(label).mIoU_at[f"{val.variant(label).threshold:.2f}"])
        (line,) = [line for line in lines if line.startswith(f"| {name} ")]
        assert line.split("|")[-2].strip() == f"{figures[0]:.1f} -> {figures[1]:.1f}"


def test_a_killed_search_goes_on_to_the_same_end(whole, tmp_path):
    """Killed as soon as its first trials are written down, which is while the next ones run."""
    folder = tmp_path / "killed"
    typed = [*SMALL, f"hydra.sweep.dir={folder}"]
    running = subprocess.Popen(
        [sys.executable, "-m", "attrbind_exp.run", *typed], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while not (folder / "trials.csv").is_file() and running.poll() is None:
        time.sleep(0.05)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert len(trials(folder)) < len(trials(whole[0])) and not (folder / "tuned.md").exists()
    code, out, _ = command(*typed)
    assert code == 0 and "this run was finished before: nothing to do" in out
    for name in ("trials.csv", "tuned.yaml", "tuned.md"):
        assert (folder / name).read_text() == (whole[0] / name).read_text()


def test_a_trial_that_fails_is_counted_and_the_search_goes_on(tmp_path):
    """All weights zero: no map."""
    nothing = "+hydra.sweeper.every.weights={8:[0.0],4:[0.0],2:[0.0],1:[0.0]}"
    typed = ["sweep=tune", "heatmap=[daam]", *SIZE]
    code, _, err = command(*typed, "~hydra.sweeper.every.weights", nothing, f"hydra.sweep.dir={tmp_path}")
    own, failed = trials(tmp_path)
    assert code == 0 and own["mIoU"] and failed["mIoU"] == "" and "trial 1 of 1, mIoU: daam " in err
    assert yaml.safe_load((tmp_path / "tuned.yaml").read_text()) in ({}, None)
    assert "nothing better was found" in (tmp_path / "tuned.md").read_text()


def test_constants_of_a_method_that_are_null_are_as_if_they_were_not_there():
    daam = "attrbind_exp.heatmaps.daam.Daam"
    plain = {"heatmap": {"daam": {"_target_": daam, "sigmoid": False}}, "seed": 0}
    with_null = {
        "heatmap": {"daam": {"_target_": daam, "weights": None, "timesteps": None, "sigmoid": False}},
        "seed": 0,
    }
    assert counted(plain) == counted(with_null) == plain
    given = {"heatmap": {"daam": {"_target_": daam, "weights": {8: 1.0}, "sigmoid": False}}, "seed": 0}
    assert counted(given) == given


@pytest.mark.parametrize("name", [name for name in options("heatmap") if name != "tuned_on_shapes"])
def test_every_way_of_reading_takes_weights_and_timesteps(name):
    given = [f"heatmap.{name}.timesteps=[20,30]", f"heatmap.{name}.weights={{8:0.0,4:0.1,2:1.0,1:0.0}}"]
    (method,) = config.read_settings(composed(f"heatmap=[{name}]", *given)).segmenter.make_methods().values()
    assert method.timesteps == (20, 30) and method.weights == {8: 0.0, 4: 0.1, 2: 1.0, 1: 0.0}


def test_weights_of_a_reading_take_in_the_layers_that_it_leaves_out_otherwise(model):
    """DAAM leaves the coarsest layers out and OVAM the middle block, unless weights of their own name them."""
    weights = {8: 0.4, 4: 0.3, 2: 0.2, 1: 0.1}
    choice = LayerChoice(None, None, None)
    for method in (Daam, Ovam):
        plain = method().columns(choice, model.layers, model.reading)
        own = method(weights=weights).columns(choice, model.layers, model.reading)
        assert {c.ratio: w for c, w in own.items()} == {c.ratio: weights[c.ratio] for c in own}
        assert max(c.ratio for c in own) == max(x.ratio for x in model.layers if x.cross) and len(own) >= len(plain)
        run_wide = method(weights=weights).columns(
            LayerChoice(None, None, {8: 1.0, 4: 1.0, 2: 1.0, 1: 1.0}), model.layers, model.reading
        )
        assert set(run_wide.values()) == {1.0}
    assert all(isinstance(c, Column) for c in own)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"weights": [1, 2]}, r"weights=\[1, 2\] of a heatmap; give a weight for each ratio"),
        ({"weights": {"a": 1.0}}, "give a weight for each ratio"),
        ({"timesteps": []}, r"timesteps=\[\] of a heatmap; give a whole number, or several as \[50,100\]"),
        ({"timesteps": 0.5}, r"timesteps=0\.5 of a heatmap"),
    ],
)
def test_constants_that_are_none_are_named(given, said):
    with pytest.raises(UserError, match=said):
        Daam(**given)
    assert Daam(timesteps=50).timesteps == (50,)


def test_values_are_written_as_hydra_reads_them():
    assert grammar({8: 0.1, 4: [1, 2.5], "a": None, "b": True}) == "{8:0.1,4:[1,2.5],a:null,b:true}"
