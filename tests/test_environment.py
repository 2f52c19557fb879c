"""What a run meets outside itself: odd variables and paths, a file system without locks, others who start at once."""

import errno
import fcntl
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import wandb
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from attrbind_exp import config
from attrbind_exp.commands import command_line
from attrbind_exp.commands.run_folder import make_new_folder
from attrbind_exp.runs.shown import shell_command
from attrbind_exp.runs.store import RunStore
from attrbind_exp.tracking import dashboard
from attrbind_exp.tracking.wandb_tracker import WandbTracker
from attrbind_exp.types import UserError
from hydra_plugins.attrbind_exp_launchers.launchers import RayLauncher, explain
from tests.test_command import command
from tests.test_tracker import inspect, run_files, told

ODD_PATHS = (
    "/a b/c",
    "/it's/here",
    '/a"b"/`c`',
    "/a$HOME/${seed}/$(x)",
    "/a\\${seed}/b\\\\${x}",
    "/k=v,k=w/[1]/{a: b}",
    "/line\nbreak\ttab",
    "/ends in\\",
    "/\u202eright\u2028é/\udcff",
    "/-m/#x;y&z|*?!~",
)


def read_override(argument):
    """The key and value that Hydra makes of a typed argument."""
    (rewritten,) = command_line.rewrite_arguments([argument])
    parsed = OverridesParser.create().parse_override(rewritten)
    return parsed.key_or_group, OmegaConf.create({"value": parsed.value(), "seed": 7}).value


@pytest.mark.parametrize("path", ODD_PATHS)
def test_the_command_that_repeats_a_run_can_be_pasted_whatever_its_folder_is_called(path):
    typed = command_line.command(["seed=3", command_line.path_override("hydra.run.dir", path)])
    assert typed.isprintable()
    shown = subprocess.run(["bash", "-c", f"printf '%s\\0' {typed}"], capture_output=True, check=True).stdout
    *words, seed, folder = [os.fsdecode(word) for word in shown.split(b"\0")[:-1]]
    assert words == ["python", "-m", "attrbind_exp.run"] and seed == "seed=3"
    assert read_override(folder) == ("hydra.run.dir", path)


def test_a_shell_reads_a_printed_command_as_it_was_meant():
    words = ["wandb", "sync", *ODD_PATHS, "", "plain", "*"]
    printed = shell_command(words)
    assert printed.isprintable()
    shown = subprocess.run(["bash", "-c", f"printf '%s\\0' {printed}"], capture_output=True, check=True).stdout
    assert [os.fsdecode(word) for word in shown.split(b"\0")[:-1]] == words
    assert shell_command(["wandb", "sync", "/plain/path"]) == "wandb sync /plain/path"


def test_runs_that_start_at_the_same_moment_take_a_folder_each(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(make_new_folder, [tmp_path / "new" / "12-00-00"] * 8))
    names = {"12-00-00", *(f"12-00-00_{n}" for n in range(2, 9))}
    assert {folder.name for folder in made} == names == {f.name for f in (tmp_path / "new").iterdir()}


@pytest.mark.parametrize("name", ["run", "segment", "parse"])
def test_every_command_whose_folders_are_named_by_time_makes_new_ones(name):
    hydra = OmegaConf.load(config.CONF / f"{name}.yaml").hydra
    assert OmegaConf.is_interpolation(hydra.run, "dir")
    assert hydra.callbacks.folder._target_ == "attrbind_exp.commands.run_folder.NewFolder"


def test_two_starts_in_one_second_are_two_runs_and_a_named_folder_is_gone_on_with(tmp_path, monkeypatch):
    small = ("dataset.limit=1", "text_processor=baseline")
    monkeypatch.setattr("hydra.core.utils.datetime", type("Noon", (), {"now": lambda: Noon()}))
    for _ in range(2):
        code, _, err = command(*small, module="parse", cwd=tmp_path)
        assert code == 0, err
    runs = sorted((tmp_path / "outputs" / "parse").iterdir())
    assert [run.name for run in runs] == ["noon", "noon_2"] and all((run / "parses.csv").is_file() for run in runs)
    assert command(*small, "hydra.run.dir=outputs/parse/noon", module="parse", cwd=tmp_path)[0] == 0
    assert len(list((tmp_path / "outputs" / "parse").iterdir())) == 2


class Noon:
    """A clock that stands."""

    def strftime(self, _):
        return "noon"


