"""What a run meets outside itself: odd paths, a file system without locks, others who start at once, Ray, a tracker
that fails. What W&B does with odd variables: test_tracker.py."""

import errno
import fcntl
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from omegaconf.errors import InterpolationKeyError

from attrbind_exp import config
from attrbind_exp.commands import command_line
from attrbind_exp.commands.run_folder import make_new_folder
from attrbind_exp.runs.shown import shell_command
from attrbind_exp.runs.store import RunStore
from attrbind_exp.types import UserError
from hydra_plugins.attrbind_exp_launchers.launchers import RayLauncher, explain
from tests.test_command import command

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
    from hydra_plugins.attrbind_exp_launchers import _ray_cluster as _ray

    given = []
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    for name in [n for n in os.environ if n.startswith("HF_") or n == "PYTHONPATH"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(_ray.ray, "init", lambda **options: given.append(options))
    monkeypatch.setattr(_ray, "check_cluster", lambda address: given.append(address))
    _ray.start(launcher("gpus"))
    (own,) = given
    assert own["address"] == "local" and own["num_gpus"] == 2 and own["object_store_memory"] == 78643200
    given.clear()
    _ray.start(launcher("gpus", address="auto"))  # asked for, a cluster that is there is taken with what it has
    found = {"env_vars": {"HF_HUB_OFFLINE": "1"}}  # a cluster's workers inherit nothing
    assert given == ["auto", {"address": "auto", "log_to_driver": False, "runtime_env": found}]
    given.clear()
    _ray.start(launcher("ray_cluster"))
    assert given == ["auto", {"address": "auto", "log_to_driver": False, "runtime_env": found}]


@pytest.mark.parametrize("error", [RuntimeError("Timed out waiting\nfor the file gcs_port"), Exception("no raylet")])
def test_a_ray_that_does_not_start_is_one_line(launcher, monkeypatch, error):
    from hydra_plugins.attrbind_exp_launchers import _ray_cluster as _ray

    def fail(**_):
        raise error

    monkeypatch.setattr(_ray.ray, "init", fail)
    last = str(error).split("\n")[-1]
    with pytest.raises(UserError, match=f"Ray does not start here .*{last}.* choose launcher=local"):
        _ray.start(launcher("gpus"))


def test_a_cluster_that_does_not_answer_is_named_in_time(launcher, monkeypatch):
    from hydra_plugins.attrbind_exp_launchers import _ray_cluster as _ray

    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    monkeypatch.setattr(_ray, "CONNECT", 1)
    monkeypatch.setattr(_ray.ray, "init", lambda **_: pytest.fail("no Ray was there"))
    named = (
        "address is 'auto', and RAY_ADDRESS is '127.0.0.1:9' .no answer within 1 s.; start one by 'ray start --head'"
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
    with pytest.raises(InterpolationKeyError) as refused:
        OmegaConf.to_container(OmegaConf.create({"a": ["${b.c}"]}), resolve=True)
    assert explain(refused.value) == "InterpolationKeyError: Interpolation key 'b.c' not found"
    wrapped = ValueError("Error in call to target\nfull_key: refine")
    wrapped.__cause__ = UserError("give the folder")  # as Hydra does with what a constructor raises
    assert explain(wrapped) == "give the folder"
