"""Items of chat as a table: texts of message and context, and numbers that say what a moderator would look for."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from tether.core.ranges import checked
from tether.data.sets.norms.stream_norms import CATEGORIES, JUDGED, ChatItem, Step
from tether.data.sets.norms.table import NormTable

MESSAGE_NUMBERS = ("length", "capitals", "link", "mention", "emotes")
"""What the message alone tells."""
CONTEXT_NUMBERS = ("repeats", "per_minute", "other_language")
"""What only the context tells: equal messages, their rate, words of another language than the channel's."""
_LINK = re.compile(r"https?://|www\.|\b\w+\.(?:com|net|org|tv|gg|io|ly)\b", re.IGNORECASE)
_EMOTE = re.compile(r"\b[a-z]+[A-Z]\w+\b|\b[A-Z][a-z]+[A-Z]\w*\b|[\U0001f300-\U0001faff]|[:;]-?[()DP]")
_WORD = re.compile(r"[^\W\d_]+")
_SMALL_WORDS = {
    "en": "the a of to and is are you i it that this for with not what my on was have do be so but",
    "es": "el la los las de que y es no un una por con para se lo como pero muy mi tu está hay más",
    "de": "der die das und ist nicht ein eine zu mit ich du es auf für wie aber sehr mein wir auch noch",
    "fr": "le la les de des et est pas un une pour avec je tu il que qui dans sur mais très mon nous",
    "pt": "o a os as de que e é não um uma por com para se como mas muito meu você está tem mais",
}
_SCRIPTS = {"ko": r"[\uac00-\ud7af]", "ja": r"[\u3040-\u30ff\u4e00-\u9fff]", "zh": r"[\u4e00-\u9fff]",
            "ru": r"[\u0400-\u04ff]", "th": r"[\u0e00-\u0e7f]", "ar": r"[\u0600-\u06ff]"}  # fmt: skip


def chat_numbers(item: ChatItem) -> dict[str, float]:
    """Numbers of one item, by the names of ``MESSAGE_NUMBERS`` and ``CONTEXT_NUMBERS``.

    Example:
        >>> from tether.data.sets.norms import ChatItem, chat_numbers
        >>> item = ChatItem("0", "GO", ("go", "hi"), (), "mine", "", "en", "ban", 1.0, {3: None}, {3: None})
        >>> chat_numbers(item)["repeats"], chat_numbers(item)["capitals"]
        (1.0, 1.0)
    """
    text = item.message
    letters = [letter for letter in text if letter.isalpha()]
    plain = " ".join(_WORD.findall(text.lower()))
    same = sum(plain == " ".join(_WORD.findall(one.lower())) for one in item.user_context)
    return {
        "length": float(np.log1p(len(text))),
        "capitals": sum(letter.isupper() for letter in letters) / len(letters) if letters else 0.0,
        "link": float(bool(_LINK.search(text))),
        "mention": float("@user" in text),
        "emotes": float(np.log1p(len(_EMOTE.findall(text)))),
        "repeats": float(same),
        "per_minute": float(np.log1p(item.per_minute)),
        "other_language": _foreign(text, item.language),
    }


def _foreign(text: str, language: str) -> float:
    """1 where small words or letters are of another language, -1 of the channel's, 0 where nothing tells."""
    letters = [letter for letter in text if letter.isalpha()]
    if not language or not letters:
        return 0.0
    written = next((name for name, script in _SCRIPTS.items() if len(re.findall(script, text)) > len(letters) / 2), "")
    if written:
        return -1.0 if language[:2] == written or {written, language[:2]} == {"ja", "zh"} else 1.0
    if language[:2] in _SCRIPTS:
        return 1.0
    words = _WORD.findall(text.lower())
    hits = {name: sum(word in small.split() for word in words) for name, small in _SMALL_WORDS.items()}
    own, other = hits.pop(language[:2], 0), max(hits.values())
    return float(np.sign(other - own))


@checked
def chat_table(
    items: Sequence[ChatItem], *, step: Step = 3, name: str = "NormVio", remarks: tuple[str, ...] | None = None
) -> NormTable:
    """One row an item: ``message``, ``user_context``, ``chat_context`` and ``channel``; the group is the channel.

    Args:
        items: of ``load_stream_norms``.
        step: whose labels are taken: 1 of the message alone, 3 of all that the annotators saw.
        name: of the table.
        remarks: for the report; None takes those of the loader.
    """
    numbers = [chat_numbers(item) for item in items]
    return NormTable(
        name=name,
        fields={
            "message": tuple(item.message for item in items),
            "user_context": tuple(" / ".join(item.user_context) for item in items),
            "chat_context": tuple(" / ".join(item.chat_context) for item in items),
            "channel": tuple(f"{item.language} {item.title}".strip() for item in items),
        },
        labels=tuple(_known(item.labels[step]) for item in items),
        classes=CATEGORIES,
        groups=tuple(item.channel for item in items),
        rows=tuple(range(1, len(items) + 1)),
        judged=JUDGED,
        ids=tuple(item.id_hash for item in items),
        facets={"action": tuple(item.action for item in items)},
        numbers={key: _column(numbers, key) for key in (*MESSAGE_NUMBERS, *CONTEXT_NUMBERS)},
        optional=frozenset({"user_context", "chat_context", "channel"}),
        remarks=getattr(items, "remarks", ()) if remarks is None else remarks,
    )


def _known(label: str | None) -> str:
    return label if label in CATEGORIES else ""


def _column(numbers: Sequence[dict[str, float]], key: str) -> Float[np.ndarray, " n"]:
    return np.array([row[key] for row in numbers])
