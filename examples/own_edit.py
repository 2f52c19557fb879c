"""An edit of your own: the noun as it is encoded without its modifiers, so that its colour is no longer heard."""

from attrbind_exp import Edit, load_segmenter
from attrbind_exp.paths import PACKAGE


class NounAlone(Edit):
    def texts(self, prompt):  # what must be encoded besides the prompt
        return (prompt.prefix + prompt.parse.target_text,)

    def apply(self, E, encoded, prompt):
        alone, edited = encoded[self.texts(prompt)[0]], E.clone()
        edited[list(prompt.q)] = alone.states[list(alone.tokens.content)[-len(prompt.q) :]]
        return edited


picture = PACKAGE / "assets" / "shapes" / "images" / "test_0001.jpg"
load_segmenter().compare(picture, "the white circle", ["baseline", NounAlone()]).save("own_edit.png")
