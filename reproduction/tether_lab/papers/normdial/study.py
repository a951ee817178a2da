"""NormDial: which turn of a dialogue keeps or breaks a norm, and what the turns before tell."""

from __future__ import annotations

from typing import Any

from tether_lab.lab.card import Card, Claim, Condition, Trial
from tether_lab.lab.lab import Lab

SPLITS = 3

CARD = Card.of(
    "normdial",
    claim=Claim(
        says="A logistic head on the turn and the one before it tells turns that keep, break or do not touch a norm "
        "better than the commonest label, by 0.20 of macro F1, on dialogues that it has not met.",
        metric=f"macro F1 over three labels, mean of {SPLITS} splits by dialogue",
        margin=0.2,
        baseline="the commonest label of the training part; the head on the turn alone is a condition",
        scale="60 dialogues of templates of ours in English, 10 categories and both stances, and as many in Chinese",
        equal="dialogues and splits",
        conditions=(
            Condition(
                says="The turn before adds 0.01 to the same head on the turn alone; that it helps is by construction.",
                than="turn_alone",
                least=0.01,
            ),
            Condition(
                says="Where norms are kept, the turn before adds 0.01.",
                ours="kept_with_history",
                than="kept_turn_alone",
                least=0.01,
            ),
            Condition(
                says="Where norms are broken, it adds at most 0.01, as was measured on the release's English files.",
                ours="broken_turn_alone",
                than="broken_with_history",
                least=-0.01,
            ),
            Condition(
                says="In Chinese, by runs of letters, it is 0.20 above the commonest label, too.",
                ours="chinese",
                than="chinese_chance",
                least=0.2,
            ),
        ),
    ),
    differences=(
        "Templates of ours stand in for 3,850 dialogues of a language model; that the turn before helps is by "
        "construction. Counts of turns and labels of the release were read with this loader and are those of "
        "the sheet.",
        "A text classifier stands in for prompted language models, whose scores are not compared.",
        "The sheet's TurnDataset is turn_table under a second name. Leaving one category out is measured beside the "
        "claim.",
        "Lines with a misspelt label, of which the release has some, are refused unless they are to be left out.",
    ),
    tried={
        "The release's English files, 13,727 turns, dialogues held out, balanced linear SVM, once.": (
            "Macro F1 0.50 for the turn, 0.49 with the one before, 0.65 with the norm's text, of which none "
            "stands in both stances, so that it tells the stance; chance 0.21."
        ),
        "The same seeds, when the name of a dialogue held its file's path, so that splits differed by run.": (
            "0.83 against 0.30, the same conditions held; measured again after names were mended."
        ),
        "Seeds 10 and 11, logistic and mlp, on the turn, with the one before, and with the norm.": (
            "Both stances: 0.65 for the turn, 0.77 with the one before, chance 0.30 (seed 10). Where norms are "
            "kept 0.72 and 0.93, where they are broken 0.90 and 1.00: the templates call for an answer in both."
        ),
    },
    minutes=1.5,
)


def reproduce(lab: Lab) -> Trial:
    """Write dialogues, read them, hold some out, and ask for the label of each turn with and without the one before."""
    from tether.data.sets.norms import NormTable, leave_one_out, load_normdial, turn_table
    from tether.data.sets.norms.made_normdial import made_normdial
    from tether.tasks.norms import SentenceTexts, TfidfEncoder, norm_encoder
    from tether_lab.worlds.norm_sets import clip_texts, halves, scored, starter_texts, written

    def read(path: Any) -> dict[tuple[str, str | None], NormTable]:
        return {
            (language, stance): turn_table(load_normdial(path, language=language, stance=stance), window=1)
            for language, stance in (
                ("American", None),
                ("American", "adherence"),
                ("American", "violation"),
                ("Chinese", None),
            )
        }

    tables = written(lambda path: made_normdial(path, each=lab.steps(3, 1), seed=lab.seed), read)
    alone, more = ("turn",), ("turn", "history")

    def macro(
        key: tuple[str, str | None], fields: tuple[str, ...], encoder: Any = None, *, head: Any = "logistic",
        unmet: bool = False,
    ) -> tuple[float, float]:  # fmt: skip
        if unmet:
            sides = [(train, test) for _, train, test in leave_one_out(tables[key], "category")]
        else:
            splits = range(lab.steps(SPLITS, 1))
            sides = [halves(tables[key], share=0.25, seed=SPLITS * lab.seed + split) for split in splits]
        found = []
        for train, test in sides:
            one, _ = scored(train, test, encoder=encoder or TfidfEncoder(), fields=fields, head=head)
            found.append((one.macro_f1.value, one.macro_f1.chance))
        return sum(value for value, _ in found) / len(found), sum(value for _, value in found) / len(found)

    whole, kept, broken, chinese = (
        ("American", None),
        ("American", "adherence"),
        ("American", "violation"),
        ("Chinese", None),
    )
    ours, chance = macro(whole, more)
    letters = norm_encoder("tfidf-letters")
    theirs, their_chance = macro(chinese, more, letters)
    unmet, unmet_chance = macro(whole, more, unmet=True)
    texts = {"minilm": SentenceTexts(), "clip": clip_texts(lab), "starter": starter_texts()}
    return Trial(
        baseline=chance,
        ours=ours,
        notes={
            "turn_alone": macro(whole, alone)[0],
            "with_norm": macro(whole, ("norm", "history", "turn"))[0],
            "kept_turn_alone": macro(kept, alone)[0],
            "kept_with_history": macro(kept, more)[0],
            "broken_turn_alone": macro(broken, alone)[0],
            "broken_with_history": macro(broken, more)[0],
            "svm": macro(whole, more, head="svm")[0],
            **{name: macro(whole, more, one)[0] for name, one in texts.items()},
            "new_category": unmet,
            "new_category_chance": unmet_chance,
            "new_category_alone": macro(whole, alone, unmet=True)[0],
            "chinese": theirs,
            "chinese_chance": their_chance,
        },
    )
