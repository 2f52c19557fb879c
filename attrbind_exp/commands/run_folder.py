"""The folder of a run that names none: one of its own, though others start in the same second."""

from itertools import count
from pathlib import Path

from omegaconf import OmegaConf

from attrbind_exp.types import UserError


def register_new_folder() -> None:
    """Let conf/*.yaml say ${new_folder:NAME}. Hydra asks for it once, when a run begins; a sweep never does."""
    OmegaConf.register_new_resolver("new_folder", make_new_folder, use_cache=True, replace=True)


def make_new_folder(name: str) -> str:
    """Make a new folder and return its path: `name`, or the first of name_2, name_3 .. that is not there yet.

    Of several processes that make a folder of one name at once, one does and the others fail: so none is had twice.
    Raises UserError where it cannot be made.
    """
    path = Path(name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for number in count(1):
            new = path if number == 1 else path.with_name(f"{path.name}_{number}")
            try:
                new.mkdir()
                break
            except FileExistsError:
                continue
    except OSError as error:
        raise UserError(
            f"cannot make the run folder '{path.absolute()}': {error.strerror}; give hydra.run.dir=FOLDER that can be "
            "written"
        ) from error
    return str(new)
