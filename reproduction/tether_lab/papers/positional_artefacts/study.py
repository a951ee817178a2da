"""Positional artefacts: a few coordinates of the hidden states hold much of what makes all of them alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether_lab.lab.card import Card, Claim, Condition, Trial

if TYPE_CHECKING:
    import numpy as np

    from tether_lab.lab.lab import Lab
    from tether_lab.worlds.char_lm import CharModel

LAYERS, WIDTH, STEPS, TEXTS = 8, 64, 600, 128
CLIPPED, RANDOM_DRAWS = 2, 50
PROBED_LAYERS = (0, 4, 8)
PLANTED, TOKENS = {5: 20.0, 40: -15.0}, 400
"""Offsets of two coordinates of random states, and how many of those."""

CARD = Card.of(
    "positional-artefacts",
    claim=Claim(
        says=f"Setting the {CLIPPED} coordinates of the most extreme mean to zero lowers the anisotropy of a layer's "
        "states by at least 3 % more than setting two others does, in every layer.",
        metric="relative drop of the mean cosine between tokens, in the layer where its lead is least",
        margin=0.03,
        baseline=f"the better, in that layer, of the {CLIPPED} coordinates of largest variance and the mean absolute "
        f"change for {RANDOM_DRAWS} draws of {CLIPPED} random ones",
        scale=f"causal character model of {LAYERS} layers and {WIDTH} coordinates, {STEPS} steps",
        equal="model, states, pairs of tokens and the number of coordinates; nothing is tuned",
        conditions=(
            Condition(
                says="At least one coordinate is more than three deviations out in every layer.",
                ours="outliers_in_every_layer",
                than=0.0,
                least=1.0,
            ),
            Condition(
                says="Of the most extreme coordinates behind the first block more are also the position table's than "
                f"chance has it, {CLIPPED} of {WIDTH}.",
                ours="shared_with_position_table",
                than=CLIPPED / WIDTH,
                least=1e-6,
            ),
            Condition(
                says="The drop is at least 3 % in every layer.",
                ours="least_drop",
                than=0.0,
                least=0.03,
            ),
            Condition(
                says="It is more than three times what random coordinates change, in every layer.",
                ours="least_ratio_to_random",
                than=3.0,
                least=1e-6,
            ),
            Condition(
                says="A linear probe names fewer positions from the last layer than from the first.",
                ours=f"probe_{PROBED_LAYERS[-1]}",
                than=f"probe_{PROBED_LAYERS[0]}",
                better="lower",
                least=1e-6,
            ),
            Condition(
                says="Two planted coordinates are found in random states, those and no others.",
                ours="planted_found",
                than=1.0,
            ),
            Condition(
                says="Without them those states' anisotropy is at most 0.01.",
                ours="planted_anisotropy_without",
                than=0.01,
                better="lower",
            ),
        ),
    ),
    differences=(
        "The paper gives no threshold; three deviations of the coordinates' means is the rule used since.",
        "In a model this small hardly any coordinate passes it, so the two most extreme ones of each layer are taken.",
        "A causal character model stands in for BERT and RoBERTa; a real sentence encoder is looked at in the guide.",
        "CLIP's towers are clipped before their final projection, which would mix the coordinates.",
    ),
    tried={
        "random coordinates alone as the baseline, without conditions, which was the claim at first": (
            "a drop of 8.4 % against 1.7 %, seeds 0 to 2; hardly any coordinate was more than three deviations "
            "out (on the text until 2026-12)"
        ),
        (
            "the sentence encoder all-MiniLM-L6-v2 on 7,454 tokens, its outliers (4 to 8 a layer) set to zero "
            "(python benchmarks/outliers_minilm.py)"
        ): (
            "anisotropy falls by 38 to 65 % in layers 0 to 5, the last has no outlier; random coordinates "
            "change it by at most 1 %"
        ),
    },
    minutes=5.0,
)


def reproduce(lab: Lab) -> Trial:
    """Train a character model, then set coordinates to zero in the states of each of its layers."""
    import numpy as np
    import torch

    from tether.methods.positional_artefacts import anisotropy, position_probe
    from tether.space import clip_dims, largest_dims, outlier_dims, token_states
    from tether_lab.worlds.char_lm import CharModel, alphabet_size, corpus, draw_batch, train

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
    drops, random, others = [], [], []
    notes = planted(lab) | {
        "validation": trained.validation,
        "largest_z": float(np.abs(found.z).max()),
        "flagged": float(found.flagged.sum()),
        "outliers_in_every_layer": float(len(found.dims)),
        "shared_with_position_table": shared_with_position_table(model, found.z[1:]),
    }
    for layer, hidden in enumerate(table.hidden):
        before = anisotropy(hidden)

        def change(dims: np.ndarray, hidden: np.ndarray = hidden, before: float = before) -> float:
            return 1 - anisotropy(clip_dims(hidden, dims=dims)) / before

        drops.append(change(largest_dims(found.z[layer], count=CLIPPED)))
        drawn = [draw.choice(hidden.shape[1], CLIPPED, replace=False) for _ in range(lab.steps(RANDOM_DRAWS))]
        random.append(float(np.mean([abs(change(dims)) for dims in drawn])))
        varied = change(largest_dims(hidden.var(axis=0), count=CLIPPED))
        others.append(max(random[-1], varied))
        notes |= {f"anisotropy_{layer}": before, f"drop_{layer}": drops[-1], f"random_{layer}": random[-1]}
        notes |= {f"largest_variance_{layer}": varied, f"centred_{layer}": anisotropy(hidden - hidden.mean(axis=0))}
    for layer in PROBED_LAYERS:
        notes[f"probe_{layer}"] = position_probe(table.hidden[layer], table.positions).accuracy
    least = int(np.argmin(np.array(drops) - np.array(others)))
    notes["least_ratio_to_random"] = float(np.min(np.array(drops) / np.array(random)))
    notes["least_drop"] = min(drops)
    notes["least_layer"] = float(least)
    return Trial(others[least], drops[least], notes)


def shared_with_position_table(model: CharModel, z: np.ndarray) -> float:
    """Share of the layers' most extreme coordinates that are the most extreme of the position table, too."""
    import numpy as np

    from tether.space import largest_dims
    from tether.space.outlier_dims import standard_scores

    assert model.places is not None
    table = standard_scores(model.places.weight.detach().double().numpy().mean(axis=0, keepdims=True))[0]
    own = largest_dims(table, count=CLIPPED)
    return float(np.mean([np.isin(largest_dims(layer, count=CLIPPED), own).mean() for layer in z]))


def planted(lab: Lab) -> dict[str, float]:
    """What is found in random states with two planted coordinates, and their anisotropy with and without those."""
    import numpy as np

    from tether.methods.positional_artefacts import anisotropy
    from tether.space import clip_dims, outlier_dims

    hidden = np.random.default_rng([lab.seed, 1]).normal(size=(4, TOKENS, WIDTH))
    for place, offset in PLANTED.items():
        hidden[..., place] += offset
    dims = outlier_dims(hidden).dims
    return {
        "planted_found": float(dims.tolist() == sorted(PLANTED)),
        "planted_anisotropy": float(np.mean([anisotropy(layer) for layer in hidden])),
        "planted_anisotropy_without": float(np.mean([anisotropy(clip_dims(layer, dims=dims)) for layer in hidden])),
    }
