"""What a negative prompt costs: one pass of a network alone, with NAG and with classifier-free guidance.

Command:  python benchmarks/negative_guidance.py [--rounds 5] [--quick]
Cost:     about 30 CPU seconds.

Networks of diffusers with random weights: a UNet of Stable Diffusion's shape at a tenth of its width (latents of
32 x 32, 77 tokens), a transformer of Flux's shape (256 image tokens, 64 text tokens), and a small diffusion of 8 px.
Classifier-free guidance runs a batch of twice as many rows. CPU milliseconds, the ways in turn, one thread, the median
of the rounds; keys of NAG's negative are computed once before, as over the steps of a sampling.

Measured last on two virtual cores of an AMD EPYC with other work beside it, five rounds, NAG over classifier-free
guidance: 0.64 (Stable Diffusion's shape), 0.88 (Flux's shape, above the goal of 0.75), 0.72 (8 px). NAG over one pass
alone, three rounds: 1.13, 1.56 and 1.37.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from diffusers import FluxTransformer2DModel, UNet2DConditionModel
from torch import Tensor

from tether.generation import NAG, NAGGuidance, TextDiffusion
from tether.models import create

Way = Callable[[int], Tensor]


def stable_diffusion() -> tuple[torch.nn.Module, Way, Tensor]:
    model = UNet2DConditionModel(
        sample_size=32, block_out_channels=(32, 64, 128, 128), cross_attention_dim=96, attention_head_dim=4
    )
    prompt, x = torch.randn(1, 77, 96), torch.randn(1, 4, 32, 32)

    def call(rows: int) -> Tensor:
        return model(x.expand(rows, -1, -1, -1), 500, prompt.expand(rows, -1, -1)).sample

    return model, call, torch.randn(1, 77, 96)


def flux() -> tuple[torch.nn.Module, Way, Tensor]:
    model = FluxTransformer2DModel(
        in_channels=16,
        num_layers=3,
        num_single_layers=6,
        attention_head_dim=32,
        num_attention_heads=4,
        joint_attention_dim=96,
        pooled_projection_dim=32,
        axes_dims_rope=(8, 12, 12),
        guidance_embeds=False,
    )
    prompt, x, pooled = torch.randn(1, 64, 96), torch.randn(1, 256, 16), torch.randn(1, 32)
    place = torch.stack([torch.zeros(256), torch.arange(256) // 16, torch.arange(256) % 16], dim=1)

    def call(rows: int) -> Tensor:
        return model(
            hidden_states=x.expand(rows, -1, -1),
            encoder_hidden_states=prompt.expand(rows, -1, -1),
            pooled_projections=pooled.expand(rows, -1),
            timestep=torch.full((rows,), 0.5),
            img_ids=place,
            txt_ids=torch.zeros(64, 3),
        ).sample

    return model, call, torch.randn(1, 64, 96)


def ours() -> tuple[torch.nn.Module, Way, Tensor]:
    made = TextDiffusion(create("tiny").eval(), size=8, channels=(16, 32), plain=0).eval()
    texts, other, x = made.read(["three or eight"] * 128), made.read(["eight"]), torch.randn(64, 3, 8, 8)

    def call(rows: int) -> Tensor:
        count, t = 64 * rows, torch.full((64 * rows,), 500)
        return made.unet(x.repeat(rows, 1, 1, 1), t, texts.tokens[:count], encoder_attention_mask=texts.mask[:count])

    return made.unet, call, other.tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one round; its figures mean nothing")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print("| network | alone, ms | NAG, ms | CFG, ms | NAG / CFG |\n| --- | --- | --- | --- | --- |")
    with torch.no_grad():
        for name, build in (("Stable Diffusion's shape", stable_diffusion), ("Flux's shape", flux), ("8 px", ours)):
            model, call, negative = build()
            model.eval()
            times: dict[str, list[float]] = {"alone": [], "nag": [], "cfg": []}
            guidance = NAGGuidance(model, negative, NAG(scale=5.0))
            for _ in range(1 if given.quick else given.rounds):
                times["alone"].append(timed(call, 1))
                with guidance:
                    call(1)
                    times["nag"].append(timed(call, 1))
                times["cfg"].append(timed(call, 2))
            alone, nag, cfg = (statistics.median(some) for some in times.values())
            print(f"| {name} | {alone:.0f} | {nag:.0f} | {cfg:.0f} | {nag / cfg:.2f} |", flush=True)


def timed(call: Way, rows: int) -> float:
    call(rows)
    start = time.process_time()
    for _ in range(3):
        call(rows)
    return 1000 * (time.process_time() - start) / 3


if __name__ == "__main__":
    main()
