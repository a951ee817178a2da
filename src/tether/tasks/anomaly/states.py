"""Texts of what is as it should be and of what is damaged (arXiv 2303.14814, appendix A)."""

from __future__ import annotations

from collections.abc import Sequence

from tether.core.errors import InputError
from tether.core.printable import is_text
from tether.models.texts.defect_states import DEFECTIVE, NORMAL, TEMPLATES
from tether.tasks.classify.prompts import SLOT, checked_templates


def checked_name(name: str) -> str:
    """The name of a thing without blanks around it; refused where it is no text."""
    name = name.strip()
    if not name or not is_text(name) or "\0" in name:
        raise InputError(f"object: expected the name of what the images show, got {name!r}")
    return name


def prompt_ensemble(name: str, *, templates: Sequence[str] | None = None) -> tuple[list[str], list[str]]:
    """Every state of a thing in every sentence: normal ones and defective ones.

    Args:
        name: of the thing, such as ``magnetic tile``.
        templates: sentences with ``{}`` for the thing and its state; None takes ``TEMPLATES``.

    Raises:
        InputError: a name that is no text, or a template without ``{}``.

    Example:
        >>> from tether.tasks.anomaly.states import prompt_ensemble
        >>> normal, defective = prompt_ensemble("tile")
        >>> len(normal), len(defective), normal[0], defective[-1]
        (154, 88, 'a cropped photo of a tile.', 'a photo of the large tile with damage.')
    """
    name = checked_name(name)
    chosen = TEMPLATES if templates is None else checked_templates(templates, where="templates")
    normal, defective = (
        [template.replace(SLOT, state.replace(SLOT, name)) for state in states for template in chosen]
        for states in (NORMAL, DEFECTIVE)
    )
    return normal, defective
