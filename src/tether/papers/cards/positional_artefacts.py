"""Positional artefacts: a few coordinates of the hidden states hold much of what makes all of them alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether.core.card import Card, Claim, Trial

if TYPE_CHECKING:
    import numpy as np

    from tether.papers.reproduction.lab import Lab

LAYERS, STEPS, TEXTS = 8, 600, 128
CLIPPED, RANDOM_DRAWS = 2, 50
PROBED_LAYERS = (0, 4, 8)

CARD = Card(
    slug="positional-artefacts",
    title="Positional Artefacts Propagate Through Masked Language Model Embeddings",
    year=2020,
    arxiv="2011.04393",
    venue="ACL 2021",
    authors=("Luo", "Kulmizev", "Mao"),
    package="space",
    parts=(
        "tether.space.outlier_dims.outlier_dims",
        "tether.space.outlier_dims.clip_dims",
        "tether.space.outlier_clipper.OutlierClipper",
        "tether.space.clipped_encoder.ClippedEncoder",
        "tether.space.clipped_encoder.ClippedDualEncoder",
        "tether.space.anisotropy.anisotropy",
        "tether.space.anisotropy.self_similarity",
        "tether.space.position_probe.position_probe",
    ),
    needs=("a trained encoder", "a few thousand tokens or embeddings"),
    gives="The coordinates that are extreme for almost every token, and states without them that differ more.",
    claim=Claim(
        says=f"Setting the {CLIPPED} most extreme coordinates of a layer to zero lowers the anisotropy of its states "
        "by at least 3 % more than setting two random ones does, in every layer.",
        metric="relative drop of the mean cosine between tokens, in the layer where it is least",
        better="higher",
        margin=0.03,
        baseline=f"mean absolute change for {RANDOM_DRAWS} draws of {CLIPPED} random coordinates in that layer",
        scale=f"causal character model of {LAYERS} layers and 64 coordinates, {STEPS} steps",
    ),
    differences=(
        "The paper gives no threshold; three deviations of the coordinates' means is the rule used since.",
        "In a model this small hardly any coordinate passes it, so the two most extreme ones of each layer are taken.",
        "A causal character model stands in for BERT and RoBERTa; a real sentence encoder is looked at in the guide.",
        "CLIP's towers are clipped before their final projection, which would mix the coordinates.",
    ),
    minutes=4.0,
    guide="architectures.md",
)


def reproduce(lab: Lab) -> Trial:
    """Train a character model, then set coordinates to zero in the states of each of its layers."""
    import numpy as np
    import torch

    from tether.papers.testbeds.char_lm import CharModel, alphabet_size, corpus, draw_batch, train
    from tether.space import anisotropy, clip_dims, largest_dims, outlier_dims, position_probe, token_states

    model = CharModel(alphabet_size(), layers=LAYERS, seed=lab.seed)
    trained = train(model, seed=lab.seed, steps=lab.steps(STEPS), validation=lab.steps(20, 1))
    ids = corpus()[0]
    rows = lab.steps(TEXTS, 8)
    texts, _ = draw_batch(ids[len(ids) * 9 // 10 :], lab.generator("texts"), batch=rows, context=model.context)
    with torch.no_grad():
        states = model.read(texts).states
    table = token_states(states, mask=torch.ones(texts.shape, dtype=torch.bool), ids=texts)
    found = outlier_dims(table.hidden)
    draw = np.random.default_rng(lab.seed)
    drops, random = [], []
    notes = {
        "validation": trained.validation,
        "largest_z": float(np.abs(found.z).max()),
        "flagged": float(found.flagged.sum()),
    }
    for layer, hidden in enumerate(table.hidden):
        before = anisotropy(hidden)

        def change(dims: np.ndarray, hidden: np.ndarray = hidden, before: float = before) -> float:
            return 1 - anisotropy(clip_dims(hidden, dims=dims)) / before

        drops.append(change(largest_dims(found.z[layer], count=CLIPPED)))
        drawn = [draw.choice(hidden.shape[1], CLIPPED, replace=False) for _ in range(lab.steps(RANDOM_DRAWS))]
        random.append(float(np.mean([abs(change(dims)) for dims in drawn])))
        notes |= {f"anisotropy_{layer}": before, f"drop_{layer}": drops[-1], f"random_{layer}": random[-1]}
    for layer in PROBED_LAYERS:
        notes[f"probe_{layer}"] = position_probe(table.hidden[layer], table.positions).accuracy
    least = int(np.argmin(np.array(drops) - np.array(random)))
    notes["least_ratio_to_random"] = float(np.min(np.array(drops) / np.array(random)))
    notes["least_layer"] = float(least)
    return Trial(random[least], drops[least], notes)
