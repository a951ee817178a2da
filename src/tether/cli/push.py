"""``tether push``: a model on the Hugging Face hub, with a model card."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tether.cli.options import STDOUT, Device, Existing, Json, ModelName, check_outputs, put_json
from tether.cli.say import say


def command(
    model: ModelName,
    repo_id: Annotated[
        str | None, typer.Argument(help="OWNER/NAME on the hub; may be left out with --dry-run.", metavar="REPO_ID")
    ] = None,
    license: Annotated[
        str | None,
        typer.Option(help="Of the weights, as the hub names it: apache-2.0, mit, cc-by-4.0... Never guessed."),
    ] = None,
    license_name: Annotated[str | None, typer.Option(help="With --license other: what it is called.")] = None,
    license_link: Annotated[str | None, typer.Option(help="With --license other: its https:// address.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write the folder to --out and ask nobody; no token, no network.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Keep the folder that is published here; a new one.")] = None,
    results: Annotated[
        list[Path] | None,
        typer.Option(
            help="JSON of tether eval or inspect, besides those in the model's folder; repeat it for several."
        ),
    ] = None,
    datasheet: Annotated[
        Path | None, typer.Option(help="Folder of tether curate that it learnt from (default: where its data lay).")
    ] = None,
    base_model: Annotated[
        str | None, typer.Option(help="OWNER/NAME of what it was tuned from (default: what the run says).")
    ] = None,
    tag: Annotated[str | None, typer.Option(help="A new version, such as v1; one that exists is refused.")] = None,
    revision: Annotated[str | None, typer.Option(help="A new branch (default: main).")] = None,
    create: Annotated[bool, typer.Option("--create", help="Make the repository if it is not there.")] = False,
    private: Annotated[bool, typer.Option("--private", help="With --create: for its owner alone.")] = False,
    message: Annotated[str | None, typer.Option(help="First line of the commit.")] = None,
    device: Device = "cpu",
    json: Json = None,
    existing: Existing = "refuse",
) -> None:
    """Publish a model on the Hugging Face hub, with a model card; open_clip and transformers open it where they can.

    The token is that of HF_TOKEN or of hf auth login.

    Examples:
      tether push runs/mine ann/birds --license apache-2.0 --create
      tether push runs/mine ann/birds --license apache-2.0 --tag v2
      tether push starter --dry-run --out ready/ --license apache-2.0
    """
    from dataclasses import asdict

    from tether.cli.screen import bar
    from tether.workflows.push import push

    check_outputs({"--json": json}, existing=existing, inputs={"MODEL": model, "--out": out, "--results": results})
    with bar("publishing"):
        found = push(
            model,
            repo_id,
            license=license,
            license_name=license_name,
            license_link=license_link,
            out=out,
            dry_run=dry_run,
            results=results or (),
            datasheet=datasheet,
            base_model=base_model,
            tag=tag,
            revision=revision,
            create=create,
            private=private,
            message=message,
            device=device,
        )
    if json is not None:
        put_json(asdict(found) | {"folder": None if found.folder is None else str(found.folder)}, to=json)
    if json != STDOUT:
        for line in found.lines():
            say(line)
