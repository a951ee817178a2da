"""``tether adapt``: a model adapted to a case, and what it forgot."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tether.cli.options import (
    STDOUT,
    Device,
    Existing,
    Json,
    ModelName,
    RandomWeights,
    Strict,
    check_outputs,
    put_json,
    settings_of,
)
from tether.cli.say import say

if TYPE_CHECKING:
    from tether.training.loop import StepReport
    from tether.workflows.adapt import AdaptPlan


def command(
    model: ModelName,
    data: Annotated[
        str, typer.Argument(help="Images with a class or a caption each, or texts: a folder, a file or a set by name.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the model or head, and of the report.")],
    settings: Annotated[
        list[str] | None, typer.Argument(help="The recipe's settings as key=value, for example rank=4.")
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(help="What to do (default: the cheapest that suits the data).", metavar="NAME"),
    ] = None,
    shots: Annotated[int | None, typer.Option(min=1, help="Images a class to learn from (default: all).")] = None,
    test: Annotated[
        str | None, typer.Option(help="Data to measure on (default: a part of DATA that is held out).")
    ] = None,
    keep: Annotated[
        str | None, typer.Option(help="Data that must not be forgotten (default: drawings, emoji:split=test).")
    ] = None,
    interpolate: Annotated[
        bool, typer.Option("--interpolate", help="Choose weights between base and tuned model on a validation part.")
    ] = False,
    label: Annotated[
        str | None, typer.Option(help="Column of the class (default: label, or an image's folder).")
    ] = None,
    classes: Annotated[
        str | None, typer.Option(help='All class names as "cat,dog", or a text file with one on each line.')
    ] = None,
    templates: Annotated[
        str | None, typer.Option(help="Prompts of class names, as for classify; default: the model's own.")
    ] = None,
    lm: Annotated[
        str | None,
        typer.Option(help="With caption_from_texts: folder of a causal language model (default: a small new one)."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of every draw.")] = 0,
    workers: Annotated[int, typer.Option(min=0, help="Threads that decode ahead.")] = 1,
    device: Device = "auto",
    random_weights: RandomWeights = False,
    strict: Strict = False,
    json: Json = None,
    existing: Existing = "refuse",
) -> None:
    """Bend a model to a case by a recipe, resumable; a report says what got better and what was forgotten.

    Examples:
      tether adapt starter photos-by-class/ --out mine
      tether adapt runs/mine defects.parquet --recipe lora --shots 8 --keep photos.csv --interpolate --out tuned
      tether adapt starter photos-by-class/ --recipe probe strength=10 --out head
      tether adapt starter texts.csv --recipe caption_from_texts --out captioner
      tether adapt starter pages.csv --recipe read-page lm=language-model --out page-reader
      tether adapt starter words.csv --recipe read case=lower --out reader
      tether adapt starter photos.csv --recipe caption_reward captioner=captioner judge2=runs/other --out rewarded
    """
    from tether.cli.screen import bars
    from tether.cli.stopping import Stopping
    from tether.workflows.adapt import adapt

    if settings and recipe is None:
        raise typer.BadParameter(f"{settings[0]}: settings go with --recipe NAME", param_hint="SETTINGS")
    chosen = settings_of(settings, hint="SETTINGS")
    if "name" in chosen:
        raise typer.BadParameter(f"name: the recipe is named by --recipe{_settings(recipe)}", param_hint="SETTINGS")
    spec: dict[str, object] | None = None if recipe is None else {"name": recipe, **chosen}
    if lm is not None:
        if spec is None or not str(spec["name"]).startswith("caption"):
            raise typer.BadParameter("goes with --recipe caption_from_texts", param_hint="--lm")
        spec["lm"] = lm
    check_outputs({"--json": json}, existing=existing, inputs={"MODEL": model, "DATA": data, "--out": out})
    with bars() as shown, Stopping() as stopping:
        task = shown.add_task("embedding", total=None)

        def step(report: StepReport, steps: int) -> None:
            shown.update(task, description="training", completed=report.step + 1, total=steps)
            if report.step + 1 == steps:
                stopping.last("stop")

        done = adapt(
            model,
            data,
            recipe=spec,
            shots=shots,
            test=test,
            keep=keep,
            label=label,
            classes=classes,
            templates=templates,
            interpolate=interpolate,
            seed=seed,
            out=out,
            existing=existing,
            workers=workers,
            strict=strict,
            random_weights=random_weights,
            device=device,
            on_plan=_tell,
            on_step=step,
            on_progress=lambda count, total: shown.update(task, completed=count, total=total),
            should_stop=stopping.asked,
        )
    if json is not None:
        put_json(done.report.to_dict(), to=json)
    if json == STDOUT:
        return
    for line in [*done.report.data, *done.report.lines()]:
        say(line)
    for line in done.report.next:
        say(f"next: {line}")
    if done.captioner is None and done.reader is None:
        say(f"page: {out / 'report.html'}")


def _settings(recipe: str | None) -> str:
    """What a recipe may be told, as the end of a message."""
    from tether.adaptation.recipes import RECIPES
    from tether.core.component import schema

    part = RECIPES.get(str(recipe).replace("-", "_"))
    return "" if part is None else f"; settings of {recipe}: {', '.join(schema(part).model_fields) or 'none'}"


def _tell(plan: AdaptPlan) -> None:
    """Which recipe is taken and why, where none was asked for."""
    for number, choice in enumerate(plan.choices):
        say(f"{'taken' if not number else 'fits too'}: {choice}", err=True)
