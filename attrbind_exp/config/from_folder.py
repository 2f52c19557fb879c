"""The configuration of a run's folder, which may come from anybody: nothing that it names is called unless an option of
ours or of the user's own folder names the same."""

import io
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from attrbind_exp.paths import CONF, SWEEPS, own_folder
from attrbind_exp.runs.configuration import LOADER, MEND, NAME, read_configuration
from attrbind_exp.types import UserError

LIBRARIES = (OmegaConfBaseException, HydraException, yaml.YAMLError)
TARGET = "_target_"  # names what Hydra calls


def read_config(folder: Path, trusted: Collection[str] = ()) -> DictConfig:
    """The composed configuration of a run. `trusted`: what may be called besides.

    Raises UserError where it cannot be read, refers to anything outside of it, or names a class or function that no
    option names.
    """
    file = folder / NAME
    text = read_configuration(folder)
    with naming_config(folder):
        cfg = OmegaConf.load(io.StringIO(text))
        if not isinstance(cfg, DictConfig):
            raise UserError(f"'{file}' is no configuration, but a list or a single value; {MEND}")
        plain: Any = OmegaConf.to_container(cfg, resolve=False)
    for place, value in walk(plain):
        if isinstance(value, str) and "${" in value:
            raise UserError(f"'{file}' has {'.'.join(place)}: {value[:80]!r}; a run writes no references; {MEND}")
        target = str(value)
        if place[-1] == TARGET and target not in {*trusted, *allowed_targets(place[0], own_folder())}:
            raise UserError(
                f"'{file}' names '{target[:80]}' in {'.'.join(place)}, which no option of {place[0]} names; if you "
                "trust it, give --config-dir=DIR with an option that does"
            )
    return cfg


def walk(value: object, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], object]]:
    """Every value in nested dicts and lists that is neither, with the keys that lead to it; what stands at TARGET in
    any case."""
    if place and place[-1] == TARGET:
        yield place, value
    elif isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from walk(inner, (*place, str(key)))
    else:
        yield place or ("",), value


def targets_in(plain: object) -> set[str]:
    """All that a configuration names to be called."""
    return {str(value) for place, value in walk(plain) if place[-1] == TARGET}


@cache
def allowed_targets(group: str, own: Path | None) -> frozenset[str]:
    """What the options of a group name to be called, ours and those of the user's `own` folder, and all sweeps; what
    these hand to Hydra is none of it."""
    if not group.isidentifier():  # a group is a folder; this is none
        return frozenset()
    folders = [CONF / group, SWEEPS, *([own / group, own / "sweeps"] if own else [])]
    found: set[str] = set()
    for file in (file for folder in folders for file in sorted(folder.rglob("*.yaml"))):
        try:
            node = yaml.load(file.read_text(encoding="utf-8"), LOADER)
            found |= targets_in({k: v for k, v in node.items() if k != "hydra"} if isinstance(node, dict) else node)
        except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read '{file}' ({' '.join(str(error).split())}); mend it or remove it") from error
    return frozenset(found)


@contextmanager
def naming_config(folder: Path) -> Iterator[None]:
    """Makes one line of what goes wrong while the configuration in `folder` is used: a value of another kind than a run
    writes can end in any of these errors."""
    try:
        yield
    except UserError:
        raise
    except (
        OmegaConfBaseException,
        HydraException,
        yaml.YAMLError,
        AttributeError,
        LookupError,
        TypeError,
        ValueError,
    ) as error:
        if isinstance(error.__cause__, UserError):  # Hydra wraps what a constructor raises
            raise error.__cause__ from error
        said = " ".join(str(error).split())[:200]
        raise UserError(f"'{folder / NAME}' is no configuration that this version writes ({said}); {MEND}") from error
