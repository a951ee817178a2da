"""Chats in the format of arXiv 2305.10731 by a generator of ours: mild words, made-up channels, no user of anything."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tether.core.atomic_io import atomic_folder
from tether.core.ranges import Count, Share, checked

VISIBLE = ("Advertisements", "Backseating & Tall order", "Spoiler")
HIDDEN = ("Excessive & Repetitive", "Specific Language Only")
CHATTER = {
    "en": (
        "that was a close one",
        "what a lovely map this is",
        "is the music new today",
        "hello from my kitchen",
        "this part is always so hard",
        "the colours are great today",
        "you have to be kidding",
        "see you all tomorrow",
    ),
    "es": (
        "qué mapa más bonito es este",
        "hola a todos los que están aquí",
        "la música de hoy es muy buena",
        "esta parte es muy difícil para mí",
        "los colores de hoy son geniales",
        "mañana no hay clase",
        "eso es un gol de los buenos",
        "mi gato es el que está en la mesa",
    ),
    "de": (
        "das ist eine schöne Karte",
        "hallo aus der Küche",
        "die Musik ist heute sehr gut",
        "der Teil ist nicht leicht",
        "die Farben sind heute toll",
        "wir sehen uns morgen auch noch",
        "das war aber knapp",
        "ich bin mit dem Hund da",
    ),
    "fr": (
        "la carte est très belle",
        "bonjour à tous les amis",
        "je suis dans la cuisine avec un thé",
        "le son est parfait pour moi",
        "cette partie est dure mais belle",
        "les couleurs sont très douces",
        "nous sommes des centaines ce soir",
        "mon chat est sur le clavier",
    ),
}
_SAID = {
    "Advertisements": (
        ("cheap", "brand new", "half price", "handmade"),
        ("mugs", "skins", "keys", "posters"),
        ("at shop-{}.example.com", "on my page mug{}.net", "with code SAVE{}", "at store{}.io"),
    ),
    "Backseating & Tall order": (
        ("turn left", "use the hook", "go back", "buy the shield"),
        ("now", "at the tower", "before the boss", "already"),
        ("you need it {} times", "trust me", "listen to chat", "step {} first"),
    ),
    "Spoiler": (
        ("the captain", "the old king", "her brother", "the robot"),
        ("dies", "wins", "lied all along", "comes back"),
        ("in chapter {}", "at the end", "in episode {}", "after the credits"),
    ),
}
GAMES = ("Harbour Builder", "Night Racer", "Kite Quest", "Pixel Farm", "Chess")


@checked
def made_stream(
    root: str | Path, *, chats: Count = 600, channels: Count = 40, wrong: Share = 0.1, seed: int = 0
) -> Path:
    """Write ``data/*.json`` and ``original_data/*``: five norms, of which two can be told from the context alone.

    That context helps is by construction: ``Excessive & Repetitive`` is chatter that its user said before, ``Specific
    Language Only`` is chatter in another language than the channel's, and both draw their messages from one list. Each
    of three annotators is wrong in some labels, so that the majority is, now and then, wrong or missing. A fifth of the
    others repeat themselves, too, a quarter of the repeated messages lose a word, and some channels do not say their
    language.

    Args:
        root: the folder; new or empty.
        chats: how many.
        channels: they are of; each has one language.
        wrong: chance that an annotator says another norm.
        seed: of all draws.

    Raises:
        InputError: the folder holds something.
    """
    rng = np.random.default_rng(seed)
    languages = [str(rng.choice(list(CHATTER))) for _ in range(channels)]
    with atomic_folder(Path(root)) as top:
        (top / "data").mkdir()
        for number in range(chats):
            channel = int(rng.integers(channels))
            _write(top, rng, number, channel=channel, own=languages[channel], wrong=wrong)
    return Path(root)


def _write(top: Path, rng: np.random.Generator, number: int, *, channel: int, own: str, wrong: float) -> None:
    every = VISIBLE + HIDDEN
    norm = every[int(rng.integers(len(every)))]
    before = [_chatter(rng, own) for _ in range(int(rng.integers(2, 6)))]
    message = _message(rng, norm, own)
    if norm == "Excessive & Repetitive":
        before[int(rng.integers(len(before)))] = message
        if rng.random() < 0.25:  # said again with a word less
            message = message.split(" ", 1)[1]
        else:
            before.append(message)
    elif rng.random() < 0.2:  # others repeat themselves, too, now and then
        before[0] = message
    name = f"{number}_{'ban' if rng.random() < 0.5 else 'timeout'}_channel{channel}_2022-01-02_user{number}"
    labels = [_annotator(rng, who, norm, every, wrong) for who in range(3)]
    _put(top / "data" / f"0_{name}.json", "\ufeff" + json.dumps({"data": {"id": name, "labels": labels}}))
    quick = 3 if rng.random() < (0.5 if norm == "Excessive & Repetitive" else 0.1) else 25
    lines = [_line(place * quick, f"user{number}", said) for place, said in enumerate([*before, message])]
    others = [_line(place * 7, f"guest{place}", _chatter(rng, own)) for place in range(6)]
    setting = {
        "title": f"evening {channel % 7}",
        "game_name": str(rng.choice(GAMES)),
        "tag_names": [],
        "language": own if rng.random() < 0.85 else "",
        "streamer": f"channel{channel}",
    }
    parts = {
        "bad_utterance": lines[-1:],
        "single_user_context": lines,
        "multi_user_context": others,
        "channel_setting": [setting],
    }
    folder = top / "original_data" / name
    folder.mkdir(parents=True)
    for kind, rows in parts.items():
        _put(folder / f"{kind}.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _put(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _chatter(rng: np.random.Generator, language: str) -> str:
    return str(rng.choice(CHATTER[language]))


def _message(rng: np.random.Generator, norm: str, own: str) -> str:
    if norm in HIDDEN:
        others = [name for name in CHATTER if name != own]
        return _chatter(rng, own if norm == HIDDEN[0] else str(rng.choice(others)))
    said = " ".join(str(rng.choice(part)) for part in _SAID[norm]).format(int(rng.integers(2, 60)))
    return f"{said} {_chatter(rng, own)}" if rng.random() < 0.4 else said


def _annotator(
    rng: np.random.Generator, who: int, norm: str, every: tuple[str, ...], wrong: float
) -> dict[str, object]:
    said = {f"step_{step}": [norm if rng.random() >= wrong else str(rng.choice(every))] for step in (1, 2, 3)}
    targets = {f"target_{step}": None for step in (1, 2, 3)}
    return {
        "anotation_id": who,
        **said,
        **targets,
        "comment": None,
        "streamer_knowledge": None,
        "twitch_knowledge": None,
    }


def _line(seconds: int, user: str, message: str) -> dict[str, object]:
    stamp = f"2022-01-02 20:{seconds // 60:02d}:{seconds % 60:02d}"
    return {
        "timestamp": stamp,
        "user": user,
        "message": message,
        "is_emotes_only": False,
        "emotes": "",
        "action": "message",
    }
