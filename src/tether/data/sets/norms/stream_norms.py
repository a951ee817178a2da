"""Moderated chat of live streams: three annotators' labels to one, context read without names (arXiv 2305.10731)."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from tether.core.atomic_io import parse_json, read_bytes, read_json
from tether.core.errors import InputError
from tether.core.printable import quoted
from tether.core.ranges import Whole, checked
from tether.data.sets.norms.table import Loaded

CATEGORIES = (
    "HIB", "Excessive & Repetitive", "Incivility", "Mentioning other broadcasters", "Specific Language Only",
    "Advertisements", "Backseating & Tall order", "Discrimination", "Begging", "NSFW", "Controversial Topic", "Privacy",
    "Self-Destructive", "Illegal", "Spoiler",
)  # fmt: skip
"""HIB is harassment, intimidation and bullying."""
UNSURE, BROKEN = "판단불가", "data_error"
_SPACED = "판단 불가"  # the same with a space, 17 times in the release, whose script counts it as a label of its own
_MISSPELT = "date_error"  # what the released script looks for at step 2, so that it never drops an item there
STEPS = (1, 2, 3)
JUDGED = "three annotators, who saw more of the context at each of three steps, and a channel's moderators before them"
_ID = re.compile(r"\d+_(ban|timeout)_(.+)_(\d{4}-\d\d-\d\d)_(.+)", re.DOTALL)
_NAME = re.compile(r"@\w+")
_TIME = "%Y-%m-%d %H:%M:%S"
_LARGEST = 2**28
_LONGEST = 200


@dataclass(frozen=True, slots=True)
class ChatItem:
    """One message that a moderator removed. No user's name is kept: mentions are ``@user``, the id is a hash.

    Attributes:
        id_hash: 16 hex digits of the item's id.
        message: that was removed.
        user_context: what its user said before, oldest first.
        chat_context: what others said before, oldest first.
        channel: who streams; items of one channel belong on one side of a split.
        title: of the stream, its game and its tags.
        language: code that the channel is set to, or the empty string.
        action: ``ban`` or ``timeout``.
        per_minute: messages that its user wrote in a minute, counted over those here.
        labels: category by step, None without a majority.
        targets: who was attacked, by step; None but for HIB.
    """

    id_hash: str
    message: str
    user_context: tuple[str, ...]
    chat_context: tuple[str, ...]
    channel: str
    title: str
    language: str
    action: str
    per_minute: float
    labels: Mapping[int, str | None]
    targets: Mapping[int, str | None]


def consolidate(labels: Sequence[Mapping[str, Any]], *, where: str = "labels") -> dict[str, str | None] | None:
    """One label and one target for each step, from those of all annotators; None for an item that is to be dropped.

    All categories of all annotators are counted; the commonest, the first seen among equals, is the label if it was
    said twice, or once by a single annotator. "Cannot tell" makes an annotator's whole list ``Incivility``.

    Source: arXiv 2305.10731, released label_consolidation.py, with its slip that a ``data_error`` of step 2 drops
    nothing.

    Args:
        labels: an annotator each, with ``step_1`` to ``step_3`` and ``target_1`` to ``target_3``.
        where: for errors.

    Raises:
        InputError: a category that is not known, or a step that is missing.
    """
    for one in labels:
        for step in STEPS:
            said = one.get(f"step_{step}")
            if not isinstance(said, list) or not said:
                raise InputError(f"{where}: step_{step}: expected a list of categories, got {quoted(said)}")
            if odd := [name for name in said if name not in (*CATEGORIES, UNSURE, _SPACED, BROKEN, _MISSPELT)]:
                raise InputError(f"{where}: step_{step}: expected a known category, got {quoted(odd[0])}")
            targets = one.get(f"target_{step}") or []
            if not isinstance(targets, list) or not all(isinstance(name, str) for name in targets):
                raise InputError(f"{where}: target_{step}: expected a list of texts, got {quoted(targets)}")
    if any(BROKEN in one["step_1"] or _MISSPELT in one["step_2"] or BROKEN in one["step_3"] for one in labels):
        return None
    least = min(2, len(labels))
    found: dict[str, str | None] = {}
    for step in STEPS:
        said = [["Incivility"] if UNSURE in one[f"step_{step}"] else one[f"step_{step}"] for one in labels]
        label = _commonest([name for names in said for name in names], least)
        targets = [one[f"target_{step}"][0] for one in labels if one.get(f"target_{step}")]
        found[f"step_{step}"] = label
        found[f"target_{step}"] = _commonest(targets, least) if label == "HIB" else None
    return found


def _commonest(names: Sequence[str], least: int) -> str | None:
    ((name, count),) = Counter(names).most_common(1) or [("", 0)]
    return name if count >= least and count else None


@checked
def load_stream_norms(root: str | Path, *, max_context: Whole = 20) -> Loaded[ChatItem]:
    """Read ``data/*.json`` and ``original_data/{id}/`` of a copy of the release, names hashed as it is read.

    Args:
        root: the folder with both.
        max_context: lines of context kept on each side, the newest.

    Returns:
        The items, with remarks on what was missing or dropped.

    Raises:
        InputError: no such files, a message or a label that is missing, an unknown category, or an id that comes twice;
            with the file.

    Example:
        >>> import tempfile
        >>> from tether.data.sets.norms import load_stream_norms
        >>> from tether.data.sets.norms.made_stream import made_stream  # files of ours in the release's layout
        >>> with tempfile.TemporaryDirectory() as root:
        ...     items = load_stream_norms(made_stream(root, chats=6, channels=3))
        >>> len(items), sorted(items[0].labels)
        (6, [1, 2, 3])
    """
    top = Path(root)
    files = sorted((top / "data").glob("*.json"))
    if not files:
        raise InputError(f"{root}: expected data/*.json and original_data below it")
    items: list[ChatItem] = []
    seen: dict[str, Path] = {}
    dropped = without_channel = without_user = few = 0
    for path in files:
        data = _annotated(path)
        name, labels = data["id"], data["labels"]
        if name in seen:
            raise InputError(f"{path}: id {_hash(name)} also stands in {seen[name]}")
        seen[name] = path
        few += len(labels) < 3
        told = consolidate(labels, where=str(path))
        if told is None:
            dropped += 1
            continue
        folder = top / "original_data" / name
        user, chat, channel = (
            folder / f"{kind}.jsonl" for kind in ("single_user_context", "multi_user_context", "channel_setting")
        )
        without_channel += not channel.is_file()
        without_user += not user.is_file()
        items.append(_item(name, told, folder / "bad_utterance.jsonl", user, chat, channel, most=max_context))
    if not items:
        raise InputError(f"{root}: all {len(files)} items were dropped, as annotators marked them broken")
    counts = {
        "were dropped, as an annotator marked them broken": dropped,
        "have no channel_setting.jsonl: their group is the name in their id": without_channel,
        "have no context of their user": without_user,
        "have fewer than three annotators": few,
    }
    return Loaded(
        items, remarks=tuple(f"{count} of {len(files)} items {said}" for said, count in counts.items() if count)
    )


def _annotated(path: Path) -> Mapping[str, Any]:
    found = read_json(path)
    data = found.get("data") if isinstance(found, dict) else None
    if not isinstance(data, dict) or not isinstance(data.get("id"), str) or not isinstance(data.get("labels"), list):
        raise InputError(f"{path}: expected {{data: {{id, labels}}}}")
    if (
        len(data["id"]) > _LONGEST
        or data["id"] in ("", "..")
        or Path(data["id"]).name != data["id"]
        or "\0" in data["id"]
    ):
        raise InputError(f"{path}: id: expected the name of a folder of original_data, got {quoted(data['id'])}")
    if not data["labels"] or not all(isinstance(one, dict) for one in data["labels"]):
        raise InputError(f"{path}: labels: expected one mapping an annotator, got {quoted(data['labels'])}")
    return data


def _item(
    name: str, told: Mapping[str, str | None], bad: Path, user: Path, chat: Path, channel: Path, *, most: int
) -> ChatItem:
    (said,) = _lines(bad)[:1] or [{}]
    if not isinstance(said.get("message"), str) or not said["message"].strip():
        raise InputError(f"{bad}: expected a message")
    message, own, others = said["message"], _lines(user), _lines(chat)
    setting = (_lines(channel)[:1] or [{}])[0]
    own = _messages(own)
    if own and own[-1]["message"] == message:
        own = own[:-1]  # the removed message is the last of its user's
    others = _without(_messages(others), said)
    parts = _ID.fullmatch(name)
    tags = setting.get("tag_names") or []
    if not isinstance(tags, list):
        raise InputError(f"{channel}: tag_names: expected a list of texts, got {quoted(tags)}")
    title = [str(setting.get("title") or ""), str(setting.get("game_name") or ""), *map(str, tags)]
    return ChatItem(
        id_hash=_hash(name),
        message=_nameless(message),
        user_context=tuple(_nameless(one["message"]) for one in own[len(own) - min(most, len(own)) :]),
        chat_context=tuple(_nameless(one["message"]) for one in others[len(others) - min(most, len(others)) :]),
        channel=str(setting.get("streamer") or (parts[2] if parts else _hash(name))),
        title=" | ".join(part for part in title if part),
        language=str(setting.get("language") or ""),
        action=parts[1] if parts else "unknown",
        per_minute=_rate([*own, said]),
        labels={step: told[f"step_{step}"] for step in STEPS},
        targets={step: told[f"target_{step}"] for step in STEPS},
    )


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    text = read_bytes(path, limit=_LARGEST).decode("utf-8-sig", errors="replace")
    found = [
        parse_json(line, where=f"{path}: line {number}")
        for number, line in enumerate(text.split("\n"), 1)
        if line.strip()
    ]
    if odd := [one for one in found if not isinstance(one, dict)]:
        raise InputError(f"{path}: expected a mapping a line, got {quoted(odd[0])}")
    return found


def _messages(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Lines that somebody wrote; bans and timeouts have no message."""
    return [one for one in lines if isinstance(one.get("message"), str)]


def _without(lines: list[dict[str, Any]], said: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All but the removed message itself: by its id, else the last that is equal; others may have said the same."""
    known = said.get("message_id")
    same = [at for at, one in enumerate(lines) if known is not None and one.get("message_id") == known]
    same = same or [at for at, one in enumerate(lines) if one["message"] == said["message"]]
    return [one for at, one in enumerate(lines) if at != (same or [-1])[-1]]


def _rate(lines: Sequence[Mapping[str, Any]]) -> float:
    times = []
    for one in lines:
        try:
            times.append(datetime.strptime(str(one.get("timestamp")), _TIME))
        except ValueError:
            continue
    minutes = (max(times) - min(times)).total_seconds() / 60 if len(times) > 1 else 0.0
    return len(times) / max(minutes, 1.0)


def _nameless(text: str) -> str:
    return _NAME.sub("@user", text)


def _hash(name: str) -> str:
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


Step = Literal[1, 2, 3]
