"""NormDial: dialogues in which each turn keeps a given norm, breaks it, or has nothing to do with it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from tether.core.errors import InputError
from tether.core.printable import quoted
from tether.core.ranges import Whole, checked
from tether.data.sets.norms.read_table import read_table
from tether.data.sets.norms.table import Loaded, NormTable, rows_said

LABELS = ("not relevant", "adhered", "violated")
Language = Literal["American", "Chinese"]
Stance = Literal["adherence", "violation"]
TurnField = Literal["norm", "history", "turn", "speaker"]
TURN_FIELDS: tuple[TurnField, ...] = get_args(TurnField)
DIALOGUE = "Labeled_Dialogue"
JUDGED = "a language model that was shown one worked example, corrected by hand: agreement with it is what is measured"
_TURN = re.compile(r"(?<![^\W\d_])(Not Relevant|Adhered|Violated)\s*[|｜]\s*")
_LIKE_A_TURN = re.compile(r"^\(?[^|｜:：]{1,60}[:：].*?(?<![^\W\d_])([A-Z][A-Za-z ]{2,30})\s*[|｜]\s*\S")
_ACTION, _ACTORS, _DIALOGUE = "norm action", "actor of the norm", "dialogue"
_HEAD = re.compile(rf"^\s*({_ACTION}|{_ACTORS}|{_DIALOGUE})\s*[:：]\s*(.*)$", re.IGNORECASE)
_OPEN, _CLOSE = "(（", ")）"


@dataclass(frozen=True, slots=True)
class NormTurn:
    """One turn.

    Attributes:
        speaker: who speaks.
        text: what is said.
        label: one of ``LABELS``.
        reason: why, in the words of who labelled; it gives the label away and is no input.
    """

    speaker: str
    text: str
    label: str
    reason: str


@dataclass(frozen=True, slots=True)
class ParsedDialogue:
    """What stands in one cell of the release.

    Attributes:
        action: of the norm, or None.
        actors: one line each.
        turns: in order.
        other_lines: lines that are no turn, such as stage directions.
    """

    action: str | None
    actors: tuple[str, ...]
    turns: tuple[NormTurn, ...]
    other_lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A dialogue with the norm that it is about, and where it comes from.

    Attributes:
        norm: the rule.
        situation: where it is played.
        category: of the norm, the name of the folder.
        language: of the folder, such as American.
        stance: whether the norm is kept or broken; it says which labels occur, so it is no input.
        parsed: the turns.
        file: it stands in.
        row: of the file, the header being row 1.
    """

    norm: str
    situation: str
    category: str
    language: str
    stance: str
    parsed: ParsedDialogue
    file: Path
    row: int

    @property
    def action(self) -> str | None:
        """Of the norm, or None."""
        return self.parsed.action

    @property
    def actors(self) -> tuple[str, ...]:
        """One line each."""
        return self.parsed.actors

    @property
    def turns(self) -> tuple[NormTurn, ...]:
        """In order."""
        return self.parsed.turns

    @property
    def other_lines(self) -> tuple[str, ...]:
        """Lines that are no turn."""
        return self.parsed.other_lines


def parse_labelled_dialogue(text: str) -> ParsedDialogue:
    """Read a cell ``Labeled_Dialogue``: turns are lines with ``Adhered | reason``; full-width marks count as well.

    A line with another label is one of ``other_lines``; ``load_normdial`` refuses it.

    Source: the layout of the release of arXiv 2310.14563, which has no parser of its own.

    Example:
        >>> from tether.data.sets.norms import parse_labelled_dialogue
        >>> parse_labelled_dialogue("(李： 早上好。): Adhered ｜ a greeting").turns[0].speaker
        '李'
    """
    action: str | None = None
    actors: list[str] = []
    turns: list[NormTurn] = []
    others: list[str] = []
    among_actors = False
    for line in (line.strip() for line in text.splitlines()):
        if not line:
            continue
        if turn := _turn(line):
            turns.append(turn)
            among_actors = False
        elif head := _HEAD.match(line):
            name, rest = head[1].lower(), head[2].strip()
            among_actors = name == _ACTORS
            if name == _ACTION:
                action = rest
            elif among_actors and rest:
                actors.append(rest)
        elif among_actors:
            actors.append(line)
        else:
            others.append(line)
    return ParsedDialogue(action, tuple(actors), tuple(turns), tuple(others))


def _turn(line: str) -> NormTurn | None:
    found = _TURN.search(line)
    if found is None:
        return None
    before = line[: found.start()].rstrip(" :：\t　")
    if before[:1] in _OPEN and before[-1:] in _CLOSE and before:
        before = before[1:-1].strip()
    place = min((at for mark in ":：" if (at := before.find(mark)) >= 0), default=-1)
    speaker, said = (before[:place], before[place + 1 :]) if place >= 0 else ("", before)
    return NormTurn(speaker.strip(), said.strip(), found[1].lower(), line[found.end() :].strip())


