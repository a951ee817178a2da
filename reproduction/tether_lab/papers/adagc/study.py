"""AdaGC: each tensor's gradient is held to a small multiple of its own past norm."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether_lab.lab.card import Card, Claim, Condition, Trial

if TYPE_CHECKING:
    from torch import nn

    from tether.core.protocols import GradClipper
    from tether_lab.lab.lab import Lab

FAULT, EVERY, FAULTY = 1000.0, 4, "blocks.layers.1.self_attn.out_proj.weight"
"""In the second check: what one tensor's gradient is multiplied by, in which steps, and which tensor."""

CARD = Card.of(
    "adagc",
    claim=Claim(
        says="With bad batches and a gradient scale that the usual limit was not chosen for, holding each tensor to "
        "its own past norm ends within 0.05 nats of the best of four constant limits.",
        metric="validation cross-entropy, nats per character",
        better="lower",
        margin=0.05,
        baseline="the best of four constant limits on the global norm: 1, 0.1, 0.01 and 0.001",
        scale="character model of 0.1 M parameters, 300 steps, loss times 0.01, five planted bad batches",
        kind="no_worse",
        equal="starting weights, batches, steps and learning rate; the constant limit is chosen from four trials by "
        "the figure itself, AdaGC has one, its defaults",
        conditions=(
            Condition(
                says="AdaGC ends at least 0.2 nats below a constant limit of 1, the usual default.",
                than="constant_1",
                better="lower",
                least=0.2,
            ),
            Condition(
                says="AdaGC ends at least 0.2 nats below no clipping.",
                than="no_clipping",
                better="lower",
                least=0.2,
            ),
            Condition(
                says="The bad batches cost AdaGC at most a fifth of what they cost behind a limit of 1.",
                ours="excess_adagc",
                than="fifth_of_excess_constant",
                better="lower",
            ),
            Condition(
                says="With the loss at full size, where a limit of 1 suits, AdaGC is at most 0.05 nats above it.",
                ours="full_loss_adagc",
                than="full_loss_constant",
                better="lower",
                least=-0.05,
            ),
            Condition(
                says="A gradient 1,000 times too large in one tensor leaves those of all others as they are.",
                ours="others_changed_adagc",
                than=0.0,
                better="lower",
            ),
            Condition(
                says="With such a fault in every fourth step AdaGC ends no higher than a constant limit of 1.",
                ours="fault_adagc",
                than="fault_constant",
                better="lower",
            ),
        ),
    ),
    differences=(
        "A norm of zero does not enter the statistic; in the released code one zero in the warm-up freezes a tensor.",
        "A step that is not finite is skipped and not recorded; the released code's statistic is NaN or zero for ever.",
        "The statistic is kept by parameter name, saved and resumed; the released code repeats its warm-up.",
        "exclude leaves tensors such as the logit scale without a limit of their own.",
        "Norms are of whole tensors; the released mode that limits each tensor-parallel shard by itself is left out.",
        "The paper's language models and its faster CLIP ViT-B are out of reach here.",
    ),
    tried={
        "one constant limit of 1 as the baseline, at a hundredth of the loss, which was the claim at first": (
            "1.90 nats against 2.48, seeds 0 to 2 (on the text until 2026-12)"
        ),
    },
    minutes=7.0,
)


def reproduce(lab: Lab) -> Trial:
    """Train with constant limits and with AdaGC at a hundredth of the loss.

    For the notes: the full loss; one tensor's gradient times 1,000 in every fourth step, without bad batches; and the
    share of the other tensors whose gradients such a fault changes.
    """
    from tether.methods.adagc import AdaGC
    from tether.methods.zclip import ZClip
    from tether.optim.clip import GlobalNorm
    from tether_lab.worlds.char_lm_spikes import limit_trial, train

    steps, validation = lab.steps(300, 3), lab.steps(20, 1)
    trial = limit_trial(AdaGC, lab)
    fault = {
        type(clipper).__name__: train(
            clipper, seed=lab.seed, steps=steps, validation=validation, planted={}, disturb=spoil
        ).validation
        for clipper in (GlobalNorm(1.0), ZClip(), AdaGC())
    }
    shares: dict[str, float] = {}
    for clipper in (GlobalNorm(1.0), AdaGC(warmup_steps=lab.steps(100, 1))):
        watch = Watch(clipper, last=steps // 2 - 1)
        train(clipper, seed=lab.seed, steps=steps // 2, validation=1, planted={}, disturb=watch)
        shares[type(clipper).__name__] = watch.share
    trial.notes.update(
        fault_constant=fault["GlobalNorm"],
        fault_zclip=fault["ZClip"],
        fault_adagc=fault["AdaGC"],
        others_changed_constant=shares["GlobalNorm"],
        others_changed_adagc=shares["AdaGC"],
    )
    return trial


def spoil(step: int, model: nn.Module) -> None:
    """Multiply the gradient of one weight matrix, the last block's attention output, in every fourth step."""
    if step % EVERY == EVERY - 1:
        gradient = model.get_parameter(FAULTY).grad
        if gradient is not None:
            gradient.mul_(FAULT)


class Watch:
    """Looks, in one step of a run, which tensors get another gradient when a fault hits one of them."""

    def __init__(self, clipper: GradClipper, *, last: int) -> None:
        """Args: clipper: the run's own, of which copies are tried; last: the step in which it looks."""
        self.clipper, self.last, self.share = clipper, last, 0.0

    def __call__(self, step: int, model: nn.Module) -> None:
        """Clip twice with copies, the second time with the fault, and compare all tensors but the faulty one."""
        if step != self.last:
            return
        import copy

        import torch

        raw = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        results = []
        for fault in (False, True):
            if fault:
                spoil(EVERY - 1, model)
            copy.deepcopy(self.clipper).clip_(model.named_parameters(), step=step)
            results.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
            for name, gradient in raw.items():
                model.get_parameter(name).grad = gradient.clone()
        calm, faulty = results
        changed = [not torch.equal(calm[name], faulty[name]) for name in raw if name != FAULTY]
        self.share = sum(changed) / len(changed)
