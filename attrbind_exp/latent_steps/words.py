"""Which words of a prompt a loss speaks of, as positions of the text window."""

from dataclasses import dataclass

from attrbind_exp.edits.phrases import in_prompt
from attrbind_exp.language.window import TextWindow
from attrbind_exp.types import Phrase, Prompt

Word = tuple[int, ...]  # the positions of its tokens


@dataclass(frozen=True)
class Thing:
    """A noun and the words before it that say what it is like."""

    noun: Word
    attributes: tuple[Word, ...] = ()

    @property
    def positions(self) -> tuple[int, ...]:
        """Of all of its words, in order."""
        return tuple(sorted({p for word in (self.noun, *self.attributes) for p in word}))


@dataclass(frozen=True)
class Words:
    """A prompt's things, and the positions of all of its text (`content`)."""

    things: tuple[Thing, ...]
    content: tuple[int, ...]

    def place(self, position: int) -> int:
        """Which of the content a position is."""
        return self.content.index(position)


def find_words(prompt: Prompt, window: TextWindow) -> Words:
    """The words of a prompt, as its parse has them. What lies beyond the window is left out; where a prompt was
    corrected by hand or nothing was parsed, its target is a thing all the same."""
    tokens = window([prompt.text])[0]
    phrases = prompt.parse.phrases or (Phrase(prompt.parse.chunk, prompt.parse.target),)
    found = []
    for phrase in phrases:
        noun, *attributes = (tokens.at(*in_prompt(prompt, span)) for span in (phrase.noun, *phrase.attributes))
        if noun:
            found.append(Thing(noun, tuple(word for word in attributes if word)))
    return Words(tuple(found), tokens.content)
