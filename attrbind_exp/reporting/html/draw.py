"""A run's settings -> those of the command that draws one of its expressions."""

from attrbind_exp.paths import options
from attrbind_exp.runs.shown import shell_command
from attrbind_exp.runs.summary import Summary

# What a run may have been told that `attrbind segment` understands as well.
SHARED = ("model", "text_processor", "alpha", "heatmap", "attention_layers", "latent_steps", "seed")


def draw_settings(summary: Summary, threshold: float | None) -> str:
    """What follows the picture and the expression after `attrbind segment`, such as "model=sd15 alpha=0.9
    threshold=0.50"; "" where images were scored and not expressions, where another system was, and where no option is
    called as the model is (model.name=mine): of which option it was a variation, a summary does not say."""
    if summary.scored != "expressions" or summary.command == "score":
        return ""
    told = [word for word in summary.overrides if _key(word).split(".")[0] in SHARED]
    told = [word for word in told if _key(word) != "text_processor.overrides"]  # a file of parses of this very data
    if not any(_key(word) == "model" for word in told):
        if summary.model_name not in options("model"):
            return ""
        told = [f"model={summary.model_name}", *told]
    return shell_command([*told, *([] if threshold is None else [f"threshold={threshold:.2f}"])])


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")
