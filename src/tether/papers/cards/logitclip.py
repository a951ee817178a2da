"""LogitClip: one wrong label can cost only so much when the logits' norm is capped."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether.core.card import Card, Claim, Trial

if TYPE_CHECKING:
    from tether.papers.reproduction.lab import Lab

NOISE, TAU, EPOCHS, LEARNING_RATE = 0.4, 0.25, 100, 0.1
OTHER_TAUS = (0.1, 0.5, 1.0)
CLEAN_TAU = 0.5

CARD = Card(
    slug="logitclip",
    title="Mitigating Memorization of Noisy Labels by Clipping the Model Prediction",
    year=2023,
    arxiv="2212.04055",
    venue="ICML 2023",
    code="hongxin001/LogitClip",
    authors=("Wei", "Zhuang", "Xie", "Feng", "Niu", "An", "Li"),
    package="losses",
    parts=(
        "tether.losses.logit_clip.clip_logits",
        "tether.losses.logit_clip.LogitClipLoss",
        "tether.losses.logit_clip_pairs.LogitClip",
    ),
    needs=("labels, some of them wrong", "or pairs, some of them mismatched"),
    gives="Any classification or contrastive loss, bounded for each sample, so that wrong labels are learnt less.",
    claim=Claim(
        says="With 40 % of the training labels wrong, a cap of 0.25 on the logits' norm keeps clean accuracy higher "
        "than plain cross-entropy does.",
        metric="accuracy on clean held-out digits, mean of the last 10 epochs",
        better="higher",
        margin=0.04,
        baseline="cross-entropy on raw logits, everything else equal",
        scale=f"scikit-learn digits, 1,078 for training, net 64-256-256-10, SGD {LEARNING_RATE}, {EPOCHS} epochs",
    ),
    differences=(
        "Clipped rows are rescaled to tau, as the paper has it; the released code rescales them to 1 / tau.",
        "Contrastive objectives can be clipped too, image rows and text columns each for themselves; the paper has "
        "classifiers only.",
        "A row of zeros has a defined gradient, the plain loss's.",
        "A small net on digits stands in for ResNet-34 on CIFAR; the paper's larger gains are not promised.",
    ),
    minutes=2.0,
    guide="objectives.md",
)


def reproduce(lab: Lab) -> Trial:
    """Train on noisy labels with several caps, and on clean labels for what a cap costs there."""
    import functools

    import torch.nn.functional as F
    from torch import Tensor

    from tether.losses import LogitClipLoss
    from tether.papers.testbeds.noisy_digits import NoisyLoss, train

    def capped(tau: float) -> NoisyLoss:
        loss = LogitClipLoss(tau=tau)
        return lambda logits, labels, epoch: loss(logits, labels)

    def plain(logits: Tensor, labels: Tensor, epoch: int) -> Tensor:
        return F.cross_entropy(logits, labels)

    run = functools.partial(train, seed=lab.seed, epochs=lab.steps(EPOCHS), learning_rate=LEARNING_RATE)
    baseline, ours = run(plain, noise=NOISE), run(capped(TAU), noise=NOISE)
    others = {tau: run(capped(tau), noise=NOISE).accuracy for tau in OTHER_TAUS}
    clean, clean_capped = run(plain, noise=0.0), run(capped(CLEAN_TAU), noise=0.0)
    return Trial(
        baseline.accuracy,
        ours.accuracy,
        {
            "memorised_plain": baseline.memorised,
            f"memorised_tau_{TAU:g}": ours.memorised,
            "best_epoch_plain": baseline.best,
            f"best_epoch_tau_{TAU:g}": ours.best,
            **{f"tau_{tau:g}": accuracy for tau, accuracy in others.items()},
            "clean_labels_plain": clean.accuracy,
            f"clean_labels_tau_{CLEAN_TAU:g}": clean_capped.accuracy,
            "clean_labels_loss": clean.accuracy - clean_capped.accuracy,
        },
    )
