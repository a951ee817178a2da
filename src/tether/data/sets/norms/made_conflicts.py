"""Pairs of clauses in the format of arXiv 1906.02121 by a grammar of ours, with near misses that do not conflict."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tether.core.atomic_io import atomic_folder, csv_file
from tether.core.ranges import Count, checked
from tether.data.sets.norms.norm_conflicts import CONFLICTS, KINDS, OTHERS

PARTIES = ("The supplier", "The licensee", "The carrier", "The tenant", "The bank", "The agency")
ACTIONS = (
    ("deliver", "the spare parts", "hand over", "the replacement pieces"),
    ("insure", "the machines", "take out cover for", "the equipment"),
    ("publish", "the quarterly figures", "make public", "the results of each quarter"),
    ("return", "the test samples", "send back", "the specimens"),
    ("store", "the chemicals", "keep in its warehouse", "the substances"),
    ("train", "the new staff", "instruct", "the employees who join"),
    ("audit", "the accounts", "examine", "the books"),
    ("repair", "the heating", "put in order", "the boiler and pipes"),
    ("translate", "the manuals", "render into the local language", "the handbooks"),
    ("destroy", "the old records", "shred", "outdated files"),
    ("lease", "the second floor", "let", "the upper storey"),
    ("label", "the parcels", "mark", "every package"),
    ("inspect", "the bridge", "survey", "the crossing"),
    ("encrypt", "the backups", "protect by cipher", "the copies of the data"),
    ("refund", "the deposit", "pay back", "the money left as security"),
    ("sponsor", "the conference", "support", "the yearly meeting"),
)
DUTY, BAN, MAY = ("shall", "must"), ("shall not", "must not"), ("may",)
_AGAINST: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(DUTY, ("may", "shall not", "must not")),
    **dict.fromkeys(BAN, ("may", "shall", "must")),
}
_AGAINST["may"] = ("shall not", "must not")
_IN_OTHER_WORDS = {
    **dict.fromkeys(DUTY, "is required to"),
    **dict.fromkeys(BAN, "is forbidden to"),
    "may": "is free to",
}
_WHEN = ("within {} days", "at least {} times a year", "at a cost below {} euros", "no later than day {}")
_IF = (
    "if the buyer asks for it in writing",
    "unless the weather forbids it",
    "provided that the fee was paid",
    "except on public holidays",
    "only where the board agrees",
    "until the new plant opens",
)
COLUMNS = ("conflict_id", "contract_id", "norm_id_1", "norm_id_2", "norm1", "norm2", "conf_type")


@checked
def made_conflicts(folder: str | Path, *, pairs: Count = 400, seed: int = 0) -> Path:
    """Write ``conflicts.csv`` and ``non_conflicts.csv``, half of the pairs in each, the four kinds alike.

    A contract is one action, so that holding contracts out holds actions out. Near misses: the same rule in other
    words, the same modality with a condition that adds nothing, another party, and other actions of one party. The
    second clause is always the changed one, in both files, so order gives nothing away; that kinds differ in modal
    verbs, numbers and conditions is by construction.

    Args:
        folder: where the two files go.
        pairs: in both together.
        seed: of all draws.

    Raises:
        InputError: the folder holds something.
    """
    rng = np.random.default_rng(seed)
    half = pairs // 2
    with atomic_folder(Path(folder)) as top:
        with csv_file(top / CONFLICTS, COLUMNS) as table:
            for number in range(half):
                kind = 1 + number % (len(KINDS) - 1)
                action = int(rng.integers(len(ACTIONS)))
                table.write([number, action, 2 * number, 2 * number + 1, *_conflict(rng, kind, ACTIONS[action]), kind])
        with csv_file(top / OTHERS, COLUMNS) as table:
            for number in range(half, pairs):
                action = int(rng.integers(len(ACTIONS)))
                table.write([number, action, 2 * number, 2 * number + 1, *_miss(rng, number % 4, ACTIONS[action]), 0])
    return Path(folder)


def _one(rng: np.random.Generator, names: tuple[str, ...]) -> str:
    return names[int(rng.integers(len(names)))]


def _value(rng: np.random.Generator) -> tuple[str, str]:
    first, second = rng.choice(np.arange(2, 90), size=2, replace=False)
    when = _one(rng, _WHEN)
    return when.format(first), when.format(second)


def _conflict(rng: np.random.Generator, kind: int, action: tuple[str, ...]) -> tuple[str, str]:
    party, modal = _one(rng, PARTIES), _one(rng, DUTY + BAN + MAY)
    verb, what, other_verb, other_what = action
    value, other = _value(rng)
    both = f" {_one(rng, _IF)}" if rng.random() < 1 / 3 else ""
    if kind == 1:
        against = _one(rng, _AGAINST[modal])
        return f"{party} {modal} {verb} {what} {value}{both}.", f"{party} {against} {verb} {what} {value}{both}."
    if kind == 2:
        against = _one(rng, _AGAINST[modal])
        said = _one(rng, (against, _IN_OTHER_WORDS[against]))
        return (
            f"{party} {modal} {verb} {what} {value}{both}.",
            f"{party} {said} {other_verb} {other_what} {value}{both}.",
        )
    if kind == 3:
        modal = _one(rng, DUTY)
        return f"{party} {modal} {verb} {what} {value}{both}.", f"{party} {modal} {verb} {what} {other}{both}."
    modal = _one(rng, DUTY + BAN)
    end = _one(rng, ("", f" {value}"))
    against = _one(rng, _AGAINST[modal])
    return f"{party} {modal} {verb} {what}{end}.", f"{party} {against} {verb} {what}{end} {_one(rng, _IF)}."


def _miss(rng: np.random.Generator, kind: int, action: tuple[str, ...]) -> tuple[str, str]:
    party, modal = _one(rng, PARTIES), _one(rng, DUTY + BAN + MAY)
    verb, what, other_verb, other_what = action
    value, other = _value(rng)
    both = f" {_one(rng, _IF)}" if rng.random() < 1 / 3 else ""
    if kind == 0:
        said = _one(rng, (modal, _IN_OTHER_WORDS[modal]))
        return (
            f"{party} {modal} {verb} {what} {value}{both}.",
            f"{party} {said} {other_verb} {other_what} {value}{both}.",
        )
    if kind == 1:
        return f"{party} {modal} {verb} {what}.", f"{party} {modal} {verb} {what} {_one(rng, _IF)}."
    if kind == 2:
        second = _one(rng, tuple(name for name in PARTIES if name != party))
        return (
            f"{party} {modal} {verb} {what} {value}.",
            f"{second} {_one(rng, DUTY + BAN + MAY)} {verb} {what} {other}.",
        )
    return (
        f"{party} {modal} {verb} {what} {value}.",
        f"{party} {_one(rng, DUTY + BAN)} {other_verb} {other_what} alone.",
    )
