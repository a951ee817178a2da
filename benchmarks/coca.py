"""Captions and retrieval after as much processor time: open_clip's CoCa beside ours, from random weights, on scenes.

Command:  python benchmarks/coca.py [--seconds 40] [--seeds 3] [--quick]
Cost:     the seconds times three ways times the seeds, about 7 CPU minutes on one core.

Scenes of two things, 64 px, and captions such as ``a large red star and a medium blue heart``, of a vocabulary of 16
words. Towers of two blocks of 64 channels, patches of 8 px, decoders of two blocks of 64; AdamW, batches of 32, the
same in the same order. The number of steps is what fits into the seconds by the time of eight steps before; the rate
is the best of 0.0005, 0.001 and 0.002 for each way on a seed of its own (``--rates``, CIDEr decides). Captions are told
greedily, by ours from all patches, as no caption chooses any at test. 400 held-out images, both orders of the things as
references.

- open_clip CoCa: ``CoCa`` of this size, its loss with weights 1 and 2, 64 queries of its pooler for the decoder.
- captions: terms ``objective`` and ``caption`` (``look: tokens``), weights 1 and 2, all patches.
- caption-and-rebuild: the recipe's views, terms and weights, with these decoders.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
import torch.nn.functional as F
from open_clip import CoCa, CoCaLoss
from torch import Tensor

from tether.adaptation.recipes.tuning import Tuning, play
from tether.core.types import Batch
from tether.evaluate.captions import attribute_scores, cider, repeated_bigrams
from tether.evaluate.retrieval import recall_at_k
from tether.losses import ClipLoss
from tether.methods.sycoca.decoder import CausalDecoder
from tether.models.embed import encode_images, encode_texts
from tether.models.features.dense import dense_image
from tether.models.towers.clip import Clip
from tether.optim.clip import GlobalNorm
from tether.training.schedules import Cosine
from tether.training.steps import ComposedStep
from tether.training.tensor_batches import ReplayedBatches
from tether_lab.lab.lab import Lab
from tether_lab.worlds.in_memory import draws
from tether_lab.worlds.plain_scenes import CONTEXT, SIDE, WORDS, PlainScenes, new_clip, told_scenes

BATCH, WIDTH, DEPTH, HEADS, PATCH, DECAY = 32, 64, 2, 2, 8, 0.1
TRAIN, HELD_OUT = 8_000, 400
START, END = 1, len(WORDS) + 2
RATES = (5e-4, 1e-3, 2e-3)
Telling = Callable[[Tensor], list[str]]
Rows = tuple[Tensor, Tensor]
TERM = {"name": "caption", "look": "tokens", "weight": 2}
HEAD = {"name": "causal_decoder", "look": "tokens", "width": WIDTH, "layers": DEPTH}


def steps_of(lab: Lab, told: PlainScenes, tokens: Tensor) -> Iterator[Batch]:
    for rows in draws(len(told), size=BATCH, generator=lab.generator("batches"), repeats=False):
        yield Batch(told.pixels[rows], tokens[rows])


def words_of(ids: Tensor) -> list[str]:
    """Texts up to the end token."""
    found = []
    for row in ids[:, 1:].tolist():
        kept = itertools.takewhile(lambda one: one not in (0, END), row)
        found.append(" ".join(WORDS[one - 2] if one > START else "" for one in kept))
    return found


@torch.inference_mode()
def greedily(images: int, next_word: Callable[[Tensor], Tensor]) -> list[str]:
    """Captions whose next word is always the likeliest."""
    ids = torch.full((images, 1), START)
    for _ in range(CONTEXT - 1):
        ids = torch.cat([ids, next_word(ids).argmax(dim=1, keepdim=True)], dim=1)
    return words_of(ids)


class Ours:
    """Terms of a composed step, with decoders that are kept beside the model."""

    def __init__(self, lab: Lab, told: PlainScenes, *, rebuild: bool) -> None:
        """Draw the weights."""
        self.lab, self.told, self.rebuild = lab, told, rebuild
        self.model = new_clip(lab.seed, patch=PATCH)
        self.heads: dict[str, Any] = {}

    def train(self, steps: int, rate: float) -> None:
        """Take the steps."""
        views: dict[str, dict[str, Any]] = {"image": {"want": "tokens"}, "text": {"want": "tokens"}}
        heads: dict[str, Any] = {"decoder": HEAD}
        terms: list[Any] = ["objective", {**TERM, "drop": 0.5} if self.rebuild else TERM]
        if self.rebuild:
            views["masked_image"] = {"source": "image", "want": "tokens", "patches": {"name": "untold", "hide": 0.5}}
            heads["rebuilder"] = {"name": "text_guided", "width": WIDTH, "depth": DEPTH}
            terms.append("rebuild")
        else:
            views["text"] = {}
        step = ComposedStep(
            ClipLoss(duplicates="positives"), steps=steps, seed=self.lab.seed, views=views, heads=heads, terms=terms
        )
        self.model.train()
        self.heads = step.new_heads(self.model)
        tokens = self.model.tokenizer(self.told.texts)
        tuning = Tuning(
            step=step,
            batches=ReplayedBatches(lambda: steps_of(self.lab, self.told, tokens)),
            steps=steps,
            optimizer={"name": "adamw", "lr": rate},
            weight_decay=DECAY,
            schedule=Cosine(warmup=steps // 10),
            clipper=GlobalNorm(),
            training=[self.model, *self.heads.values()],
            modules=self.heads,
            after_step=lambda report: self.model.clamp_logit_scale_(),
        )
        play(tuning, self.model, seed=self.lab.seed)
        self.model.eval()

    def rows(self, held_out: PlainScenes) -> Rows:
        """Unit rows of images and texts."""
        texts = encode_texts(self.model, held_out.texts)
        return F.normalize(encode_images(self.model, held_out.pixels.split(128)), dim=1), F.normalize(texts, dim=1)

    @torch.inference_mode()
    def tell(self, pixels: Tensor) -> list[str]:
        """A caption of each image."""
        decoder = cast(CausalDecoder, self.heads["decoder"]).eval()
        tokens = dense_image(cast(Clip, self.model), pixels).tokens
        assert tokens is not None
        memory = decoder.prefix(tokens)

        def next_word(ids: Tensor) -> Tensor:
            x = F.embedding(ids, decoder.token) + decoder.position[: ids.shape[1]]
            later = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).triu(1)
            for block in decoder.blocks:
                x = block(x, memory, tgt_mask=later)
            return decoder.norm(x)[:, -1] @ decoder.token.T

        return greedily(len(pixels), next_word)


class Theirs:
    """open_clip's CoCa and its loss, in a plain loop."""

    def __init__(self, lab: Lab, told: PlainScenes) -> None:
        """Draw the weights."""
        self.lab, self.told = lab, told
        torch.manual_seed(lab.seed)
        text = {"vocab_size": END + 1, "width": WIDTH, "heads": HEADS, "layers": DEPTH}
        vision = {
            "image_size": SIDE,
            "patch_size": PATCH,
            "width": WIDTH,
            "layers": DEPTH,
            "head_width": WIDTH // HEADS,
        }
        pooler = {
            "attentional_pool": True,
            "attn_pooler_queries": 64,
            "attn_pooler_heads": HEADS,
            "output_tokens": True,
        }
        told_from = {"context_length": CONTEXT - 1, "heads": HEADS, "attn_pooler_heads": HEADS}
        self.model = CoCa(
            WIDTH,
            cast(Any, {**text, **told_from}),
            cast(Any, {**text, "context_length": CONTEXT - 1, "embed_cls": True, "output_tokens": True}),
            cast(Any, {**vision, **pooler}),
        )
        # open_clip leaves this one unset, with numbers that need not be finite; its init_parameters does not run
        torch.nn.init.normal_(cast(Tensor, self.model.text_decoder.text_projection), std=WIDTH**-0.5)
        self.mean, self.std = (
            torch.tensor(one).view(3, 1, 1) for one in (new_clip(0).image_spec.mean, new_clip(0).image_spec.std)
        )

    def _images(self, pixels: Tensor) -> Tensor:
        return (pixels.float() / 255 - self.mean) / self.std

    def _tokens(self, texts: list[str]) -> Tensor:
        found = new_clip(0).tokenizer(texts)
        return F.pad(found, (0, CONTEXT - 1 - found.shape[1]))

    def train(self, steps: int, rate: float) -> None:
        """Take the steps."""
        model, loss = self.model.train(), CoCaLoss(caption_loss_weight=2.0, clip_loss_weight=1.0)
        matrices = [one for one in model.parameters() if one.ndim > 1]
        rest = [one for one in model.parameters() if one.ndim < 2]
        groups = [{"params": matrices, "weight_decay": DECAY}, {"params": rest, "weight_decay": 0.0}]
        optimizer, schedule = (
            torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), fused=True),
            Cosine(warmup=steps // 10),
        )
        batches = steps_of(self.lab, self.told, self._tokens(self.told.texts))
        for step, batch in zip(range(steps), batches, strict=False):
            for group in optimizer.param_groups:
                group["lr"] = rate * schedule.factor(step, steps=steps)
            found = model(self._images(batch.image), batch.text)
            optimizer.zero_grad()
            sum(loss(**found)).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        model.eval()

    @torch.inference_mode()
    def rows(self, held_out: PlainScenes) -> Rows:
        """Unit rows of images and texts."""
        images = [self.model.encode_image(self._images(some)) for some in held_out.pixels.split(128)]
        return torch.cat(images), self.model.encode_text(self._tokens(held_out.texts))

    @torch.inference_mode()
    def tell(self, pixels: Tensor) -> list[str]:
        """A caption of each image."""
        pooled, tokens = self.model._encode_image(self._images(pixels))

        def next_word(ids: Tensor) -> Tensor:
            found = self.model(None, ids, image_latent=pooled, image_embs=tokens, output_labels=False)
            return found["logits"][:, -1]

        return greedily(len(pixels), next_word)


