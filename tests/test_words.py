"""Same words, same run: keys that nothing reads are refused, sweeps are typed as Hydra has them, wrong values end in a line."""

import pytest
from omegaconf import OmegaConf

from attrbind_exp import config
from attrbind_exp.commands import command_line
from attrbind_exp.commands.known_keys import check_keys, read_keys
from attrbind_exp.commands.own_folder import use_config_dir
from attrbind_exp.commands.unused_folders import note_made, note_missing, remove_unused
from attrbind_exp.reporting.html.folder import read_folder
from attrbind_exp.runs.store import RunStore
from attrbind_exp.types import UserError
from hydra_plugins.attrbind_exp_launchers.launchers import RayLauncher
from tests.made_runs import make_summary, variant_figures, write_files
from tests.test_command import command, composed


@pytest.mark.parametrize(
    ("command", "typed", "meant"),
    [
        ("run", "cache=5", "'cache=5' sets nothing; cache has keys of its own: cache.folder, cache.gigabytes"),
        ("run", "figure=single", "figure.width"), ("pretrain", "clip=5", "clip.batch, clip.ema"), ("run", "cache=null", "cache.folder"),
        ("run", "+aplha=0.5", "'aplha'; did you mean alpha?"), ("run", "alhpa=0.9", "did you mean alpha?"),
        ("run", "+model.tymesteps=[50]", "did you mean model.timesteps?"), ("run", "++timesteps=50", "did you mean model.timesteps?"),
        ("run", "++x=", "no key 'x'; '--cfg job'"), ("run", "launcher.gpsu=4", "did you mean launcher.gpus?"),
        ("run", "+dataset.limti=3", "did you mean dataset.limit?"), ("run", "++seed.x=1", "no key 'seed.x'"),
        ("run", "+heatmap.diffsegmenter.wieghts={1: 1}", "did you mean heatmap.diffsegmenter.weights?"),
        ("run", "~galery", "did you mean gallery?"), ("run", "+launcher=gpus", "write it without +: launcher=gpus"),
        ("run", "+expression=dog", "no key 'expression'"), ("segment", "+dataset.limit=3", "no key 'dataset.limit'"),
        ("doctor", "smaple=3", "did you mean sample?"), ("pretrain", "+unet.stesp=3", "did you mean unet.steps?"),
    ],
)  # fmt: skip
def test_a_key_that_nothing_reads_is_an_error_with_the_nearest_right_one(command, typed, meant):
    with pytest.raises(UserError) as error:
        check_keys(command, ["seed=1", typed])
    assert meant in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("command", "typed"),
    [
        ("run", "+model.weights.8=0.3"), ("run", "+report.title=x"), ("run", "+heatmap.diffsegmenter.timesteps=[50]"), ("run", "hydra.job.x=1"),
        ("run", "+launcher.ray.init.include_dashboard=true"), ("run", "sweep=table3_alpha"), ("run", "dataset.label_keys=[a]"),
        ("segment", "expression=a=b"), ("segment", "threshold=0.4"), ("doctor", "dataset.root=x"), ("parse", "seed=1"), ("pretrain", "stage=all"),
        ("run", "+launcher.ray.init.dashboard_port=1"),
    ],
)  # fmt: skip
def test_a_key_that_a_configuration_or_a_class_reads_is_taken(command, typed):
    check_keys(command, ["--cfg", "job", "-m", typed])


def test_a_key_that_another_argument_refers_to_is_taken():
    check_keys(
        "run", ["+text_processor.mine={_target_: x}", "text_processor.methods=[{edits: ['${text_processor.mine}']}]"]
    )


def test_a_key_of_a_sweep_of_its_own_is_taken_with_that_sweep_alone():
    check_keys("run", ["sweep=methods_refined", "proposals=x"])
    for others in ([], ["sweep=methods"], ["sweep=none"]):
        with pytest.raises(UserError, match=r"no key 'proposals'; did you mean refine\.proposals"):
            check_keys("run", [*others, "proposals=x"])


