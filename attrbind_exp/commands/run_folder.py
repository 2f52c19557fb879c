"""The folder of a run that names none: one of its own, though others start in the same second."""

from itertools import count
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, read_write

from attrbind_exp.commands.unused_folders import note_made, note_missing
from attrbind_exp.types import UserError


class NewFolder(Callback):
    """Hydra calls it when a command starts: a folder that is named by the time is made new. Any other is taken as it
    is, so that a run in it goes on."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Make the folder, and have Hydra take it. Ends the command where it cannot be made: Hydra would only warn."""
        from attrbind_exp.commands.command_line import exit_with

        path = Path(config.hydra.run.dir)
        typed: Any = OmegaConf.to_container(config.hydra.run, resolve=False)
        if "${now:" not in typed["dir"]:
            note_missing(path)
            return
        note_missing(path.parent)
        try:
            folder = make_new_folder(path)
        except UserError as error:
            exit_with(error)
        note_made(folder)
        with read_write(config.hydra):
            config.hydra.run.dir = str(folder)

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Note what is there before Hydra makes the sweep's folder."""
        note_missing(Path(config.hydra.sweep.dir))


def make_new_folder(path: Path) -> Path:
    """Make a new folder and return its path: `path`, or the first of its name with _2, _3 .. that is not there yet.

    Of several processes that make a folder of one name at once, one does and the others fail: so none is had twice.
    Raises UserError where it cannot be made.
    """
    try:
        for number in count(1):
            new = path if number == 1 else path.with_name(f"{path.name}_{number}")
            try:
                new.mkdir(parents=True)
                break
            except FileExistsError:
                continue
    except OSError as error:
        raise UserError(
            f"cannot make the run folder '{path.absolute()}': {error.strerror}; give hydra.run.dir=FOLDER that can be "
            "written"
        ) from error
    return new