WAYS: dict[str, Callable[[Lab, PlainScenes], Any]] = {
    "open_clip CoCa": Theirs,
    "`captions`: objective and caption": lambda lab, told: Ours(lab, told, rebuild=False),
    "`caption-and-rebuild`": lambda lab, told: Ours(lab, told, rebuild=True),
}


def measured(way: Any, held_out: PlainScenes) -> dict[str, float]:
    told = [text for some in held_out.pixels.split(128) for text in way.tell(some)]
    references = [[text, " and ".join(reversed(text.split(" and ")))] for text in held_out.texts]
    true = [
        {" ".join((thing.colour, thing.shape)) for thing in scene.things}
        | {word for thing in scene.things for word in (thing.size, thing.colour, thing.shape)}
        for scene in held_out.scenes
    ]
    single = [{word for word in some if " " not in word} for some in true]
    pairs = [{word for word in some if " " in word} for some in true]
    found = recall_at_k(*way.rows(held_out), k=(1,))
    return {
        "CIDEr": cider(told, references).mean,
        "words": 100 * attribute_scores(told, single).recall,
        "pairs": 100 * attribute_scores(told, pairs).recall,
        "repeats": 100 * repeated_bigrams(told),
        "R@1": 50 * (found["image_to_text_r1"] + found["text_to_image_r1"]),
    }