def test_outputs_that_cannot_be_written_are_named_in_one_line(tmp_path):
    (tmp_path / "outputs").write_text("a file")
    code, _, err = command("dataset.limit=1", module="parse", cwd=tmp_path)
    assert code == 2 and len(err.splitlines()) == 1, err
    assert f"cannot make the run folder '{tmp_path}/outputs/parse/" in err and "hydra.run.dir=FOLDER" in err


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_costs_one_warning(tmp_path, monkeypatch, capsys, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with RunStore(tmp_path, "key") as store:
        store.log("written")
    assert (tmp_path / "config_hash").read_text() == "key\n"
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("WARNING: no locks on the file system of") and "second process" in line
    with RunStore(tmp_path, "key"):  # nothing is left that stands for a lock
        pass


def test_a_lock_that_fails_otherwise_still_refuses_the_folder(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(UserError, match="cannot write to the run folder"):
        RunStore(tmp_path, "key")


@pytest.fixture
def fresh_wandb(monkeypatch):
    """W&B as a new process has it: variables are read when a run starts."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    wandb.teardown()
    yield monkeypatch
    wandb.teardown()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("WANDB_MODE", "nonsense", "WANDB_MODE: Input should be 'online'"),
        ("WANDB_API_KEY", "s3cret", "WANDB_API_KEY invalid"),
        ("WANDB_BASE_URL", "junk", "WANDB_BASE_URL: Input should be a valid URL"),
        ("WANDB_PROJECT", "a/b/c", "Invalid project name 'a/b/c'"),
        ("WANDB_SILENT", "maybe", "WANDB_SILENT: Input should be a valid boolean"),
        ("WANDB_SERVICE", "junk", "WANDB_SERVICE"),
    ],
)
def test_a_variable_that_wandb_refuses_costs_one_line_and_the_run_is_kept(tmp_path, fresh_wandb, name, value, words):
    fresh_wandb.setenv(name, value)
    tracker = WandbTracker(tmp_path, {}, "p")
    tracker.summary({"mIoU": 1.0})
    said = tracker.close()
    (file,) = run_files(tmp_path)
    assert words in said and said.endswith(f"upload it by: wandb sync {file.parent}") and said.isprintable()
    assert "s3cret" not in said and os.environ[name] == value


@pytest.mark.parametrize(
    ("name", "value"),
    [("WANDB_DIR", "/proc/nowhere"), ("WANDB_MODE", "dryrun"), ("WANDB_ENTITY", "a/b c"), ("WANDB_RESUME", "must")],
)
def test_a_variable_that_wandb_takes_changes_nothing_for_the_run_folder(tmp_path, fresh_wandb, name, value):
    fresh_wandb.setenv(name, value)
    said = WandbTracker(tmp_path, {}, "p").close()
    (file,) = run_files(tmp_path)
    assert said == f"W&B run kept offline; upload it by: wandb sync {file.parent}"


def test_nothing_is_kept_for_wandb_where_it_is_disabled(tmp_path, fresh_wandb):
    fresh_wandb.setenv("WANDB_DISABLED", "true")
    assert WandbTracker(tmp_path, {}, "p").close() is None and not run_files(tmp_path)


def test_runs_keep_apart_though_one_id_is_set_for_all(tmp_path, fresh_wandb):
    fresh_wandb.setenv("WANDB_RUN_ID", "one")
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        WandbTracker(tmp_path / name, {}, "p", mode="offline").close()
    ids = {told(inspect(file))["run_id"] for file in run_files(tmp_path)}
    assert len(ids) == 2 and "one" not in ids


def test_the_upload_of_a_run_in_a_folder_with_quotes_can_be_pasted(tmp_path):
    folder = tmp_path / "it's $HOME\n"
    folder.mkdir()
    said = WandbTracker(folder, {}, "p", mode="offline").close()
    (file,) = run_files(folder)
    assert said.isprintable()
    typed = said.partition("upload it by: ")[2]
    shown = subprocess.run(["bash", "-c", f"printf '%s\\0' {typed}"], capture_output=True, check=True).stdout
    assert shown.decode().split("\0")[:-1] == ["wandb", "sync", str(file.parent)]


def test_where_wandb_cannot_even_stay_offline_the_run_goes_on(tmp_path, monkeypatch):
    def fail(**_):
        raise RuntimeError("no service\nmore")

    monkeypatch.setattr(wandb, "init", fail)
    tracker = WandbTracker(tmp_path, {}, "p", mode="offline")
    tracker.table("t", ["a"], [[1]])
    assert tracker.close() == (
        "W&B: nothing is kept for it (no service; offline: no service); the run's folder has everything"
    )


def test_a_project_that_wandb_refuses_is_named_before_anything_is_scored(tmp_path):
    with pytest.raises(UserError, match=r"tracker\.project='a/b' is refused by W&B: Invalid project name"):
        WandbTracker(tmp_path, {}, "a/b", mode="offline")


def test_the_dashboard_names_a_refused_variable_in_one_line(fresh_wandb, capsys):
    fresh_wandb.setenv("WANDB_BASE_URL", "junk")
    fresh_wandb.setattr(sys, "argv", ["dashboard", "team/project"])
    with pytest.raises(SystemExit) as end:
        dashboard.main()
    (line,) = capsys.readouterr().err.splitlines()
    assert end.value.code == 2 and line.startswith("error: W&B refused: ") and "valid URL" in line


class Failing:
    """A tracker of a user's, whose service is gone when it is told something."""

    def __init__(self, **_): ...

    def __getattr__(self, name):
        def fail(*_, **__):
            raise ConnectionError(f"{name}: the service is gone")

        return fail


def test_a_tracker_that_fails_at_the_end_costs_a_warning_and_the_page_is_made(tmp_path, monkeypatch):
    small = (
        "dataset.limit=2",
        "gallery=0",
        "changed=0",
        "text_processor=baseline",
        f"hydra.run.dir={tmp_path / 'run'}",
    )
    code, out, err = command(*small, "tracker._target_=tests.test_environment.Failing")
    assert code == 0 and "warning: the tracker failed: close: the service is gone" in err, err
    assert (tmp_path / "run" / "report.html").is_file() and (tmp_path / "run" / "summary.json").is_file()
    code, out, _ = command(*small, "tracker=none")  # the same command tells the tracker what it did not hear
    assert code == 0 and "tracker made again" in out
    assert "nothing to do" in command(*small, "tracker=none")[1]


@pytest.fixture
def launcher():
    """launcher=gpus or ray_cluster as their YAML has them."""
    pytest.importorskip("ray")

    def make(name, **init):
        cfg = OmegaConf.load(config.CONF / "hydra" / "launcher" / f"{name}.yaml")
        cfg.ray.init.update(init)
        return RayLauncher(cfg.ray, gpus=2)

    return make


def test_gpus_start_a_ray_of_their_own_whatever_is_set(launcher, monkeypatch):
    from hydra_plugins.attrbind_exp_launchers import _ray

    given = []
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    monkeypatch.setattr(_ray.ray, "init", lambda **options: given.append(options))
    monkeypatch.setattr(_ray, "check_cluster", lambda address: given.append(address))
    _ray.start(launcher("gpus"))
    (own,) = given
    assert own["address"] == "local" and own["num_gpus"] == 2 and own["object_store_memory"] == 78643200
    given.clear()
    _ray.start(launcher("gpus", address="auto"))  # asked for, a cluster that is there is taken with what it has
    assert given == ["auto", {"address": "auto", "log_to_driver": False}]
    given.clear()
    _ray.start(launcher("ray_cluster"))
    assert given == ["auto", {"address": "auto", "log_to_driver": False}]


@pytest.mark.parametrize("error", [RuntimeError("Timed out waiting\nfor the file gcs_port"), Exception("no raylet")])
def test_a_ray_that_does_not_start_is_one_line(launcher, monkeypatch, error):
    from hydra_plugins.attrbind_exp_launchers import _ray

    def fail(**_):
        raise error

    monkeypatch.setattr(_ray.ray, "init", fail)
    last = str(error).split("\n")[-1]
    with pytest.raises(UserError, match=f"Ray does not start here .*{last}.* choose launcher=local"):
        _ray.start(launcher("gpus"))


def test_a_cluster_that_does_not_answer_is_named_in_time(launcher, monkeypatch):
    from hydra_plugins.attrbind_exp_launchers import _ray

    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    monkeypatch.setattr(_ray, "CONNECT", 3)
    monkeypatch.setattr(_ray.ray, "init", lambda **_: pytest.fail("no Ray was there"))
    named = (
        "address is 'auto', and RAY_ADDRESS is '127.0.0.1:9' .no answer within 3 s.; start one by 'ray start --head'"
    )
    with pytest.raises(UserError, match=named):
        _ray.start(launcher("ray_cluster"))
    monkeypatch.setenv("RAY_ADDRESS", "no address/at all")
    monkeypatch.setattr(_ray, "CONNECT", 60)
    with pytest.raises(UserError, match="Invalid address format: no address/at all"):
        _ray.start(launcher("ray_cluster"))


def test_an_error_is_explained_by_its_last_line_cut_at_line_breaks_alone():
    assert (
        explain(RuntimeError("Traceback ..\n  in f\nRuntimeError: \u2028odd\x85name"))
        == "RuntimeError: \u2028odd\x85name"
    )
    assert explain(KeyError()) == "KeyError"
