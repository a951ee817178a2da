"""Dialogues in NormDial's format by templates of ours, in English and Chinese, in the release's layouts."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np

from tether.core.atomic_io import atomic_folder, csv_file
from tether.core.ranges import Count, checked

Lines = tuple[str, ...]
_FILE = "made_dialogues.tsv"
_NAMES = {"American": ("Ruth", "Omar", "Gail", "Theo", "Nina"), "Chinese": ("小陈", "老吴", "阿梅", "王姐", "小林")}
COLUMNS = {
    "American": ("", "American_Norm", "American_Situation", "Labeled_Dialogue"),
    "Chinese": ("", "Norm", "Situation", "cn_Norm", "cn_Situation", "Labeled_Dialogue"),
}


@checked
def made_normdial(root: str | Path, *, each: Count = 3, seed: int = 0) -> Path:
    """Write 10 categories x 2 stances x ``each`` dialogues for both languages.

    A turn keeps or breaks the norm after the line that calls for it, and four in ten turns that keep it are short words
    such as "Of course", which also answer small talk. So that the turn before helps, most of all where norms are kept,
    is by construction.

    Args:
        root: the folder; new or empty.
        each: dialogues of a category, stance and language.
        seed: of all draws.

    Raises:
        InputError: the folder holds something.
    """
    rng = np.random.default_rng(seed)
    said, small = _sentences()
    with atomic_folder(Path(root)) as top:
        for language, columns in COLUMNS.items():
            for stance in ("adherence", "violation"):
                for category in (name for name, its in said if its == language):
                    folder = top / language / stance / category
                    folder.mkdir(parents=True)
                    texts = said[category, language]
                    norm = texts[0]
                    with csv_file(folder / "cleaned_dialogue.csv", columns, raw_csv=True) as table:
                        for number in range(each):
                            cells = [norm, f"{norm} ({number})"] * (1 if language == "American" else 2)
                            table.write([number, *cells, _dialogue(rng, language, stance, texts, small[language])])
    return Path(root)


def _sentences() -> tuple[dict[tuple[str, str], Lines], dict[str, tuple[Lines, Lines]]]:
    """By category and language: norm, call, two that keep it, two that break it; by language: small talk."""
    rows = [
        line.split("\t")
        for line in resources.files("tether.data.sets.norms").joinpath(_FILE).read_text("utf-8").splitlines()
    ]
    found = {(row[0], row[1]): tuple(row[2:]) for row in rows[1:]}
    small = {language: (found.pop(("small", language)), found.pop(("short", language))) for language in COLUMNS}
    return found, small


def _dialogue(rng: np.random.Generator, language: str, stance: str, texts: Lines, talk_of: tuple[Lines, Lines]) -> str:
    norm, call, keep, broken = texts[0], texts[1], texts[2:4], texts[4:6]
    first, second = (str(name) for name in rng.choice(_NAMES[language], size=2, replace=False))
    small, short = talk_of
    turns: list[tuple[str, str, str]] = []

    def talk() -> None:
        turns.append((first, str(rng.choice(small)), "Not Relevant"))
        turns.append((second, str(rng.choice(short if rng.random() < 0.5 else small)), "Not Relevant"))

    for _ in range(int(rng.integers(1, 3))):
        talk()
    turns.append((first, call, "Not Relevant"))
    if stance == "adherence":
        turns.append((second, str(rng.choice(short if rng.random() < 0.4 else keep)), "Adhered"))
    else:
        turns.append((second, str(rng.choice(broken)), "Violated"))
    if rng.random() < 0.6:
        talk()
    return _laid_out(rng, language, norm, second, turns)


def _laid_out(rng: np.random.Generator, language: str, norm: str, actor: str, turns: list[tuple[str, str, str]]) -> str:
    """One of the layouts of the release: with and without heads, brackets and full-width marks."""
    lines = (
        [f"Norm Action: {norm}", "Actor of the Norm:", f"{actor}: speaker", "", "Dialogue:"]
        if rng.random() < 0.7
        else []
    )
    wide = language == "Chinese" and rng.random() < 0.5
    for speaker, said, label in turns:
        why = {"Adhered": "keeps it", "Violated": "breaks it"}.get(label, "has nothing to do with it")
        if language == "American":
            lines.append(f"{speaker}: {said} {label} | {why}")
        else:
            lines.append(
                f"（{speaker}：{said}）：{label} ｜ {why}" if wide else f"({speaker}: {said}): {label} | {why}"
            )
    if rng.random() < 0.2:
        lines.insert(len(lines) - 1, "(A door closes.)")
    return "\n".join(lines)
