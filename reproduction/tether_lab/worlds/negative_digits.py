"""Digits drawn by a small diffusion that is told two of them and asked to leave one out."""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from tether.core.hash_rng import hash_int
from tether.core.protocols import DualEncoder
from tether.generation import CFG, NAG, TextDiffusion, train_generator
from tether.models.features.image_digest import image_digest
from tether_lab.lab.card import Trial
from tether_lab.lab.lab import Lab
from tether_lab.lab.model_cache import cached_model
from tether_lab.lab.trace import saw
from tether_lab.worlds.in_memory import percent
from tether_lab.worlds.pairs import load_pairs
from tether_lab.worlds.small_clip import small_clip

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DATA = "digits:size=32"
CLIP_STEPS, STEPS, BATCH, RATE = 150, 700, 32, 2e-3
CHANNELS = (16, 32)
SAMPLING, EACH, JUDGE_STEPS = 4, 8, 600
PAIRS = tuple((wanted, other) for wanted in range(10) for other in range(10) if wanted != other)
SETTINGS, OWN_SCALE = NAG(scale=11.0, alpha=0.5), 5.0
"""Of NAG and of classifier-free guidance: of six each those that show the wanted digit most often on pilot seeds."""
UNSURE = 0.5
"""Below it the judge is not sure of an image."""


@dataclass(frozen=True, slots=True)
class NegativeBed:
    """What a seed measures with.

    Attributes:
        diffusion: trained on digits told alone or with another.
        judge: (b, 64) images in -1 to 1 to (b, 10) logits; learnt from the same images, steers nothing.
        pairs: digits that are told, the second of which is the negative.
        noise: (n, 3, 8, 8) that all arms begin from.
        judge_accuracy: of held-out digits, percent.
    """

    diffusion: TextDiffusion
    judge: nn.Module
    pairs: tuple[tuple[int, int], ...]
    noise: Float[Tensor, "n 3 8 8"]
    judge_accuracy: float


def prepare(lab: Lab) -> NegativeBed:
    """Encoder and diffusion from the cache, and a judge."""
    model = small_clip(lab, data=DATA, steps=CLIP_STEPS)
    diffusion = _diffusion(lab, model)
    pixels, labels = _digits("train")
    judge = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = torch.optim.AdamW(judge.parameters(), lr=3e-3)
    draw = lab.generator("judge")
    for _ in range(lab.steps(JUDGE_STEPS)):
        rows = torch.randint(len(labels), (128,), generator=draw)
        shown = pixels[rows].mean(1).flatten(1) + 0.1 * torch.randn(128, 64, generator=draw)
        loss = F.cross_entropy(judge(shown), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    held, truth = _digits("test")
    with torch.no_grad():
        right = judge(held.mean(1).flatten(1)).argmax(1) == truth
    pairs = tuple(pair for pair in PAIRS for _ in range(lab.steps(EACH, smoke=1)))[: lab.steps(10_000, smoke=4)]
    noise = torch.randn(len(pairs), 3, 8, 8, generator=lab.generator("noise"))
    return NegativeBed(diffusion, judge.eval(), pairs, noise, percent(right))


def asked(bed: NegativeBed, guidance: NAG | CFG | None, *, both: bool = True) -> dict[str, float]:
    """Shares of images, in percent, that the judge calls the digit to leave out, the other one, or is not sure of.

    Args:
        bed: of the seed.
        guidance: how it is left out; None asks for either and says nothing more.
        both: whether the text names both digits, or only the wanted one.
    """
    texts = [_said(wanted, other) if both else _said(wanted) for wanted, other in bed.pairs]
    negative = None if guidance is None else [_said(other) for _, other in bed.pairs]
    start = time.process_time()
    made = bed.diffusion.generate(texts, noise=bed.noise, steps=SAMPLING, negative=negative, guidance=guidance)
    seconds = time.process_time() - start
    with torch.no_grad():
        chance = bed.judge(made.mean(1).flatten(1)).softmax(1)
    saw(chance)
    named = chance.argmax(1)
    wanted, other = (torch.tensor(one) for one in zip(*bed.pairs, strict=True))
    shares = {"left_out": named == other, "wanted": named == wanted, "unsure": chance.max(1).values < UNSURE}
    return {name: percent(share) for name, share in shares.items()} | {"seconds": seconds}


def _said(*digits: int) -> str:
    return " or ".join(NAMES[digit] for digit in digits)


def _diffusion(lab: Lab, model: nn.Module) -> TextDiffusion:
    encoder = cast(DualEncoder, model)

    def make(folder: Path) -> None:
        folder.mkdir()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(hash_int("diffusion", seed=lab.seed, salt="lab") >> 1)
            made = TextDiffusion(encoder, size=8, channels=CHANNELS, plain=0)
        pixels, labels = _digits("train")
        texts = [_texts(int(label)) for label in labels]
        shown = pixels.add(1).mul(127.5).round().to(torch.uint8)
        train_generator(made, shown, texts, steps=lab.steps(STEPS), batch_size=BATCH, learning_rate=RATE, seed=lab.seed)
        made.save(folder / "diffusion.safetensors")

    facts = [image_digest(encoder), lab.steps(STEPS), lab.seed]
    folder = cached_model("negative-digits", made_by=Path(__file__), facts=facts, make=make)
    return TextDiffusion.load(folder / "diffusion.safetensors", model=encoder)


def _texts(digit: int) -> list[str]:
    """As often alone as with another, before it or after."""
    pairs = [text for other in range(10) if other != digit for text in (_said(digit, other), _said(other, digit))]
    return [_said(digit)] * len(pairs) + pairs


@functools.cache
def _digits(split: str) -> tuple[Float[Tensor, "n 3 8 8"], Int[Tensor, " n"]]:
    """White on black in -1 to 1."""
    pairs = load_pairs(f"digits:split={split},size=8", size=8)
    return 1 - pairs.pixels.float() / 127.5, torch.tensor([int(str(meta["label"])) for meta in pairs.meta])


def trial(lab: Lab) -> Trial:
    """One seed: either digit asked for without guidance, with NAG, with classifier-free guidance at the same scale."""
    bed = prepare(lab)
    arms = {"none": asked(bed, None), "nag": asked(bed, SETTINGS), "cfg": asked(bed, CFG(scale=SETTINGS.scale))}
    arms["cfg_own"] = asked(bed, CFG(scale=OWN_SCALE))
    arms["alone"] = asked(bed, None, both=False)
    seconds = {name: found.pop("seconds") for name, found in arms.items()}
    notes = {f"{key}_{name}": value for name, found in arms.items() for key, value in found.items()}
    notes |= {"cost": 0.0 if lab.smoke else seconds["nag"] / seconds["cfg"], "judge_accuracy": bed.judge_accuracy}
    return Trial(arms["none"]["left_out"], arms["nag"]["left_out"], notes)
