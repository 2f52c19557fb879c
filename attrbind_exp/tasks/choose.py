"""The task of a dataset: the one place that asks what kind of dataset it is."""

from attrbind_exp.data.dataset import Dataset
from attrbind_exp.tasks.classes import ClassTask
from attrbind_exp.tasks.expressions import ExpressionTask
from attrbind_exp.tasks.settings import RunSettings
from attrbind_exp.tasks.task import Task


def choose_task(dataset: Dataset, settings: RunSettings) -> Task:
    """Class-wise scoring where the dataset has classes, else expression by expression."""
    return ClassTask(dataset, settings) if dataset.classes else ExpressionTask(dataset, settings)
