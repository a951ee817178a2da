"""NormFormer: norms behind attention and inside the feed-forward net, and one learned factor for each head."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether_lab.lab.card import Card, Claim, Condition, Trial

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tether.models.towers.blocks.block import TransformerBlock
    from tether_lab.lab.lab import Lab
    from tether_lab.worlds.char_lm import CharModel

RATES = (1e-3, 3e-3, 9e-3)
"""Learning rates: each arrangement has the best one of each seed."""
LOOKED_AT = 3e-3
"""Rate of the runs whose gradients and trained weights are looked at, the test bed's own."""
FACTOR, EMBEDDING_STD = 10.0, 1.0

CARD = Card.of(
    "normformer",
    claim=Claim(
        says="A language model of NormFormer blocks ends with a lower validation loss than one of pre-norm blocks.",
        metric="validation cross-entropy, nats per character",
        better="lower",
        margin=0.02,
        baseline="pre-norm blocks, the best of three learning rates on each seed",
        scale="character model of 6 layers and width 64, 300 steps, embeddings of standard deviation 1 at the start",
        equal="starting weights, batches, steps and three learning rates (0.001, 0.003 and 0.009), of which each has "
        "the best",
        conditions=(
            Condition(
                says=f"At a rate of {LOOKED_AT:g} the feed-forward gradients of the first and the last block are "
                "closer in size mid-training than with pre-norm: a smaller mean of the absolute log ratio.",
                ours="unevenness_normformer",
                than="unevenness_prenorm",
                better="lower",
            ),
            Condition(
                says="A trained NormFormer's sublayers, with ReLU, change by at most 0.001 of their output when their "
                "last or first matrix is multiplied by ten.",
                ours="largest_change_normformer",
                than=1e-3,
                better="lower",
            ),
            Condition(
                says="Pre-norm's grow tenfold.",
                ours="least_change_prenorm",
                than=8.999,
            ),
            Condition(
                says="Without the two norms and with factors of one a block is pre-norm's, bit for bit.",
                ours="ablated_difference",
                than=0.0,
                better="lower",
            ),
        ),
    ),
    differences=(
        "Head factors stand before the output projection, as in the paper; fairseq's code multiplies shares of "
        "channels after it, which is the option head_scale: after_proj.",
        "The fourth piece, a learned factor on the feed-forward net's skip, is the option residual_scale, off as the "
        "paper advises it for small models only.",
        "Neither factors nor gains get weight decay.",
        "The paper's models have 125 M parameters and more, its runs are long, and its baselines have learning rates "
        "between a third and a fifth of NormFormer's.",
    ),
    tried={
        (
            "the change of trained sublayers' outputs when a matrix is multiplied by ten, which was the claim at "
            "first and follows from the norms"
        ): "0.0013 % against tenfold with pre-norm, seeds 0 to 2 (on the text until 2026-12)",
        "validation losses with ReLU at the one learning rate of 0.003, beside that claim": (
            "1.947 nats against 1.937 with pre-norm, 1.947 with the fourth piece (residual_scale), too; with "
            "embeddings of standard deviation 0.02 2.039 against 2.018, seeds 0 to 2 (on the text until 2026-12)"
        ),
    },
    minutes=9.0,
)


def reproduce(lab: Lab) -> Trial:
    """Train both at three learning rates; multiply weights of those at the middle one, and take NormFormer apart."""
    from tether_lab.worlds import char_lm, char_lm_depth

    text, _ = char_lm.corpus()
    draw = lab.generator("measured text")
    ids, _ = char_lm.draw_batch(text[len(text) * 9 // 10 :], draw, batch=8, context=char_lm.CONTEXT)
    notes = {"ablated_difference": ablated_difference(lab, ids)}
    best: dict[str, float] = {}
    changes: dict[str, list[float]] = {}
    for preset in ("prenorm", "normformer"):
        losses = []
        for rate in RATES:
            trained = model(lab, preset=preset)
            done = char_lm_depth.train(lab, trained, learning_rate=rate)
            losses.append(done.validation)
            notes |= {
                f"validation_{preset}_{rate:g}": done.validation,
                f"log_ratio_{preset}_{rate:g}": done.log_ratio,
            }
            if rate == LOOKED_AT:
                notes[f"unevenness_{preset}"] = done.unevenness
                linear = model(lab, preset=preset, activation="relu")
                linear.load_state_dict(trained.state_dict())
                changes[preset] = scale_changes(linear, ids)
        best[preset] = min(losses)
    notes["largest_change_normformer"] = max(changes["normformer"])
    notes["least_change_prenorm"] = min(changes["prenorm"])
    return Trial(best["prenorm"], best["normformer"], notes)


def model(lab: Lab, *, preset: str, **options: object) -> CharModel:
    """A model at its start."""
    from tether.models.towers.blocks.presets import BlockPreset
    from tether_lab.worlds import char_lm

    blocks = BlockPreset(preset, options)
    return char_lm.CharModel(char_lm.alphabet_size(), blocks=blocks, embedding_std=EMBEDDING_STD, seed=lab.seed)


def ablated_difference(lab: Lab, ids: Tensor) -> float:
    """Largest difference of the logits of pre-norm from those of NormFormer's factors, all one, without its norms."""
    import torch

    ablated = {"attn_norm": ("pre",), "ffn_mid_norm": False, "residual_scale": True}
    with torch.no_grad():
        logits = [model(lab, preset="prenorm")(ids), model(lab, preset="normformer", **ablated)(ids)]
    return float((logits[0] - logits[1]).abs().max())


def scale_changes(model: CharModel, ids: Tensor) -> list[float]:
    """How much each block's attention changes when its last matrix grows, and its feed-forward net when its first does.

    A change is the norm of the difference over the norm before; each layer's bias grows with its matrix.
    """
    import torch

    model = model.double().eval()
    changes = []
    with torch.no_grad():
        states = model.read(ids).states
        for block, x in zip(model.stack, states, strict=False):
            for matrix, output in ((block.proj, attention_output), (block.up, feed_forward_output)):
                before = output(block, x)
                for value in matrix.parameters():
                    value.mul_(FACTOR)
                after = output(block, x)
                for value in matrix.parameters():
                    value.div_(FACTOR)
                changes.append(float((after - before).norm() / before.norm()))
    return changes


def attention_output(block: TransformerBlock, x: Tensor) -> Tensor:
    """What attention adds to the stream: watched where it leaves its last layer."""
    return watched(block, block.proj if block.attn_out is None else block.attn_out, x)


def feed_forward_output(block: TransformerBlock, x: Tensor) -> Tensor:
    """What the feed-forward net adds to the stream, but for the constant bias of its last layer."""
    return watched(block, block.down, x) - block.down.bias


def watched(block: TransformerBlock, layer: nn.Module, x: Tensor) -> Tensor:
    """The output of one of the block's layers when the block reads ``x``."""
    seen: list[Tensor] = []
    handle = layer.register_forward_hook(lambda module, inputs, output: seen.append(output))
    block(x, causal=True)
    handle.remove()
    return seen[0]
