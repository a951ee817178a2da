"""``tether push``: a model on the Hugging Face hub, or a folder ready for it, with a card made of the run's facts."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import cast

from torch import nn

from tether.core.atomic_io import atomic_folder, local, write_json, write_text
from tether.core.errors import InputError, WriteError
from tether.core.model_digest import encoder_digest
from tether.workflows.models import Model, opened
from tether.workflows.publishing.card import CARD, model_card
from tether.workflows.publishing.facts import gather_facts
from tether.workflows.publishing.hub import HubRepository, PushTarget, check_target
from tether.workflows.publishing.layouts import Opened, write_layouts
from tether.workflows.publishing.licences import licence

PARITY = "parity.json"
"""Who opens the folder, and how far their embeddings lie from ours."""


@dataclass(frozen=True)
class Pushed:
    """What was published, or made ready for it.

    Attributes:
        folder: that was written and kept; None where only the hub has it.
        repo: on the hub; None for a folder alone.
        commit: its address on the hub; empty for a folder alone.
        tag: of the commit; may be empty.
        opened: who opens it; ours first.
        numbers: results that the card tells.
    """

    folder: Path | None
    repo: str | None
    commit: str
    tag: str
    opened: tuple[Opened, ...]
    numbers: int

    def lines(self) -> list[str]:
        """In sentences."""
        able = [one for one in self.opened if one.opens]
        said = [f"opens with {', '.join(f'{one.library} {one.version}'.strip() for one in able)}"]
        said += [f"not with {one.library}: {one.why}" for one in self.opened if not one.opens]
        said += [f"{one.library}: {one.why}" for one in able if one.why]
        if not self.numbers:
            said.append("the card tells no results: tether eval MODEL SOURCE --json MODEL/eval.json makes some")
        if self.folder is not None:
            said.append(f"wrote {self.folder}; its card is {self.folder / CARD}")
        if self.commit:
            said.append(f"pushed to {self.commit}{f', tag {self.tag}' if self.tag else ''}")
        return said

    def __str__(self) -> str:
        """The same, a line each."""
        return "\n".join(self.lines())

    def _repr_html_(self) -> str:
        return "".join(f"<p>{escape(line)}</p>" for line in self.lines())


def push(
    model: Model,
    repo_id: str | None = None,
    *,
    license: str | None = None,
    license_name: str | None = None,
    license_link: str | None = None,
    out: str | Path | None = None,
    dry_run: bool = False,
    results: Sequence[str | Path] = (),
    datasheet: str | Path | None = None,
    base_model: str | None = None,
    tag: str | None = None,
    revision: str | None = None,
    create: bool = False,
    private: bool = False,
    message: str | None = None,
    device: str = "cpu",
) -> Pushed:
    """Publish a model on the Hugging Face hub, or write the folder that would be published.

    The folder holds every layout that holds the model: open_clip's, transformers' (which sentence-transformers opens,
    too), or else Tether's own; each library that is installed opens it and its embeddings are compared with ours.
    Its ``README.md`` is a model card of what the run's folder tells. On the hub all of it is one commit.

    Args:
        model: a name that ``tether.load`` takes, such as a run's folder, or a model of it.
        repo_id: ``OWNER/NAME`` on the hub; may be left out with ``dry_run``.
        license: of the weights, as the hub names it, such as ``apache-2.0``; nothing is guessed.
        license_name: with ``license="other"``.
        license_link: with ``license="other"``: an https:// address.
        out: keep the folder there; absent, or empty.
        dry_run: ask nobody and push nothing; needs ``out``.
        results: files of ``tether eval --json``, ``tether eval --suite`` and ``tether inspect``, besides those in the
            model's folder.
        datasheet: folder of ``tether curate`` that the model learnt from; None looks where the run's data lay.
        base_model: ``OWNER/NAME`` of the model that this one began from, in place of what the run says.
        tag: a version that does not exist yet, such as ``v1``.
        revision: a new branch in place of ``main``.
        create: make the repository if it is not there.
        private: make it for its owner alone.
        message: first line of the commit.
        device: where to load the model.

    Raises:
        InputError: no licence, results of another model, a version that exists, a token that the hub does not take, no
            network; nothing was published then.
        MissingExtraError: the extra ``hf`` is not installed.

    Example:
        >>> import tempfile, tether
        >>> model = tether.load("tiny", random_weights=True)
        >>> made = tether.push(model, dry_run=True, out=tempfile.mkdtemp() + "/out", license="mit")
        >>> (made.folder / "README.md").read_text().startswith("---")
        True
    """
    target = _target(repo_id, tag=tag, revision=revision, create=create, private=private, dry_run=dry_run, out=out)
    terms = licence(license, name=license_name, link=license_link)
    if base_model is not None:
        check_target(PushTarget(base_model))
    kept = None if out is None else local(out)
    if kept is not None and kept.exists() and (not kept.is_dir() or any(kept.iterdir())):
        raise InputError(f"out: {kept}: exists and is not an empty folder; choose another")
    hub = None if dry_run or target is None else HubRepository(target)
    seen = None if hub is None else hub.look()
    encoder, name = opened(model, device=device)
    given = str(model) if isinstance(model, (str, Path)) else ""
    digest = encoder_digest(encoder)
    facts = gather_facts(given, digest=digest, results=results, datasheet=datasheet, base_model=base_model)
    with _folder(kept) as folder:
        tried = write_layouts(cast(nn.Module, encoder), folder, repo=repo_id)
        title = repo_id.partition("/")[2] if repo_id else (name if kept is None else kept.name)
        card = model_card(cast(nn.Module, encoder), facts, opened=tried, licence=terms, repo=repo_id, name=title)
        write_json(folder / PARITY, {"digest": digest, "opened": [asdict(one) for one in tried]})
        write_text(folder / CARD, card)
        commit = ""
        if hub is not None and seen is not None:
            said = message or f"{title}{f' {tag}' if tag else ''}, by Tether"
            commit, _ = hub.push(folder, seen, message=said)
    return Pushed(kept, repo_id, commit, tag or "", tuple(tried), len(facts.found.numbers))


def _target(
    repo_id: str | None,
    *,
    tag: str | None,
    revision: str | None,
    create: bool,
    private: bool,
    dry_run: bool,
    out: str | Path | None,
) -> PushTarget | None:
    """Where to, checked; None for a folder alone."""
    if dry_run and out is None:
        raise InputError("out: a dry run writes the folder that would be published; give --out FOLDER")
    if repo_id is None:
        if not dry_run:
            raise InputError(
                "repo_id: expected OWNER/NAME on the hub, or a folder alone: --dry-run --out FOLDER. "
                "For example: tether push runs/mine ann/birds --license apache-2.0"
            )
        return None
    found = PushTarget(repo_id, revision or "main", tag or "", create, private)
    check_target(found)
    return found


@contextlib.contextmanager
def _folder(kept: Path | None) -> Iterator[Path]:
    """A new folder that appears whole where it is kept, or that goes afterwards."""
    if kept is None:
        with tempfile.TemporaryDirectory(prefix="tether-push-") as name:
            yield Path(name)
        return
    try:
        with atomic_folder(kept) as new:
            yield new
    except OSError as error:
        if isinstance(error, (InputError, WriteError)):
            raise
        raise WriteError(kept, error) from error