@checked
def load_normdial(
    root: str | Path,
    *,
    language: Language | None = None,
    stance: Stance | None = None,
    unknown: Literal["refuse", "skip"] = "refuse",
) -> Loaded[Dialogue]:
    """Read ``{American,Chinese}/{adherence,violation}/{category}/cleaned_dialogue.csv`` below a folder.

    Args:
        root: the folder, or one such file.
        language: only these; None takes all.
        stance: only these; None takes both.
        unknown: what becomes of a line with another label, of which the release has some that are misspelt: an error,
            or one of ``other_lines``.

    Returns:
        The dialogues that have a turn, with a remark on how many have none.

    Raises:
        InputError: no such file below, one without ``Labeled_Dialogue``, or an unknown label, with file and rows.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from tether.data.sets.norms import load_normdial
        >>> with tempfile.TemporaryDirectory() as root:
        ...     file = Path(root) / "American" / "adherence" / "thanks" / "cleaned_dialogue.csv"
        ...     file.parent.mkdir(parents=True)
        ...     rows = ["Norm,Situation,Labeled_Dialogue", "say thanks,a gift,Ann: Thank you! Adhered | thanks"]
        ...     _ = file.write_text(chr(10).join(rows))
        ...     dialogues = load_normdial(root)
        >>> dialogues[0].turns[0].label, dialogues.remarks
        ('adhered', ())
    """
    top = Path(root)
    files = [top] if top.is_file() else sorted(top.rglob("cleaned_dialogue.csv"))
    files = [path for path in files if language in (None, _above(path, 3)) and stance in (None, _above(path, 2))]
    if not files:
        raise InputError(
            f"{root}: expected {{American,Chinese}}/{{adherence,violation}}/*/cleaned_dialogue.csv below it"
        )
    found: list[Dialogue] = []
    empty = 0
    for path in files:
        rows, numbers = read_table(path, need=[DIALOGUE])
        bad, labels = [], []
        for row, number in zip(rows, numbers, strict=True):
            parsed = parse_labelled_dialogue(row[DIALOGUE])
            if odd := [like[1].strip() for line in parsed.other_lines if (like := _LIKE_A_TURN.match(line))]:
                bad.append(number)
                labels += odd
            if not parsed.turns:
                empty += 1
                continue
            norm, situation = (
                _first(row, names) for names in (("American_Norm", "Norm"), ("American_Situation", "Situation"))
            )
            place = _above(path, 1), _above(path, 3), _above(path, 2)
            found.append(Dialogue(norm, situation, *place, parsed, path, number))
        if bad and unknown == "refuse":
            expected = "label: expected Not Relevant, Adhered or Violated, got"
            raise InputError(
                f"{path}: {expected} {quoted(labels[0])} in {rows_said(bad)}; --skip-unknown leaves them out"
            )
    if not found:
        raise InputError(f"{root}: no dialogue has a turn")
    return Loaded(found, remarks=(f"{empty} dialogues without a turn were left out",) if empty else ())


@checked
def turn_table(
    dialogues: Sequence[Dialogue],
    *,
    window: Whole = 2,
    fields: Sequence[TurnField] = TURN_FIELDS,
    name: str = "NormDial",
) -> NormTable:
    """One row a turn: ``norm``, ``history`` (the turns before), ``turn`` and ``speaker``; the group is the dialogue.

    ``TurnDataset`` is a second name of it.

    Reason and stance are left out, as each gives the label away; stance is a facet, so that figures show it.

    Args:
        dialogues: of ``load_normdial``.
        window: turns before that are read.
        fields: which of the four are kept.
        name: of the table.
    """
    columns: dict[str, list[str]] = {one: [] for one in TURN_FIELDS}
    labels, groups, rows = [], [], []
    facets: dict[str, list[str]] = {one: [] for one in ("category", "language", "stance")}
    for number, one in enumerate(dialogues):
        turns = one.parsed.turns
        for place, turn in enumerate(turns):
            before = turns[max(0, place - window) : place]
            columns["norm"].append(one.norm or one.parsed.action or "(not said)")
            columns["history"].append(" / ".join(f"{each.speaker}: {each.text}" for each in before))
            columns["turn"].append(turn.text or "...")
            columns["speaker"].append(turn.speaker)
            labels.append(turn.label)
            groups.append(f"{one.language}/{one.stance}/{one.category}:{one.row}:{number}")
            rows.append(one.row)
            for facet, value in (("category", one.category), ("language", one.language), ("stance", one.stance)):
                facets[facet].append(value)
    return NormTable(
        name=name,
        fields={field: tuple(columns[field]) for field in fields},
        labels=tuple(labels),
        classes=LABELS,
        groups=tuple(groups),
        rows=tuple(rows),
        judged=JUDGED,
        facets={facet: tuple(column) for facet, column in facets.items()},
        optional=frozenset({"history", "speaker"}),
        remarks=(
            *getattr(dialogues, "remarks", ()),
            "a dialogue that keeps its norm has next to no turn that breaks it: look at each stance",
        ),
    )


TurnDataset = turn_table


def _above(path: Path, steps: int) -> str:
    parts = path.resolve().parts
    return parts[-1 - steps] if len(parts) > steps else "unknown"


def _first(row: dict[str, str], names: tuple[str, ...]) -> str:
    return next((row[name].strip() for name in names if row.get(name)), "")
