"""config.yaml of a run's folder as text: checked, since a folder may come from anybody, before it is made into more."""

from pathlib import Path

import yaml

from attrbind_exp.types import UserError

NAME = "config.yaml"
MOST_DEEP = 50  # what a run writes has eight levels at most
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same in C, where PyYAML was built with it


def read_configuration(folder: Path) -> str:
    """The text of config.yaml.

    Raises UserError for a file that cannot be read, is no YAML, or is what no run writes: nested so deeply that
    building it ends the process, or with parts that refer to others, which can be made to fill any memory.
    """
    file, deep = folder / NAME, 0
    try:
        text = file.read_bytes().decode("utf-8")
        for event in yaml.parse(text, LOADER):  # events build nothing
            if isinstance(event, yaml.AliasEvent):
                raise UserError(f"'{file}' refers to its own parts (*{event.anchor[:40]}), which no run writes; {MEND}")
            if isinstance(event, yaml.CollectionStartEvent | yaml.CollectionEndEvent):
                deep += 1 if isinstance(event, yaml.CollectionStartEvent) else -1
                if deep > MOST_DEEP:
                    raise UserError(f"'{file}' is nested more than {MOST_DEEP} deep, which no run writes; {MEND}")
    except OSError as error:
        raise UserError(f"cannot read '{file}' ({error.strerror}); it belongs to a run's folder") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read '{file}' ({' '.join(str(error).split())[:200]}); {MEND}") from error
    return text


MEND = "get the folder again, or run again"
