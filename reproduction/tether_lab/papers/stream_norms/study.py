"""Norm violations in live chat: what a message alone cannot tell, its context does."""

from __future__ import annotations

from typing import Any

from tether_lab.lab.card import Card, Claim, Condition, Trial
from tether_lab.lab.lab import Lab

CHATS = 600

CARD = Card.of(
    "stream-norms",
    claim=Claim(
        says="With the user's last messages and numbers of the context a linear head tells five norms better than with "
        "the message alone, by 0.15 of macro F1, on channels that it has not met. Two of the five can be told from "
        "the context only, by construction.",
        metric="macro F1 over five norms on held-out channels",
        margin=0.15,
        baseline="the same linear head on the message and its own numbers (length, capitals, link, mention, emotes)",
        scale=f"{CHATS} chats of a generator of ours in 40 channels and four languages; labels by three "
        "annotators, each "
        "wrong in a tenth of them",
        equal="items, split, TF-IDF and head",
        conditions=(
            Condition(
                says="Words of the context alone, without its numbers, help by 0.02 as well.",
                ours="user_context_words",
                than="baseline",
                least=0.02,
            ),
            Condition(
                says="Words of the channel (title, game, language) beside the context add 0.01 at most on channels "
                "that "
                "were not learnt from.",
                ours="channel_gain_new",
                than=0.01,
                better="lower",
            ),
            Condition(
                says="On channels that were learnt from they add no less than on others.",
                ours="channel_gain_known",
                than="channel_gain_new",
            ),
        ),
    ),
    differences=(
        "A generator with mild words stands in for 4,583 comments with offensive text and names of people, of which "
        "nothing is kept; that context helps is by construction there.",
        "TF-IDF and a linear SVM stand in for fine-tuned RoBERTa; the paper's 35 % relative gain is not shown.",
        "Negatives, which the release has not, are not made.",
        "The sheet's label and target by step are labels and targets here.",
        "One annotator's word counts where there is only one; the release always asks for two.",
    ),
    tried={
        "The release's 4,447 items with 11 labels, 79 channels, channels held out, balanced linear SVM, once.": (
            "Macro F1 0.30 for the message, 0.32 with words of its user's context, 0.43 with the numbers of "
            "both; chance 0.04."
        ),
        "Seeds 10 and 11 with a first generator, whose repetitions and languages were never in doubt.": (
            "0.83 with the message, 1.00 with numbers of the context: a bed that could not fail, so doubt was added."
        ),
        "Seeds 10 and 11, svm and mlp, with and without words of the context and of the channel.": (
            "Seed 10: 0.76 for the message, 0.80 with words of the user's context, 0.98 with numbers, too; the "
            "message with numbers of the context alone had 0.99."
        ),
    },
    minutes=1.5,
)


def reproduce(lab: Lab) -> Trial:
    """Write chats, read them without names, and ask for norms with more and more context."""
    from dataclasses import replace

    from tether.data.sets.norms import chat_table, load_stream_norms
    from tether.data.sets.norms.chat_table import MESSAGE_NUMBERS
    from tether.data.sets.norms.made_stream import made_stream
    from tether.tasks.norms import SentenceTexts, TfidfEncoder
    from tether_lab.worlds.norm_sets import clip_texts, halves, scored, starter_texts, written

    items = written(lambda path: made_stream(path, chats=lab.steps(CHATS, 80), seed=lab.seed), load_stream_norms)
    table = chat_table(items).judged_only()
    message, more = ("message",), ("message", "user_context")

    def macro(
        fields: tuple[str, ...], numbers: tuple[str, ...] | None, *, encoder: Any = None, mixed: bool = False
    ) -> float:
        rows = replace(table, groups=tuple(map(str, range(len(table))))) if mixed else table
        train, test = halves(rows, share=0.3, seed=lab.seed)
        found, _ = scored(
            train, test, encoder=encoder or TfidfEncoder(), fields=fields, head="svm", combine="concat", numbers=numbers
        )
        return found.macro_f1.value

    base, ours, named = macro(message, MESSAGE_NUMBERS), macro(more, None), macro((*more, "channel"), None)
    mixed = [
        macro(fields, which, mixed=True)
        for fields, which in ((message, MESSAGE_NUMBERS), (more, None), ((*more, "channel"), None))
    ]
    train, test = halves(table, share=0.3, seed=lab.seed)
    chance = scored(train, test, encoder=TfidfEncoder(), fields=message, head="svm")[0].macro_f1.chance
    texts = {"minilm": SentenceTexts(), "clip": clip_texts(lab), "starter": starter_texts()}
    return Trial(
        baseline=base,
        ours=ours,
        notes={
            "user_context_words": macro(more, MESSAGE_NUMBERS),
            "message_and_all_numbers": macro(message, None),
            "with_channel": named,
            "channel_gain_new": named - ours,
            "channel_gain_known": mixed[2] - mixed[1],
            "gain_new_channels": ours - base,
            "gain_random_rows": mixed[1] - mixed[0],
            **{f"message_{name}": macro(message, MESSAGE_NUMBERS, encoder=one) for name, one in texts.items()},
            **{f"context_{name}": macro(more, None, encoder=one) for name, one in texts.items()},
            "chance": chance,
            "labelled": float(len(table)),
        },
    )