def trained(name: str, lab: Lab, told: PlainScenes, *, seconds: float, rate: float) -> tuple[Any, int, float]:
    """A way after as many steps as fit, their number and what they took."""
    trial = WAYS[name](lab, told)
    trial.train(2, rate)
    begun = time.process_time()
    trial.train(8, rate)
    steps = max(2, round(seconds / ((time.process_time() - begun) / 8)))
    way = WAYS[name](lab, told)
    begun = time.process_time()
    way.train(steps, rate)
    return way, steps, time.process_time() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=40)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rate", type=float, nargs=3, default=(1e-3, 1e-3, 1e-3), help="of each way")
    parser.add_argument("--rates", action="store_true", help="try the learning rates on seed 100 instead")
    parser.add_argument("--quick", action="store_true", help="one seed of two seconds, whose figures mean nothing")
    given = parser.parse_args()
    seeds = [100] if given.rates else range(1 if given.quick else given.seeds)
    seconds = 2.0 if given.quick else given.seconds
    found: dict[tuple[str, float], list[dict[str, float]]] = {}
    for seed in seeds:
        with (lab := Lab(seed)):
            told = told_scenes(lab, "train", count=TRAIN, things=(2, 2))
            held_out = told_scenes(lab, "held out", count=HELD_OUT, things=(2, 2))
            for name, chosen in zip(WAYS, given.rate, strict=True):
                for rate in RATES if given.rates else (chosen,):
                    way, steps, spent = trained(name, lab, told, seconds=seconds, rate=rate)
                    own = measured(way, held_out) | {"steps": float(steps), "CPU s": spent}
                    found.setdefault((name, rate), []).append(own)
                    print(f"# {seed} {name} {rate:g}: {own}", flush=True)
    names = ["CIDEr", "words", "pairs", "repeats", "R@1", "steps", "CPU s"]
    print(f"| from random weights | rate | {' | '.join(names)} |\n|{' --- |' * (len(names) + 2)}")
    for (name, rate), rows in found.items():
        cells = [
            f"{statistics.mean(values):.2f} ({min(values):.2f} to {max(values):.2f})"
            for values in ([row[one] for row in rows] for one in names)
        ]
        print(f"| {name} | {rate:g} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
