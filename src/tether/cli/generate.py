"""``tether generate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tether.cli.options import (
    STDOUT,
    Device,
    Existing,
    Json,
    RandomWeights,
    Strict,
    check_outputs,
    log_beside,
    only_with,
    put_json,
    settings_of,
)
from tether.cli.say import say, say_skipped

_BOTH = "maker model seed device random_weights json existing"
_MAKING = f"{_BOTH} texts out html images cfg"
_LEARNING = f"{_BOTH} learn settings steps codec_steps batch_size learning_rate limit workers strict"
"""Parameters that do something in each of the two."""


def command(
    context: typer.Context,
    maker: Annotated[Path, typer.Argument(help="The maker's file: what --learn writes, else what is used.")],
    model: Annotated[str, typer.Option(help="Reads the texts; a maker goes with the one that it learnt with.")],
    texts: Annotated[list[str] | None, typer.Argument(help="What to make; not with --learn.")] = None,
    learn: Annotated[str | None, typer.Option(help="Images with texts to learn from, as tether train reads.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="With --learn: a setting, as size=64; may be given again.", metavar="KEY=VALUE"),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Of learning which codewords a text means.")] = 4000,
    codec_steps: Annotated[int, typer.Option(min=1, help="Of learning the codewords.")] = 2000,
    batch_size: Annotated[int, typer.Option(min=1, help="Images of a step.")] = 32,
    learning_rate: Annotated[float, typer.Option(help="Of both, at its highest.")] = 1e-3,
    limit: Annotated[int, typer.Option(min=1, help="Most images to learn from; they are held in memory.")] = 50_000,
    out: Annotated[Path | None, typer.Option(help="A new folder for the images, with metadata.csv.")] = None,
    html: Annotated[Path | None, typer.Option(help="Also write a page with the images.")] = None,
    images: Annotated[int, typer.Option(min=1, help="Images of each text.")] = 4,
    cfg: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="How far from what there would be without a text; default: what the maker was learnt with, else 2.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of weights and draws.")] = 0,
    workers: Annotated[int, typer.Option(min=0, help="Threads that decode ahead.")] = 1,
    device: Device = "auto",
    random_weights: RandomWeights = False,
    strict: Strict = False,
    json: Json = None,
    existing: Existing = "refuse",
) -> None:
    """Make small images of texts with a maker that learnt from your own, resumable.

    Examples:
      tether generate maker.safetensors --learn photos.csv --model starter --set size=64
      tether generate maker.safetensors "a red star on grass" "a blue heart" --model starter --out made --html made.html
    """
    if learn is None:
        if not texts:
            raise typer.BadParameter("expected at least one text, or --learn with images to learn from")
        if out is None and html is None:
            raise typer.BadParameter("expected --out with a new folder, or a page with --html")
        only_with(context, "TEXTS alone", _MAKING)
        _make(
            maker, texts, model=model, out=out, html=html, images=images, cfg=cfg, seed=seed, device=device,
            random_weights=random_weights, json=json, existing=existing,
        )  # fmt: skip
        return
    from tether.cli.screen import staged_bar
    from tether.cli.stopping import Stopping
    from tether.workflows.generate import learn_maker

    only_with(context, "--learn", _LEARNING)
    chosen = settings_of(settings, hint="--set")
    bad_rows = log_beside(maker)
    check_outputs({"MAKER": maker, "--json": json}, existing=existing, inputs={"--learn": learn}, log=bad_rows)
    with staged_bar("images") as on_stage, Stopping() as stopping:
        found = learn_maker(
            learn, model=model, out=maker, settings=chosen, steps=steps, codec_steps=codec_steps,
            batch_size=batch_size, learning_rate=learning_rate, limit=limit, seed=seed, workers=workers, strict=strict,
            bad_rows=bad_rows, random_weights=random_weights, device=device, on_stage=on_stage,
            should_stop=stopping.asked,
        )  # fmt: skip
    if json is not None:
        told = {"path": maker, "images": found.images, "codec_loss": found.codec_loss, "loss": found.loss}
        put_json(told | {"bad": found.bad}, to=json)
    if json != STDOUT:
        say(f"{maker}: learnt from {found.images} images, loss {found.loss:.3f}" if found.loss else f"{maker}: learnt")
        say("next: look at what it makes: tether generate MAKER TEXT --model MODEL --html made.html")
    say_skipped(found.bad, bad_rows)


def _make(
    maker: Path, texts: list[str], *, model: str, out: Path | None, html: Path | None, images: int, cfg: float | None,
    seed: int, device: str, random_weights: bool, json: str | None, existing: str,
) -> None:  # fmt: skip
    from tether.cli.screen import bar
    from tether.core.atomic_io import check_new_folder
    from tether.workflows.generate import generate

    check_outputs({"--html": html, "--json": json}, existing=existing, inputs={"MAKER": maker, "--out": out})
    if out is not None:
        check_new_folder(out, where="--out")
    with bar("images") as on_progress:
        found = generate(
            texts, model=model, maker=maker, images=images, cfg=cfg, seed=seed, device=device,
            random_weights=random_weights, on_progress=on_progress,
        )  # fmt: skip
    if out is not None:
        found.save(out)
    if html is not None:
        found.gallery(html)
    if json is not None:
        put_json({"images": len(found.texts), "out": out, "html": html}, to=json)
    if json != STDOUT:
        say(f"{len(found.texts)} images of {len(texts)} texts: {' and '.join(str(one) for one in (out, html) if one)}")
