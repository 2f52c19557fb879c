"""Edits of the text embedding: the paper's two, and those of others."""

from attrbind_exp.edits.averaging import Averaging
from attrbind_exp.edits.edit import Edit
from attrbind_exp.edits.noun_chunk import NounChunk
from attrbind_exp.edits.text_blind import TextBlind
from attrbind_exp.edits.variant import Variant
from attrbind_exp.edits.weight import Weight

__all__ = ["Averaging", "Edit", "NounChunk", "TextBlind", "Variant", "Weight"]
