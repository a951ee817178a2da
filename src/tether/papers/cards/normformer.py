"""NormFormer: norms behind attention and inside the feed-forward net, and one learned factor for each head."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from tether.core.card import Card, Claim, Trial

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tether.models.blocks.block import TransformerBlock
    from tether.papers.reproduction.lab import Lab
    from tether.papers.testbeds.char_lm import CharModel

STEPS, FACTOR = 300, 10.0

CARD = Card(
    slug="normformer",
    title="NormFormer: Improved Transformer Pretraining with Extra Normalization",
    year=2021,
    arxiv="2110.09456",
    code="facebookresearch/fairseq",
    package="models",
    parts=("tether.models.blocks.presets.normformer", "tether.models.blocks.block.TransformerBlock"),
    needs=("a model trained from the start",),
    gives="Blocks whose sublayers do not feel the scale of their weights, for higher learning rates.",
    claim=Claim(
        says="A trained NormFormer's sublayers give the same output when the output projection of attention, or the "
        "first matrix of the feed-forward net, is multiplied by ten; pre-norm's grow tenfold.",
        metric="relative change of the sublayers' outputs, mean over blocks and both matrices",
        better="lower",
        margin=8.999,
        baseline="a pre-norm model trained alike, whose outputs change by a factor of ten",
        scale=f"character model of 6 layers and width 64 with ReLU, {STEPS} steps, measured in float64",
    ),
    differences=(
        "Head factors stand before the output projection, as in the paper; fairseq's code multiplies shares of "
        "channels after it, which is the option head_scale: after_proj.",
        "The fourth piece, a learned factor on the feed-forward net's skip, is the option residual_scale, off as the "
        "paper advises it for small models only.",
        "Neither factors nor gains get weight decay.",
        "The paper's gains need models of 125 M parameters and long runs; losses are reported here without a mark.",
    ),
    minutes=7.0,
    guide="architectures.md",
    authors=("Shleifer", "Weston", "Ott"),
)


def reproduce(lab: Lab) -> Trial:
    """Train both, multiply weights, and for the notes compare losses at two sizes of the embeddings."""
    from tether.papers.testbeds import char_lm

    text, _ = char_lm.corpus()
    draw = lab.generator("measured text")
    ids, _ = char_lm.draw_batch(text[len(text) * 9 // 10 :], draw, batch=8, context=char_lm.CONTEXT)
    runs = {
        name: train(lab, preset=preset, embedding_std=std, residual_scale=residual)
        for name, preset, std, residual in (
            ("prenorm", "prenorm", 0.02, False),
            ("normformer", "normformer", 0.02, False),
            ("prenorm_std_1", "prenorm", 1.0, False),
            ("normformer_std_1", "normformer", 1.0, False),
            ("normformer_residual_scale_std_1", "normformer", 1.0, True),
        )
    }
    notes = {f"validation_{name}": loss for name, (_, loss) in runs.items()}
    changes = {name: scale_changes(runs[name][0], ids) for name in ("prenorm", "normformer")}
    notes["largest_change_normformer"] = max(changes["normformer"])
    notes["least_change_prenorm"] = min(changes["prenorm"])
    return Trial(statistics.fmean(changes["prenorm"]), statistics.fmean(changes["normformer"]), notes)


def train(lab: Lab, *, preset: str, embedding_std: float, residual_scale: bool) -> tuple[CharModel, float]:
    """One trained model and its validation loss."""
    from tether.models.blocks.presets import BlockPreset
    from tether.papers.testbeds import char_lm

    model = char_lm.CharModel(
        char_lm.alphabet_size(),
        blocks=BlockPreset(preset, {"activation": "relu", "residual_scale": residual_scale}),
        embedding_std=embedding_std,
        seed=lab.seed,
    )
    batch, validation = lab.steps(char_lm.BATCH, 4), lab.steps(char_lm.VALIDATION_BATCHES, 1)
    done = char_lm.train(model, seed=lab.seed, steps=lab.steps(STEPS, 2), batch=batch, validation=validation)
    return model, done.validation


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
