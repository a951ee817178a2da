"""Gate-Norm: attention sublayers that weights alone say are weak, left out in one shot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether_lab.lab.card import Card, Claim, Condition, Trial

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tether_lab.lab.lab import Lab
    from tether_lab.worlds.char_lm import CharModel

REMOVED, DRAWS, LOOKED_AT = 2, 6, 8
"""Layers that go, random choices of them, and batches that the data-driven rule looks at."""

CARD = Card.of(
    "gate-norm",
    claim=Claim(
        says=f"Leaving out the attention of the {REMOVED} layers of eight whose queries and keys are coupled most "
        "weakly costs a language model less than leaving out a random choice.",
        metric="increase of the validation cross-entropy, nats per character",
        better="lower",
        margin=0.05,
        baseline=f"the mean of {DRAWS} random choices",
        scale="character model of 8 pre-norm layers with RMSNorm and width 64, 400 steps",
        equal="the trained model and the number of layers left out; nothing is trained after",
        conditions=(
            Condition(
                says="It costs less than half of a random choice.",
                ours="low",
                than="half_of_random",
                better="lower",
            ),
            Condition(
                says="It costs less than a fifth of leaving out the layers with the strongest coupling.",
                ours="low",
                than="fifth_of_highest",
                better="lower",
            ),
            Condition(
                says="It costs no more than leaving out those that data say change the stream least (cosine of what "
                "enters and leaves attention), but for 0.02 nats.",
                ours="low",
                than="data_driven",
                better="lower",
                least=-0.02,
            ),
            Condition(
                says="It costs no more than leaving out the last ones, which asks nothing at all, but for 0.02 nats.",
                ours="low",
                than="last_layers",
                better="lower",
                least=-0.02,
            ),
        ),
    ),
    differences=(
        "One norm a layer over all heads together; whether the paper keeps heads apart is not said, and per_head does.",
        "Biases, turning by position and the weight of the norm before are left out; fold_norm takes the last in.",
        "Models with norms of queries and keys are refused, as the scale of their weights means nothing.",
        "The sheet's restore() is GateNorm(keep=True).restore: what is left out is let go otherwise.",
        "Of Tether's own models the description says which blocks have no attention; other encoders, whose library's "
        "cannot, are refused, and a language model of transformers is pruned in memory alone.",
        "The paper's models have 40 layers and more, of which 8 to 16 go, and its speed is that of long texts.",
    ),
    tried={
        "pilot seeds 10 and 11 on the text until 2026-12; nothing was chosen": (
            "The weakest two cost 0.058 and 0.058 nats, a random two 0.40 and 0.34, but 0.066 and 0.050 where "
            "the first layer, which alone costs 2.1 and 1.8, is not among them; the last two 0.076 and 0.052, the two "
            "that data choose 0.036 and 0.050, the strongest two 2.0 and 1.9."
        ),
    },
    minutes=2.0,
)


def reproduce(lab: Lab) -> Trial:
    """Score the layers once, and measure the model without each choice of them."""
    import statistics

    import torch

    from tether.methods.gate_norm import gate_norm_scores
    from tether_lab.worlds import deep_char_lm

    model = deep_char_lm.trained(lab)
    plain = deep_char_lm.nats(lab, model)
    scores = gate_norm_scores(model)
    weakest = sorted(range(len(scores)), key=list(scores.values()).__getitem__)
    draw = lab.generator("layers")
    drawn = [torch.randperm(len(scores), generator=draw)[:REMOVED].tolist() for _ in range(lab.steps(DRAWS, 1))]
    random = [cost(lab, choice, plain=plain) for choice in drawn]
    notes = {
        "float": plain,
        "low": cost(lab, weakest[:REMOVED], plain=plain),
        "highest": cost(lab, weakest[-REMOVED:], plain=plain),
        "data_driven": cost(lab, least_changed(lab, model)[:REMOVED], plain=plain),
        "last_layers": cost(lab, range(len(scores) - REMOVED, len(scores)), plain=plain),
        "first_layer_alone": cost(lab, [0], plain=plain),
        "first_layer_chosen": float(0 in weakest[:REMOVED]),
        "random_without_the_first": statistics.fmean(
            [one for one, choice in zip(random, drawn, strict=True) if 0 not in choice] or [0.0]
        ),
    }
    random_mean = statistics.fmean(random)
    notes |= {"half_of_random": random_mean / 2, "fifth_of_highest": notes["highest"] / 5}
    return Trial(random_mean, notes["low"], notes)


def cost(lab: Lab, layers: Iterable[int], *, plain: float) -> float:
    """Nats more without the attention of some layers."""
    from tether.methods.gate_norm import prune_attention
    from tether_lab.worlds import deep_char_lm

    model, chosen = deep_char_lm.trained(lab), set(layers)
    scores = {f"blocks.{layer}": float(layer not in chosen) for layer in range(deep_char_lm.LAYERS)}
    prune_attention(model, n=len(chosen), scores=scores)
    return deep_char_lm.nats(lab, model) - plain


def least_changed(lab: Lab, model: CharModel) -> list[int]:
    """Layers by how little their attention turns the stream, on text that is learnt from; the least first."""
    import torch
    import torch.nn.functional as F

    from tether_lab.worlds import deep_char_lm

    turned = [0.0] * len(model.stack)

    def watch(layer: int) -> None:
        block = model.stack[layer]

        def look(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            turned[layer] += float(1 - F.cosine_similarity(entered[layer], entered[layer] + output, dim=-1).mean())

        block.register_forward_pre_hook(lambda module, inputs: entered.__setitem__(layer, inputs[0]))
        block.proj.register_forward_hook(look)

    entered: dict[int, torch.Tensor] = {}
    for layer in range(len(model.stack)):
        watch(layer)
    with torch.no_grad():
        for ids in deep_char_lm.learning_text(lab, rows=32 * lab.steps(LOOKED_AT, 1)).split(32):
            model(ids)
    return sorted(range(len(turned)), key=turned.__getitem__)
