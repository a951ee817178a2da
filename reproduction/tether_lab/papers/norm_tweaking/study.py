"""Norm tweaking: a rounded model mended by its norms, layer by layer, on texts that it writes itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tether_lab.lab.card import Card, Claim, Condition, Trial

if TYPE_CHECKING:
    from torch import Tensor

    from tether_lab.lab.lab import Lab
    from tether_lab.worlds.char_lm import CharModel

BITS, SEQUENCES, LENGTH, RATE = 2, 64, 48, 5e-3
DISTILLED_RATE = 1e-2
"""Of the other way to move the norms; both rates are the best of four on pilot seeds."""

CARD = Card.of(
    "norm-tweaking",
    claim=Claim(
        says="Moving the norms of a language model whose weights have 2 bits, layer by layer toward the float layers' "
        "means and variances on its own texts, lowers its validation loss.",
        metric="validation cross-entropy, nats per character",
        better="lower",
        margin=0.04,
        baseline="the same rounded model, untouched",
        scale=f"character model of 8 pre-norm layers with RMSNorm and width 64, {BITS} bits, one clip value a matrix "
        f"(the largest magnitude), {SEQUENCES} texts of {LENGTH} characters",
        equal="the float model, its rounded matrices and the bits; of norms moved either way also texts and steps, and "
        "the rate, the best of 0.001, 0.003, 0.005 and 0.01 on seeds 10 and 11",
        conditions=(
            Condition(
                says="It gives back at least 15 % of what rounding cost.",
                ours="recovered",
                than=0.15,
            ),
            Condition(
                says="An identity, nearly, as it is what is descended on: on the texts that it learnt from "
                "every layer's means and variances end nearer to the float layer's.",
                ours="share_of_layers_nearer",
                than=0.999,
            ),
            Condition(
                says="Texts that the model writes serve as well as texts of its training, but for 0.03 nats.",
                ours="tweaked",
                than="tweaked_on_learning_text",
                better="lower",
                least=-0.03,
            ),
            Condition(
                says="The same norms, moved all at once toward the float model's logits, do not give back more.",
                ours="tweaked",
                than="distilled",
                better="lower",
            ),
        ),
    ),
    differences=(
        "Statistics are taken one text at a time, variances unbiased, as in smpanaro/norm-tweaking.",
        "The next layer is given outputs computed after the pass; that code hands on those recorded before each step, "
        "which is the option passed='recorded'.",
        "First characters are drawn from the training text; the paper draws tokens of its main languages.",
        f"The learning rate of {RATE:g} is 500 times the paper's for billions of weights.",
        "Only 2 bits are tried: at 3 and 4 bits rounding costs a model this small too little to give back.",
    ),
    tried={
        "this bed on pilot seeds 10 and 11, rates 0.001, 0.003, 0.005 and 0.01": (
            "Rounding cost 0.35 and 0.53 nats; tweaking gave back 0.015, 0.025, 0.025 and 0.007 of them on the "
            "one seed, 0.030, 0.064, 0.070 and 0.070 on the other. The same norms moved toward the float logits "
            "gave back 0.033, 0.077, 0.100 and 0.122, and 0.068, 0.140, 0.173 and 0.209. (on the text until 2026-12)"
        ),
    },
    minutes=4.0,
)


def reproduce(lab: Lab) -> Trial:
    """Round, and mend by norms on own texts, on learning text, and by the float model's logits."""
    from tether_lab.worlds import deep_char_lm

    plain = deep_char_lm.trained(lab)
    count = lab.steps(SEQUENCES, 3)
    own, learnt = own_text(lab, plain, rows=count), deep_char_lm.learning_text(lab, rows=count)
    notes = {"float": deep_char_lm.nats(lab, plain)}
    rounded, tweaked, share = mended(lab, own, scale="max")
    notes |= {"rounded": rounded, "tweaked": tweaked, "share_of_layers_nearer": share}
    notes["recovered"] = (rounded - tweaked) / (rounded - notes["float"])
    notes["tweaked_on_learning_text"] = mended(lab, learnt, scale="max")[1]
    notes["rounded_octav"], notes["tweaked_octav"], _ = mended(lab, own, scale="octav")
    notes["distilled"] = distilled(lab, plain, own, rate=DISTILLED_RATE)
    return Trial(rounded, tweaked, notes)


def own_text(lab: Lab, model: CharModel, *, rows: int) -> Tensor:
    """Texts that the float model writes."""
    from tether.methods.norm_tweaking import own_texts
    from tether_lab.worlds import deep_char_lm

    first = deep_char_lm.letters(lab, rows=rows)
    return own_texts(model, first, length=LENGTH, generator=lab.generator("own text"))


def mended(lab: Lab, texts: Tensor, **rounding: Any) -> tuple[float, float, float]:
    """Nats of the rounded model and of the tweaked one, and the share of layers whose loss fell."""
    from tether.compression.quantise import Octav
    from tether.methods.norm_tweaking import NormTweak
    from tether_lab.worlds import deep_char_lm

    model = deep_char_lm.trained(lab)
    Octav(bits=BITS, share="tensor", **rounding).apply_(model)
    before = deep_char_lm.nats(lab, model)
    repair = NormTweak(lr=RATE)
    repair.tweak_(model, list(texts))
    layers = repair.layers["text"]
    nearer = sum(layer.after < layer.before for layer in layers) / len(layers)
    return before, deep_char_lm.nats(lab, model), nearer


def distilled(lab: Lab, plain: CharModel, texts: Tensor, *, rate: float) -> float:
    """Nats after the same norms, all at once, took as many steps toward the float model's logits."""
    import torch
    import torch.nn.functional as F

    from tether.compression.quantise import Octav
    from tether.models.features.lm_blocks import stack_norms
    from tether_lab.worlds import deep_char_lm

    model = deep_char_lm.trained(lab)
    Octav(bits=BITS, share="tensor", scale="max").apply_(model)
    model.requires_grad_(False)
    held = [place.held("weight") for place in stack_norms(model)]
    norms = [one.module.get_parameter(one.name).requires_grad_() for one in held]
    optimizer = torch.optim.Adam(norms, lr=rate)
    for ids in texts:
        with torch.no_grad():
            target = F.log_softmax(plain(ids[None]), -1)
        optimizer.zero_grad()
        F.kl_div(F.log_softmax(model(ids[None]), -1), target, log_target=True, reduction="batchmean").backward()
        optimizer.step()
    return deep_char_lm.nats(lab, model)
