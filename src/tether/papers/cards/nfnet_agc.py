"""NFNets: unit-wise clipping relative to the weights, and residual networks without normalisation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether.core.card import Card, Claim, Trial

if TYPE_CHECKING:
    from tether.papers.reproduction.lab import Lab

CLIPPING, RATE = 0.01, 0.4

CARD = Card(
    slug="nfnet-agc",
    title="High-Performance Large-Scale Image Recognition Without Normalization",
    authors=("Brock", "De", "Smith", "Simonyan"),
    year=2021,
    arxiv="2102.06171",
    venue="ICML 2021",
    code="deepmind/deepmind-research",
    package="optim",
    parts=(
        "tether.optim.clip.agc.AGC",
        "tether.optim.clip.agc.adaptive_clip_grad_",
        "tether.optim.clip.unit_norms.unitwise_norm",
        "tether.models.vision.scaled_std_conv.ScaledStdConv2d",
        "tether.models.vision.scaled_activation.ScaledActivation",
        "tether.models.vision.nf_resnet.NFBlock",
        "tether.models.vision.nf_resnet.NFResNet",
    ),
    needs=("gradients", "the weights they belong to"),
    gives="A limit on each unit's gradient that needs no knowledge of its usual size, and networks without batch norm.",
    claim=Claim(
        says="A residual network without normalisation learns at a rate at which it fails without the clipping.",
        metric=f"test accuracy on handwritten digits after 12 epochs at a learning rate of {RATE}",
        better="higher",
        margin=0.55,
        baseline="the same network and batches without clipping, steps that are not finite left out",
        scale="six blocks of width 24 on 8 x 8 images, batch 256, Nesterov momentum 0.9, no warm-up",
    ),
    differences=(
        "A gradient that is not finite asks for a skip; the released code keeps a NaN, timm's spreads it over a unit.",
        "Tensors of more than four axes count along the first, with a warning; the released code stops.",
        "Stochastic depth and dropout are left out of the network, and its stem and stages are sized by arguments.",
        "Handwritten digits stand in for ImageNet, whose accuracies are out of reach here.",
    ),
    minutes=1.0,
    guide="stability.md",
)


def reproduce(lab: Lab) -> Trial:
    """Train twice from the same weights on the same batches, with and without the clipping."""
    from tether.optim.clip import AGC, NoClip
    from tether.papers.testbeds.digits import EPOCHS, digits, network, train

    data = digits(lab)
    clipped = AGC(CLIPPING, exclude=["head.weight"])
    accuracy = [
        train(
            network(seed=lab.seed),
            clipper,
            data=data,
            lr=RATE,
            generator=lab.generator("order"),
            epochs=lab.steps(EPOCHS, 1),
        )
        for clipper in (NoClip(), clipped)
    ]
    fractions = dict(clipped.last)
    return Trial(accuracy[0], accuracy[1], {"units_clipped_in_last_step": sum(fractions.values()) / len(fractions)})
