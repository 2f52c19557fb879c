"""Where the configuration lies: conf/, sweeps/, and a user's own folder of options beside them. Loads no library."""

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
# In a wheel conf/ lies inside the package, in a checkout beside it.
CONF = next(p for p in (PACKAGE / "conf", PACKAGE.parent / "conf") if p.is_dir())
SWEEPS = CONF.parent / "sweeps"
OWN_FOLDER = "ATTRBIND_EXP_CONFIG_DIR"  # names the folder of --config-dir to every process of a command


def own_folder() -> Path | None:
    """The user's own folder of options and Python files, which --config-dir named; None where there is none."""
    named = os.environ.get(OWN_FOLDER)
    return Path(named) if named else None


def option_files(group: str) -> dict[str, Path]:
    """The files of a config group by option, "_common" and its like left out: ours, then those of the user's folder.
    Of two with the same name ours is taken, as Hydra does."""
    own = own_folder()
    ours = SWEEPS if group == "sweeps" else CONF / group
    found = [f for folder in (ours, *([own / group] if own else [])) for f in sorted(folder.glob("*.yaml"))]
    return {f.stem: f for f in reversed(found) if not f.stem.startswith("_")}


def options(group: str) -> list[str]:
    """The options of a config group by name, those of the user's folder among them."""
    return sorted(option_files(group))