def test_every_key_of_every_configuration_is_known():
    for name in ("run", "segment", "compare", "score", "parse", "doctor", "demo", "pretrain"):
        keys = read_keys(name)
        check_keys(name, [f"+{key}=1" for key in keys.known if key and key.split(".")[0] not in ("launcher", "sweep")])
        check_keys(name, [f"{key}=1" for key in keys.known if key and not keys.below(key, f"{key}=1")])


def test_what_a_users_own_option_needs_stays_possible(tmp_path):
    (tmp_path / "own_words.py").write_text("def known(depth): ...\n\ndef anything(**more): ...\n")
    (tmp_path / "metric").mkdir()
    (tmp_path / "habit").mkdir()
    (tmp_path / "metric" / "one.yaml").write_text("one: {_target_: own_words.known, width: 3, height: '${tall}'}\n")
    (tmp_path / "metric" / "many.yaml").write_text("many: {_target_: own_words.anything}\n")
    (tmp_path / "habit" / "early.yaml").write_text("# @package _global_\nwhen: early\n")
    (tmp_path / "habit" / "torn.yaml").write_text("{{ not yaml\n")
    with use_config_dir(tmp_path):
        right = [
            "metric=one",
            "+metric.one.depth=2",
            "metric.one.width=4",
            "+tall=3",
            "+metric.many.x=1",
            "+habit=early",
            "when=late",
        ]
        check_keys("run", right)
        with pytest.raises(UserError, match=r"no key 'metric\.one\.widht'; did you mean metric\.one\.width\?"):
            check_keys("run", ["+metric.one.widht=4"])
    with pytest.raises(UserError, match="no key 'tall'"):
        check_keys("run", ["+tall=3"])


@pytest.mark.parametrize(
    ("typed", "given"),
    [
        ("alpha=range(0.1,1,0.2)", "alpha.value=0.1,0.3,0.5,0.7,0.9"), ("alpha=range(1,0,-0.25)", "alpha.value=1.0,0.75,0.5,0.25"),
        ("alpha=range(0.7,1,0.1)", "alpha.value=0.7,0.8,0.9"), ("seed=range(3)", "seed=0,1,2"), ("alpha=choice(0.1,0.5)", "alpha.value=0.1,0.5"),
        ("alpha='0.5'", "alpha.value=0.5"), ("alpha='0.1',\"0.5\"", "alpha.value=0.1,0.5"), ("threshold=choice('0.4',0.5)", "threshold.value=0.4,0.5"),
        ("alpha=[0.1,1],[0.5]", "alpha.value=[0.1,1],[0.5]"), ("text_processor='baseline','paper'", "text_processor=baseline,paper"),
        ("text_processor=choice(baseline,paper)", "text_processor=baseline,paper"), ("alpha=glob(*)", "alpha=diffsegmenter,grid,paper,study,tenths,wide"),
        ("alpha=glob(*,exclude=[w*,d*])", "alpha=grid,paper,study,tenths"), ("heatmap=[daam],['diffsegmenter','daam']", "heatmap=[daam],[diffsegmenter,daam]"),
        ("+launcher.ray.init.x=1", "+hydra.launcher.ray.init.x=1"), ("model.timesteps=choice(50,100)", "model.timesteps=choice(50,100)"),
        ("model.path=choice(a,b)", "model.path=choice(a,b)"), ("model.path=a,b", "model.path='a,b'"),
    ],
)  # fmt: skip
def test_sweeps_are_typed_in_hydras_grammar(typed, given):
    assert command_line.rewrite_arguments([typed]) == [given]


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("text_processor=glob(x*)", "sweeps over nothing; choose from ablation"), ("alpha=range(1,0)", "sweeps over nothing"),
        ("alpha=range(0,1,0)", "steps of 0"), ("alpha=choice(0.1,paper)", "alpha=0.1,paper mixes"), ("model=choice(sd15,sd16)", "unknown model 'sd16'"),
    ],
)  # fmt: skip
def test_a_sweep_that_cannot_be_is_refused(typed, words):
    with pytest.raises(UserError) as error:
        command_line.rewrite_arguments([typed])
    assert words in str(error.value)


