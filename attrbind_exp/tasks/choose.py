"""The task of a dataset: the one place that asks what kind of dataset it is."""

from attrbind_exp.data.dataset import Dataset
from attrbind_exp.edits.variant import described
from attrbind_exp.tasks.classes import ClassTask
from attrbind_exp.tasks.expressions import ExpressionTask
from attrbind_exp.tasks.settings import RunSettings
from attrbind_exp.tasks.task import Task
from attrbind_exp.types import UserError


def choose_task(dataset: Dataset, settings: RunSettings) -> Task:
    """Class-wise scoring where the dataset has classes, else expression by expression.

    Raises UserError for a refinement that classes cannot be scored with.
    """
    refinement = settings.refinement
    if dataset.classes and refinement is not None and not refinement.classes:
        raise UserError(
            f"refine={described(refinement)} makes masks, which cannot compete for a pixel as classes do; score a "
            "dataset of expressions, or take refine=none or refine=guided_filter"
        )
    return ClassTask(dataset, settings) if dataset.classes else ExpressionTask(dataset, settings)
