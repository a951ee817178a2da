"""``tether train``: from a recipe to a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    recipe: Annotated[Path | None, typer.Argument(help="A YAML recipe; see recipes/.", show_default=False)] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Settings as key=value, for example clipper.alpha=0.9.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The run's folder.")] = Path("runs/latest"),
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the folder's newest checkpoint.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the resolved settings and leave.")] = False,
) -> None:
    """Train a dual encoder on pairs of pictures and words."""
    from tether.train.config import dump_config, load_config
    from tether.train.folder import CONFIG

    given = list(overrides or [])
    if recipe is not None and "=" in str(recipe) and not recipe.exists():
        given, recipe = [str(recipe), *given], None
    if recipe is None and resume and (out / CONFIG).is_file():
        recipe = out / CONFIG
    config = load_config(recipe, overrides=given)
    if dry_run:
        typer.echo(dump_config(config), nl=False)
        return

    from tether.cli.progress import TrainingProgress
    from tether.compress.quantise import QUANTISERS
    from tether.evaluate import evaluate
    from tether.train.run import train

    wanted = config.evaluate
    measure = None
    if wanted is not None:
        from tether.data import open_source

        source = open_source(wanted.source, where=f"{recipe or 'command line'}: evaluate.source")

        def measure(model):
            return evaluate(model, source, limit=wanted.limit)

    with TrainingProgress(steps=config.steps) as progress:
        result = train(
            config,
            folder=out,
            resume=resume,
            evaluate=measure,
            on_record=progress.show,
            should_stop=progress.interrupted,
            edits=QUANTISERS,
        )
    progress.summarise(result, folder=out)