def test_a_sweeps_folder_is_the_same_however_it_is_typed():
    ways = ("0.1,0.3,0.5", "range(0.1,0.6,0.2)", "choice(0.1,0.3,0.5)", "'0.1','0.3','0.5'")
    names = {command_line.sweep_name(command_line.rewrite_arguments([f"alpha={way}"])) for way in ways}
    assert names == {"alpha=0.1,0.3,0.5"}


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("figure=single", "give its width: figure.width=single"), ("save_masks=jpg", "choose from none, png, rle, npz"),
        ("keep_maps=maybe", "keep_maps='maybe'; choose from True, False"), ("model.compile=x", "model.compile='x'; choose from"),
        ("model.timesteps=abc", "model.timesteps=abc; give a whole number, or several"), ("model.timesteps=[50,x]", "model.timesteps=[50, 'x']"),
        ("model.timesteps=5.5", "model.timesteps=5.5"), ("cache.gigabytes=abc", "cache.gigabytes=abc is no size"),
        ("dataset.fraction=abc", "dataset.fraction=abc; give a number"), ("model.weights=abc", "give a weight for each ratio"),
        ("model.weights={8: x}", "give a weight for each ratio"), ("attention_layers.ratios=2", "attention_layers.ratios=2; give a list"),
        ("attention_layers.blocks=[1]", "attention_layers.blocks=[1]; give a list"), ("model.batch_size=0", "model.batch_size=0"),
    ],
)  # fmt: skip
def test_a_value_of_the_wrong_kind_is_named_before_anything_loads(typed, words):
    with pytest.raises(UserError) as error:
        config.read_settings(composed(typed))
    assert words in str(error.value) and "\n" not in str(error.value)


def test_what_is_right_is_not_refused():
    for typed in ("model.timesteps=50", "model.timesteps=[50,100]", "model.weights={8: 0.3, 4: 1, 2: 0.1, 1: 0}", "keep_maps=true",
                  "attention_layers.ratios=[1,2]", "attention_layers.blocks=[down]", "dataset.fraction=1"):  # fmt: skip
        config.read_settings(composed(typed))


def test_no_value_of_any_key_ends_in_a_traceback():
    """A word where another kind of value belongs is taken (where words do) or refused in one line."""
    plain = OmegaConf.to_container(composed("captioner=blip"), resolve=False)
    leaves = [
        ".".join(map(str, place)) for place, _ in config.from_folder.walk(plain) if not str(place[-1]).isdecimal()
    ]
    for key in (k for k in leaves if "_target_" not in k and not k.startswith("text_processor.methods")):
        cfg = OmegaConf.create(plain)
        OmegaConf.update(cfg, key, "abc")
        try:
            settings = config.read_settings(cfg)
            if key.startswith("dataset."):
                settings.load_dataset()
        except command_line.MENDABLE:
            pass


def test_a_failed_command_leaves_no_folder(tmp_path):
    failing = [
        ("run", "threshold=7"), ("run", "model.path=/nowhere"), ("run", "attention_layers.ratios=[9]", "cache.folder=null"),
        ("run", "hydra.run.dir=a/b", "dataset.root=/nowhere"), ("segment", "image=no.jpg", "expression=dog"), ("parse", "dataset.root=/nowhere"),
        ("pretrain", "stage=abc"), ("run", "-m", "alpha=0.5", "launcher=slurm"), ("run", "-m", "seed=1,2", "launcher=gpus", "launcher.gpus=x"),
    ]  # fmt: skip
    for module, *arguments in failing:
        tracker = [] if module in ("segment", "parse") else ["tracker=none"]
        code, out, err = command(*arguments, *tracker, module=module, cwd=tmp_path)
        assert (code, out) == (2, "") and err.startswith("error: ") and len(err.splitlines()) == 1, (
            arguments,
            out,
            err,
        )
        assert not list(tmp_path.iterdir()), arguments


