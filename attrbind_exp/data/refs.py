"""What stands in a ref: checked before it is used, since a refs file may hold anything."""

from collections.abc import Sequence
from typing import Any

from attrbind_exp.data.annotations import Ref, Sentence, is_id, shown


def describe_targets(refs: Sequence[Ref]) -> str | None:
    """How refs to several objects or to none are scored, None where each names one."""
    several = sum(isinstance(r["ann_id"], list) and len(r["ann_id"]) > 1 for r in refs)
    none = sum(names_nothing(r) for r in refs)
    if not several and not none:
        return None
    return (
        f"as in gRefCOCO, {several} of {len(refs)} refs name several objects (the union of their masks is scored) and "
        f"{none} name none (counted as no_target); gRefCOCO's own measures are not made"
    )


def list_ids(ref: Ref) -> list[Any]:
    """The annotations that a ref names, whatever stands there."""
    return ref["ann_id"] if isinstance(ref["ann_id"], list) else [ref["ann_id"]]


def list_sentences(ref: Ref) -> list[Any]:
    """The sentences of a ref, whatever stands there."""
    return ref["sentences"] if isinstance(ref["sentences"], list) else []


def names_nothing(ref: Ref) -> bool:
    """Whether a ref says that it has no object."""
    return bool(ref.get("no_target")) or all(i is None or (is_id(i) and i == -1) for i in list_ids(ref))


def check_text(ref: Ref, sentence: object) -> tuple[str, str] | None:
    """Reason and message where a sentence has no text or no id, None where it has both."""
    if not isinstance(sentence, dict):
        return "text_malformed", f"ref {shown(ref['ref_id'])} has {shown(sentence)} for a sentence"
    if not is_id(ref["ref_id"]) or not is_id(sentence.get("sent_id")):
        ids = f"ref_id is {shown(ref['ref_id'])}, sent_id is {shown(sentence.get('sent_id'))}"
        return "id_malformed", f"{ids}; both must be numbers"
    text = sentence.get("sent")
    if text is None:
        return "empty_expression", f"sentence {sentence['sent_id']} has no text"
    if not isinstance(text, str):
        return "text_malformed", f"the text of sentence {sentence['sent_id']} is {shown(text)}, no text"
    return None if text.strip() else ("empty_expression", f"sentence {sentence['sent_id']} has no words")


def own_slices(sentence: Sentence) -> dict[str, str | list[str]]:
    """The slice labels that a sentence brings. What is neither text, a number nor a list of texts is none."""
    found: object = sentence.get("slices")
    labels: dict[str, str | list[str]] = {}
    for name, value in found.items() if isinstance(found, dict) else ():
        if isinstance(value, str) or (isinstance(value, list) and all(isinstance(v, str) for v in value)):
            labels[str(name)] = value
        elif isinstance(value, int | float):
            labels[str(name)] = str(value)
    return labels
