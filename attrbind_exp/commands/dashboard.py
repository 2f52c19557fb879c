"""python -m attrbind_exp.dashboard ENTITY/PROJECT: a W&B workspace of curves and tables. Needs an account."""

import argparse

from attrbind_exp.commands.start import as_called
from attrbind_exp.commands.table import SAID_HELP
from attrbind_exp.commands.verbosity import taking_verbosity
from attrbind_exp.types import UserError


@taking_verbosity()
def main() -> None:
    """Save the workspace and print its address."""
    parser = argparse.ArgumentParser(
        epilog=SAID_HELP, prog=as_called("python -m attrbind_exp.dashboard"), description=as_called(__doc__)
    )
    parser.add_argument("project", help="ENTITY/PROJECT")
    parser.add_argument("--sweep", help="only the runs of this group, such as table3_alpha/refcoco_sd15")
    given = parser.parse_args()
    entity, slash, project = given.project.partition("/")
    if not (entity and slash and project):
        parser.error(f"'{given.project}' is no ENTITY/PROJECT; give both, such as my-team/attrbind_exp")
    from attrbind_exp.tracking.dashboard import save_workspace  # loads wandb, which --help does without

    try:
        print(save_workspace(entity, project, given.sweep))
    except UserError as error:
        parser.error(str(error))