def test_what_was_there_before_a_failed_command_stays(tmp_path):
    for folder in ("run", "outputs/run", "sweep"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "sweep" / "notes.txt").write_text("mine")
    assert command("threshold=7", "tracker=none", cwd=tmp_path)[0] == 2
    assert command("threshold=7", "tracker=none", "hydra.run.dir=run", cwd=tmp_path)[0] == 2
    code, _, err = command("-m", "threshold=7,8", "tracker=none", "hydra.sweep.dir=sweep", cwd=tmp_path)
    assert code == 1 and "2 of 2 runs failed" in err
    assert {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_dir()} == {
        "run",
        "outputs",
        "outputs/run",
        "sweep",
    }
    assert (tmp_path / "sweep" / "notes.txt").is_file() and (tmp_path / "sweep" / "sweep.json").is_file()


def test_a_folder_in_which_another_process_is_at_work_stays(tmp_path):
    folder = tmp_path / "run"
    note_missing(folder)
    with RunStore(folder, "key"):  # has scored nothing so far
        remove_unused()
        assert (folder / "expressions.jsonl").is_file()
    note_made(folder)
    remove_unused()
    assert not folder.exists()


@pytest.mark.parametrize(
    ("seen", "asked", "words"),
    [(3, 4, "torch sees 3 here; give 1 to 3"), (8, 0, "whole number >= 1"), (8, True, "whole number")],
)
def test_more_gpus_than_there_are_are_refused(monkeypatch, seen, asked, words):
    _ray = pytest.importorskip("hydra_plugins.attrbind_exp_launchers._ray")
    monkeypatch.setattr("torch.cuda.device_count", lambda: seen)
    with pytest.raises(UserError, match=words):
        _ray.check_gpus(RayLauncher(OmegaConf.create({"init": {"address": "local"}}), gpus=asked))


def test_gpus_that_are_there_are_taken_and_none_at_all_is_said_in_a_line(monkeypatch, capsys):
    _ray = pytest.importorskip("hydra_plugins.attrbind_exp_launchers._ray")
    own, cluster = (OmegaConf.create({"init": {"address": address}}) for address in ("local", "auto"))
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    for given in (RayLauncher(own, gpus=4), RayLauncher(own), RayLauncher(cluster, gpus=9)):
        _ray.check_gpus(given)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    _ray.check_gpus(RayLauncher(own, gpus=4))
    assert capsys.readouterr().err == "launcher.gpus=4: torch sees no GPU here, so 4 runs at a time share the CPU\n"


def test_a_report_of_any_folder_leaves_out_what_is_no_run(tmp_path):
    """attrbind_exp.parse leaves a summary.json, too."""
    write_files(tmp_path / "run" / "a", make_summary([variant_figures(("baseline", None), 40.0, 3)]))
    (tmp_path / "parse" / "b").mkdir(parents=True)
    (tmp_path / "parse" / "b" / "summary.json").write_text('{"n": 3}')
    (tmp_path / "parse" / "b" / "parses.csv").write_text("id,expression\n")
    found = read_folder(tmp_path)
    assert [run.folder for run in found.finished] == [tmp_path / "run" / "a"] and not found.unfinished


def test_segment_says_that_the_bundled_model_knows_shapes_alone():
    bundled = str(config.PACKAGE / "assets" / "bundled")
    assert "knows only shapes" in config.model_warning(bundled, "photo.jpg")
    assert config.model_warning(bundled, str(config.PACKAGE / "assets" / "shapes" / "images" / "test_0000.jpg")) is None
    assert config.model_warning("sd15", "photo.jpg") is None
