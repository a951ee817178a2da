"""Ways to make a small CLIP see more detail, at equal processor time, on the same images."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import torch

from tether.core.types import Batch
from tether.losses import clip_loss
from tether.methods.un2clip import InvertUnclip, image_choice, train_denoiser
from tether.methods.un2clip.denoise import drawn
from tether.methods.un2clip.denoiser import ConditionalDenoiser
from tether.models.towers.clip import Clip
from tether.optim import AdamW
from tether.training.schedules import Cosine
from tether_lab.lab.lab import Lab
from tether_lab.lab.model_cache import cached_clip
from tether_lab.worlds.detail_pairs import (
    DETAILS,
    SIZE,
    class_accuracy,
    detail_pairs,
    matching,
    probe_accuracy,
    told_images,
)
from tether_lab.worlds.flat_denoisers import FlatDecoder, FlatDenoiser
from tether_lab.worlds.in_memory import taught, unit_texts

IMAGES, TELLING, BASE_STEPS = 6_000, 0.1, 600
APART, CLASSED, PAIRS, GATE = 1_000, 1_000, 300, 400
WIDTH, TIMESTEPS, BETAS = 384, 100, (0.05, 0.15)
ALL_NOISE = 1 - 1e-6
DENOISER_STEPS, DENOISER_BATCH, DENOISER_RATE = 350, 64, 1e-3
STEPS, BATCH, DRAWS, EVERY, MOST_DROP = 200, 64, 2, 50, 0.02
RATES: Mapping[str, float] = {"denoiser": 1e-4, "decoder": 1e-4, "contrastive": 1e-3}
MU = 0.01
"""Weight of the squared distance from embeddings as they were, of length 10."""
DECODER_STEPS, DECODER_TUNING, CONTRASTIVE_STEPS, CONTRASTIVE_BATCH = 450, 300, 1_000, 128

Kind = Literal["denoiser", "decoder"]


class DetailBench:
    """Images, pairs and the CLIP that all arms begin as.

    Attributes:
        images: that every arm learns from.
        apart: the gate's, the early stop's and the reconstruction's.
        base: the CLIP.
    """

    def __init__(self, lab: Lab) -> None:
        """Draw and teach; the CLIP is read from the user's cache after a seed's first call."""
        seed = 10 * lab.seed
        self.lab = lab
        self.images = told_images(lab.steps(IMAGES, 64), seed=seed, telling=TELLING)
        self.apart = told_images(lab.steps(APART, 16), seed=seed + 1)
        self.classed = told_images(lab.steps(CLASSED, 16), seed=seed + 2)
        count = lab.steps(PAIRS, 8)
        self.fitted, self.asked = (
            {detail: detail_pairs(detail, count, seed=seed + part) for detail in DETAILS} for part in (3, 4)
        )

        def teach() -> Clip:
            further = [text for pairs in self.asked.values() for side in pairs.texts for text in side]
            return taught(lab, self.images.pixels, self.images.texts, steps=lab.steps(BASE_STEPS), further=further)

        self.base = cached_clip("detail-base", teach, made_by=Path(__file__), facts=[lab.seed, lab.smoke])
        gate = self.apart.pixels[:GATE]
        self.held_out = Batch(gate, torch.empty(len(gate), 0, dtype=torch.int64))

    def measure(self, model: Clip) -> dict[str, float]:
        """Percent right: the detail by a probe, by two captions (means of all, and each), and the class."""
        probes = {one: probe_accuracy(model, self.fitted[one], self.asked[one]) for one in DETAILS}
        pairs = {one: matching(model, self.asked[one]) for one in DETAILS}
        return {
            "probe": sum(probes.values()) / len(DETAILS),
            "matching": sum(pairs.values()) / len(DETAILS),
            "classes": class_accuracy(model, self.classed),
            **{f"probe_{one}": value for one, value in probes.items()},
            **{f"matching_{one}": value for one, value in pairs.items()},
        }

    def denoiser(self, kind: Kind) -> ConditionalDenoiser:
        """Trained on the CLIP's embeddings.

        The decoder is a denoiser of nothing but noise, which it does not look at.
        """
        shape, dim = (3, SIZE, SIZE), self.base.dim
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.lab.seed)
            network = (FlatDenoiser if kind == "denoiser" else FlatDecoder)(shape, cond_dim=dim, width=WIDTH)
        timesteps, betas = (TIMESTEPS, BETAS) if kind == "denoiser" else (1, (ALL_NOISE, ALL_NOISE))
        made = ConditionalDenoiser(
            dim, shape=shape, network=network, schedule="linear", timesteps=timesteps, betas=betas
        )
        steps = self.lab.steps(DENOISER_STEPS if kind == "denoiser" else DECODER_STEPS)
        batches = self._batches("denoiser", size=DENOISER_BATCH)
        train_denoiser(made, self.base, batches, steps=steps, learning_rate=DENOISER_RATE, seed=self.lab.seed)
        return made

    def inverted(
        self, denoiser: ConditionalDenoiser, *, told: Literal["own", "shuffled"] = "own", rate: float, steps: int
    ) -> tuple[Clip, dict[str, float]]:
        """The image tower tuned through a denoiser; ``shuffled`` pairs each image with the embedding of another."""
        model = copy.deepcopy(self.base)
        before = self.reconstruction(denoiser, model)
        run = InvertUnclip(
            model,
            denoiser,
            probe=self.held_out,
            learning_rate=rate,
            mu=MU,
            draws=DRAWS,
            least_gain=-1.0,
            seed=self.lab.seed,
        )
        done = run.fit(
            self._batches("tuning", size=BATCH, of=denoiser if told == "shuffled" else None),
            steps=self.lab.steps(steps),
            watch=lambda: class_accuracy(model, self.apart) / 100,
            every=EVERY,
            most_drop=MOST_DROP,
        )
        return model, {
            "gain": 100 * run.gain,
            "taken": float(done.steps),
            "reconstruction_before": before,
            "reconstruction": self.reconstruction(denoiser, model),
        }

    @torch.no_grad()
    def reconstruction(self, denoiser: ConditionalDenoiser, model: Clip) -> float:
        """A denoiser's loss on the images that are kept apart, with the same draws at every call."""
        x = denoiser.images(self.held_out.image, spec=model.image_spec)
        rows = model.encode_image(self.held_out.image).pooled
        return float(denoiser.loss(x, rows, draws=8, generator=drawn(-2, seed=self.lab.seed)))

    def contrastive(self, *, rate: float, steps: int) -> Clip:
        """The image tower tuned on the images' captions, whose texts rest."""
        model, count = copy.deepcopy(self.base), self.lab.steps(steps)
        named = dict(model.named_parameters())
        optimizer = AdamW([named[name] for name in image_choice(model)], lr=rate)
        known = {text: place for place, text in enumerate(dict.fromkeys(self.images.texts))}
        labels = torch.tensor([known[text] for text in self.images.texts])
        texts, scale = unit_texts(model, list(known)), model.logit_scale.detach()
        schedule, order = Cosine(warmup=min(50, count // 10)), self.lab.generator("contrastive")
        for step in range(count):
            rows = torch.randperm(len(labels), generator=order)[:CONTRASTIVE_BATCH]
            for group in optimizer.param_groups:
                group["lr"] = rate * schedule.factor(step, steps=count)
            image = model.encode_image(self.images.pixels[rows]).unit
            loss = clip_loss(image, texts[labels[rows]], scale, labels=labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return model

    def _batches(self, name: str, *, size: int, of: ConditionalDenoiser | None = None) -> Iterator[Batch]:
        order, pixels = self.lab.generator(name), self.images.pixels
        while True:
            rows = torch.randperm(len(pixels), generator=order)[:size]
            extra = {}
            if of is not None:
                extra["latent_image"] = of.images(pixels[rows.roll(1)], spec=self.base.image_spec)
            yield Batch(pixels[rows], torch.empty(len(rows), 0, dtype=torch.int64), extra)


def notes(lab: Lab) -> dict[str, float]:
    """Figures of all arms: ``probe_ARM``, ``matching_ARM``, ``classes_ARM``, ``taken_ARM`` steps.

    ``ours`` and ``shuffled`` are tuned through one denoiser. The arms' steps are such that each takes about as much
    processor time, the training of what it needs included: 20 to 23 seconds when it was measured.
    """
    bed = DetailBench(lab)
    found = _named(bed.measure(bed.base), "base")
    denoiser = bed.denoiser("denoiser")
    for arm, told in (("ours", "own"), ("shuffled", "shuffled")):
        model, told_of = bed.inverted(denoiser, told=told, rate=RATES["denoiser"], steps=STEPS)
        found |= _named(bed.measure(model), arm)
        found |= {f"taken_{arm}": told_of["taken"], f"reconstruction_{arm}": told_of["reconstruction"]}
        found |= {"gain": told_of["gain"], "reconstruction_base": told_of["reconstruction_before"]}
    decoder = bed.denoiser("decoder")
    model, told_of = bed.inverted(decoder, rate=RATES["decoder"], steps=DECODER_TUNING)
    found |= _named(bed.measure(model), "decoder")
    found |= {"taken_decoder": told_of["taken"]}
    model = bed.contrastive(rate=RATES["contrastive"], steps=CONTRASTIVE_STEPS)
    return found | _named(bed.measure(model), "contrastive")


def _named(figures: Mapping[str, float], arm: str) -> dict[str, float]:
    return {(f"{name}_{arm}"): value for name, value in figures.items()}
