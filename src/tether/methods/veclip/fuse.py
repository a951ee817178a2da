"""Alt-text and description fused into one sentence (VeCLIP), with a guard for what a language model may answer."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any, Literal, final

from tether.core.errors import InputError
from tether.data.captions.augment import bare
from tether.data.captions.lexicon import ENGLISH, lexicon
from tether.data.captions.rewriter import Fuser

LONGEST = 2.0
"""A fused text of more words than this times those of both inputs is thrown away."""
_SPARE = 8  # words that a fused text may have more, so that short inputs are not held to a word or two
_REFUSALS = (
    *("i cannot", "i can't", "i can’t", "i am unable", "i'm unable", "i’m unable", "i am not able", "i'm not able"),
    *("i'm sorry", "i’m sorry", "i am sorry", "sorry,", "as an ai", "as a language model", "unfortunately, i"),
)
_SAYS_NOTHING = re.compile(
    r"^(?:(?:in )?(?:this|the) (?:image|picture|photo|photograph|scene)(?: (?:shows|displays|depicts|features|contains)"
    r"| (?:is|appears to be) (?:of)?|,)|there (?:is|are)|(?:an?|the) (?:image|picture|photo|photograph) of|"
    r"(?:we|you) (?:can )?see)\s+",
    re.IGNORECASE,
)
_FILE = re.compile(r"\.(?:jpe?g|png|gif|webp|bmp|tiff?|svg|heic)\b", re.IGNORECASE)
_CODE = re.compile(r"\d|^(?:img|dsc|dscn|pict?|image|photo|picture|untitled|thumb|thumbnail|screenshot)$")


def fuse_captions(alt: str, *, visual: str, fuser: Fuser) -> str:
    """One sentence of both texts; where the fuser fails, the description, or the alt-text if there is none.

    A result is a failure when it is blank, begins like a refusal, or has more than twice the words of both inputs
    together (and eight more). Where one input is blank there is nothing to fuse, and the other is given.

    Source: arXiv 2310.07699, section 3.2; the guard is ours.

    Args:
        alt: the text from the web.
        visual: what a captioning model says of the image.
        fuser: any.
    """
    alt, visual = (" ".join(text.split()) for text in (alt, visual))
    if not alt and not visual:
        raise InputError("alt and visual: expected a text, got two blank ones")
    plain = without_phrases(visual)
    if not alt or not visual:
        return plain or alt
    fused = without_phrases(" ".join(fuser.fuse(alt, visual=visual).split()))
    most = LONGEST * (len(alt.split()) + len(visual.split())) + _SPARE
    if not fused or fused.lower().startswith(_REFUSALS) or len(fused.split()) > most:
        return plain
    return fused


def without_phrases(text: str) -> str:
    """A description without the phrase that all of them begin with, such as ``The image shows``."""
    core = " ".join(text.split())
    left = core
    while (found := _SAYS_NOTHING.match(left)) is not None:
        left = left[found.end() :]
    return left or core


@final
class TemplateFuser:
    """The words that only the alt-text has, then the description: a union of what both name, without a model.

    Words of file names, numbers, stop words and repeats are left out.

    Source: stands in for the language model of arXiv 2310.07699, section 3.2.
    """

    def __init__(self, *, keep: Literal["all"] | Collection[str] = "all", words: str = ENGLISH) -> None:
        """Take the settings.

        Args:
            keep: which words of the alt-text may come, ``all`` or a collection in small letters; a language model
                drops names that it does not know, which a collection of known words imitates.
            words: lexicon whose stop words are left out, ``english`` or a YAML file.
        """
        if isinstance(keep, str) and keep != "all":
            raise InputError(f"keep: expected 'all' or a collection of words, got {keep!r}")
        self._keep = None if isinstance(keep, str) else frozenset(keep)
        self._lexicon = lexicon(words)

    @property
    def settings(self) -> dict[str, Any]:
        """Constructor keywords as plain values; the words that are kept by their number."""
        return {"keep": "all" if self._keep is None else len(self._keep), "words": self._lexicon.name}

    def fuse(self, alt: str, *, visual: str) -> str:
        """``words of the alt-text, description``."""
        visual = without_phrases(visual)
        said = {bare(word) for word in visual.split()}
        extra: list[str] = []
        for word in _FILE.sub(" ", alt).replace("_", " ").replace("-", " ").split():
            core = bare(word)
            if not core or core in said or core in self._lexicon.stopwords or _CODE.search(core):
                continue
            if self._keep is None or core in self._keep:
                extra.append(core)
                said.add(core)
        return ", ".join(part for part in (" ".join(extra), visual) if part)
