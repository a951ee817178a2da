"""Options that several verbs have."""

from __future__ import annotations

from typing import Annotated

import typer

Device = Annotated[str, typer.Option(help="auto (an accelerator if there is one), cpu, cuda, cuda:1...")]
