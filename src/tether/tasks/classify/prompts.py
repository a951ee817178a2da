"""Class names to sentences: built-in sets of templates, and a check of the user's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tether.core.atomic_io import read_text
from tether.core.component import closest
from tether.core.errors import InputError
from tether.core.printable import is_text, printable

SLOT = "{}"

TEMPLATES: Mapping[str, tuple[str, ...]] = {
    "name": ("{}",),
    "photo": ("a photo of a {}.",),
    "photos": (
        "a photo of a {}.",
        "a close-up of a {}.",
        "a {} seen from afar.",
        "a dim image of a {}.",
        "a sharp image of a {}.",
        "part of a {}.",
        "a small {}.",
        "a large {}.",
        "several of the {}.",
        "the {} in front of a plain wall.",
        "the {} outdoors.",
        "a cropped photo of the {}.",
    ),
    "drawings": ("{}", "a drawing of a {}.", "an icon of a {}.", "a symbol for {}.", "a cartoon of a {}.", "{} emoji"),
}
"""Built-in sets: ``name`` is the bare class name (for models trained on bare names), ``photo`` CLIP's plain default
(arXiv 2103.00020, section 3.1.4), ``photos`` an ensemble for photographs, ``drawings`` one for icons and emoji."""


def own_templates(model: object) -> tuple[str, ...]:
    """The templates that suit a model: its own ``templates`` where it has some, else ``photo``."""
    return tuple(getattr(model, "templates", TEMPLATES["photo"]))


def templates_of(given: str | Path | Sequence[str]) -> tuple[str, ...]:
    """A set of templates.

    Args:
        given: the name of a built-in set, one template, the path of a text file with one on each line, or a list.
    """
    if isinstance(given, str) and given in TEMPLATES:
        return TEMPLATES[given]
    if isinstance(given, str) and SLOT in given:
        return checked_templates([given], where="template")
    if isinstance(given, (str, Path)):
        if not _is_file(given):
            known = closest(str(given), TEMPLATES)
            raise InputError(f"templates: {str(given)!r} is neither a file nor a template with {SLOT}; {known}")
        return checked_templates(lines_of(Path(given)), where=str(given))
    return checked_templates(given, where="templates")


def checked_templates(templates: Sequence[str], *, where: str) -> tuple[str, ...]:
    """The same templates, each with exactly one ``{}``."""
    if not templates:
        raise InputError(f"{where}: expected at least one template, such as 'a photo of a {SLOT}.'")
    for template in templates:
        if template.count(SLOT) != 1:
            raise InputError(f"{where}: expected exactly one {SLOT} in a template, got {template!r}")
    return tuple(dict.fromkeys(templates))


def classes_of(given: str | Path | Sequence[str]) -> tuple[str, ...]:
    """Class names.

    Args:
        given: a list, names with commas between them, or the path of a text file with one on each line.
    """
    where = "classes"
    if isinstance(given, (str, Path)):
        if _is_file(given):
            where, names = str(given), lines_of(Path(given))
        elif isinstance(given, Path) or given.endswith(".txt"):
            raise InputError(f"classes: {str(given)!r}: no such file")
        else:
            names = [part.strip() for part in given.split(",")]
            names = [] if names == [""] else names
    else:
        names = [name.strip() for name in given]
    if not names:
        raise InputError(f"{where}: expected at least one class, got none")
    seen: dict[str, int] = {}
    for number, name in enumerate(names):
        if not is_text(name) or "\0" in name:
            raise InputError(f"{where}: class {number + 1} of {len(names)} is not text: {printable(name)}")
        if not name:
            raise InputError(f"{where}: class {number + 1} of {len(names)} has an empty name")
        if name in seen:
            raise InputError(f"{where}: class {name!r} comes twice (numbers {seen[name] + 1} and {number + 1})")
        seen[name] = number
    return tuple(names)


def lines_of(path: Path) -> list[str]:
    """The lines of a text file that are not empty, without spaces around them."""
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def _is_file(given: str | Path) -> bool:
    """Whether it names a file; a long list of names is too long for one."""
    try:
        return Path(given).is_file()
    except OSError:
        return False
