"""One thing that a run compares."""

from dataclasses import dataclass

from attrbind_exp.edits.edit import Edit


@dataclass(frozen=True)
class Variant:
    """One thing that a run compares: edits of the text embedding, and a way of reading attention.

    `method`: the name of the edits; `edits`: applied one after the other, none for the baseline; `alpha`: what tells
    variants of one method apart; `heatmap`: the heat-map method that reads it, None where the run has a single one;
    `layers`: which of MapSettings.grid makes its map, None = the settings' own choice.
    """

    method: str
    edits: tuple[Edit, ...] = ()
    alpha: float | None = None
    heatmap: str | None = None
    layers: str | None = None

    @property
    def name(self) -> str:
        """The method, and how it is read where a run compares several ways: "baseline layers=up"."""
        read = {"heatmap": self.heatmap, "layers": self.layers}
        return " ".join([self.method, *(f"{key}={value}" for key, value in read.items() if value)])

    @property
    def label(self) -> str:
        """Short unique name: "baseline", "attribute_binding alpha=0.9"."""
        return self.name if self.alpha is None else f"{self.name} alpha={self.alpha:g}"

    @property
    def edit(self) -> tuple[str, float | None]:
        """Method and alpha: variants that share both share their passes."""
        return self.method, self.alpha
