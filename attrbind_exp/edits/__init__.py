"""Edits of the text embedding: the paper's two, and those of others."""

from attrbind_exp.edits.all_chunks import AllChunks
from attrbind_exp.edits.averaging import Averaging
from attrbind_exp.edits.compel_down import CompelDown
from attrbind_exp.edits.contextless import Contextless
from attrbind_exp.edits.edit import Edit
from attrbind_exp.edits.encoder_layer import EncoderLayer
from attrbind_exp.edits.magnet import Magnet
from attrbind_exp.edits.merge import Merge
from attrbind_exp.edits.noun_chunk import NounChunk
from attrbind_exp.edits.padding import EndToken, Padding
from attrbind_exp.edits.scale import Scale
from attrbind_exp.edits.text_blind import TextBlind
from attrbind_exp.edits.variant import Variant
from attrbind_exp.edits.weight import Weight

__all__ = [
    "AllChunks",
    "Averaging",
    "CompelDown",
    "Contextless",
    "Edit",
    "EncoderLayer",
    "EndToken",
    "Magnet",
    "Merge",
    "NounChunk",
    "Padding",
    "Scale",
    "TextBlind",
    "Variant",
    "Weight",
]
