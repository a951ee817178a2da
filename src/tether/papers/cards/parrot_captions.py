"""Parrot Captions Teach CLIP to Spot Text: captions that repeat the text in the image make a model read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether.core.card import Card, Claim, Trial

if TYPE_CHECKING:
    import numpy as np

    from tether.models import Clip
    from tether.papers.reproduction.lab import Lab

CARD = Card(
    slug="parrot-captions",
    title="Parrot Captions Teach CLIP to Spot Text",
    year=2023,
    arxiv="2312.14232",
    venue="ECCV 2024",
    code="opendatalab/CLIP-Parrot-Bias",
    package="data",
    parts=(
        "tether.data.curate.steps.ocr_overlap.caption_overlap",
        "tether.data.curate.steps.ocr_overlap.overlap_report",
        "tether.data.curate.steps.score_selection.select_unparroted",
        "tether.data.curate.steps.score_selection.subsets_by",
        "tether.tasks.curate.text_reader.RapidReader",
        "tether.tasks.curate.text_spotting.Parrot",
        "tether.tasks.curate.embedding_duplicates.EmbeddingDuplicates",
        "tether.evaluate.parrot.rendering.render_text",
        "tether.evaluate.parrot.spotting.spotting_score",
        "tether.evaluate.parrot.removal.text_removal_effect",
        "tether.evaluate.parrot.clusters.cluster_overlap",
    ),
    needs=("pairs", "images whose text was read, or the OCR extra"),
    gives="how much a set teaches a model to read and how much a model reads, and the part of a set that does not",
    claim=Claim(
        says="A model learns to read rendered words from captions that repeat them, and does not from captions that "
        "never do.",
        metric="spotting score: cosine of a rendered word with that word less that with other words, over four styles",
        better="lower",
        margin=0.10,
        baseline="the same model, images, seed and steps, where the captions of four in five images with text "
        "repeat it",
        scale="4,000 pairs of 30 classes at 64 px, one of 12 words of three letters in half of the images; a tiny "
        "CLIP, 500 steps of 128",
    ),
    minutes=4.0,
    guide="curation.md",
    differences=(
        "The paper trains ViT-B on subsets of LAION-2B; here the words, their places and which captions repeat them "
        "are known by construction, so no reader's mistakes come in.",
        "The words of the test were learnt in scenes and are new as they are rendered, alone on a plain square: a "
        "model of this size, whose tokenizer has each word whole, cannot spell words that it never saw.",
        "How words are parted and compared, the fuzzy threshold and the control of the text removal test are ours.",
        "Naming is measured on images with a word and on images without one.",
        "The curated set drops images with text by the generator's truth; the thresholds on CLIP score and "
        "aesthetics are tested on the official figures alone.",
    ),
)

PAIRS, TEST = 4_000, 300
STEPS = 500
LETTERED, REPEATED = 0.5, 0.8
"""Share of images with a word, and in the parroting set the share of their captions that repeat it."""
WORDS = ("cat", "dog", "sun", "map", "key", "box", "jam", "fan", "hat", "cup", "pen", "bus")


def reproduce(lab: Lab) -> Trial:
    """One seed: a model from parroting captions, one from captions of the same images that never do, one curated."""
    import numpy as np

    from tether.data.curate import select_unparroted
    from tether.data.curate.steps.ocr_overlap import overlap_report
    from tether.papers.testbeds import text_overlay

    rng = np.random.default_rng([lab.seed, 1])
    words = _words(lab.steps(PAIRS, 64), rng=rng)
    pool = text_overlay.draw(words, rng=rng)
    plain = [pool.said(row) for row in range(len(pool))]
    repeats = [word is not None and rng.random() < REPEATED for word in words]
    parroting = [f"{text} {word}" if again else text for text, word, again in zip(plain, words, repeats, strict=True)]
    curated = select_unparroted(
        np.array([word is not None for word in words]),
        clip_score=np.ones(len(words)),
        aesthetic=np.full(len(words), 5.0),
    )
    overlap = overlap_report(parroting, ocr=[[] if word is None else [word] for word in words])
    models = {
        name: text_overlay.train(pool.pixels[rows], [texts[row] for row in rows], seed=lab.seed, steps=lab.steps(STEPS))
        for name, texts, rows in (
            ("parroting", parroting, np.arange(len(pool))),
            ("plain", plain, np.arange(len(pool))),
            ("curated", parroting, curated),
        )
    }
    found = {name: _measure(lab, model) for name, model in models.items()}
    notes = {f"{what}_{name}": value for name, each in found.items() for what, value in each.items()}
    gains = {
        f"{what}_gain": found["plain"][what] - found["parroting"][what]
        for what in ("named_lettered", "named_without_text")
    }
    return Trial(
        baseline=found["parroting"]["margin"],
        ours=found["plain"]["margin"],
        notes={
            **notes,
            **gains,
            "co_text_rate": overlap.co_text_rate,
            "caption_word_rate": overlap.caption_word_rate,
            "curated_percent": 100 * len(curated) / len(pool),
        },
    )


def _words(rows: int, *, rng: np.random.Generator) -> list[str | None]:
    return [str(rng.choice(WORDS)) if rng.random() < LETTERED else None for _ in range(rows)]


def _measure(lab: Lab, model: Clip) -> dict[str, float]:
    """Spotting, what the score loses with the text, and naming with and without a word in the image."""
    import numpy as np

    from tether.evaluate.parrot import spotting_score, text_removal_effect
    from tether.papers.testbeds import text_overlay

    rng = np.random.default_rng([lab.seed, 2])
    rows = lab.steps(TEST, 8)
    words = [str(rng.choice(WORDS)) for _ in range(rows)]
    with_text, without = text_overlay.draw(words, rng=rng), text_overlay.draw([None] * rows, rng=rng)
    spotting = spotting_score(model, vocabulary=WORDS, size=text_overlay.SIDE, points=text_overlay.POINTS)
    removal = text_removal_effect(
        model,
        images=with_text.pixels,
        boxes=list(with_text.boxes[:, None]),
        texts=[f"{with_text.said(row)} {word}" for row, word in enumerate(words)],
        seed=lab.seed,
    )
    return {
        "spotting": spotting.mean,
        "margin": spotting.margin,
        "removal": removal.effect,
        "falls_more": removal.falls_more,
        "named_lettered": text_overlay.accuracy(model, with_text),
        "named_without_text": text_overlay.accuracy(model, without),
    }
