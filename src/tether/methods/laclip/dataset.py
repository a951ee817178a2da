"""Rewrites of a whole list of captions on disk: one text a line, one file a rewrite, resumable."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from tether.core.atomic_io import atomic_path, read_json, read_text, remove_leftovers, write_json, write_text
from tether.core.errors import InputError
from tether.core.locks import locked
from tether.core.model_digest import texts_digest
from tether.core.ranges import Count, checked
from tether.data.captions.registry import REWRITERS
from tether.data.captions.rewriter import Rewriter
from tether.data.captions.rng import of_key

_LARGEST = 1 << 34
"""Bytes of a file of rewrites, at most."""
CHUNK = 1024
"""Captions of one piece: what is done again after a stop, at most."""
MANIFEST = "rewrites.json"
_BREAKS = re.compile(r"[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]+")


def one_line(text: str) -> str:
    """A text without line breaks of any kind, and without halves of characters, as a line of a UTF-8 file."""
    return _BREAKS.sub(" ", text).encode("utf-8", "replace").decode("utf-8").strip()


@checked
def rewrite_dataset(
    texts: Sequence[str],
    *,
    rewriter: Rewriter,
    path: Path,
    count: Count = 4,
    seed: int = 0,
    on_progress: Callable[[int, int | None], None] | None = None,
) -> list[Path]:
    """Write ``count`` rewrites of every caption, before any training; ``read_rewrites`` reads them.

    Rewrite j of all captions is the file ``rewrites-j.txt`` in the folder, one line for each caption, line breaks
    made blanks; a line may be empty, and the caption itself is then used. The same call
    resumes: at most 1,024 captions are done again, and the files are the same.

    Source: arXiv 2305.20088, the files of the released code. Its draws come from one stream; ours from a hash of the
    caption and its position.

    Args:
        texts: the captions.
        rewriter: any.
        path: a folder, made if it is not there.
        count: rewrites of each caption (>= 1).
        seed: of the draws.
        on_progress: called with the captions that are done and their number.

    Returns:
        The files, in order.

    Raises:
        InputError: a folder with rewrites of other captions or settings.
        LockedError: another process is writing there.
    """
    if not texts:
        raise InputError("texts: expected at least one caption, got none")
    facts = {
        "captions": len(texts),
        "sha256": texts_digest(texts),
        "count": count,
        "seed": seed,
        "rewriter": REWRITERS.name_of(type(rewriter)),
        "settings": rewriter.settings,
    }
    files = [path / f"rewrites-{number}.txt" for number in range(1, count + 1)]
    with locked(path, purpose="rewrite_dataset"):
        remove_leftovers(path)
        if (path / MANIFEST).exists() and any([*path.glob(".piece-*.txt"), *path.glob("rewrites-*.txt")]):
            found = read_json(path / MANIFEST)
            facts = json.loads(json.dumps(facts))  # as they are read back: a tuple is a list
            if isinstance(found, dict) and found.get("rewriter") == type(rewriter).__name__:  # before names were kept
                found["rewriter"] = facts["rewriter"]
            if found != facts:
                other = [key for key in facts if not isinstance(found, dict) or found.get(key) != facts[key]]
                raise InputError(f"{path}: holds rewrites with other {', '.join(other)}; choose another folder")
        else:
            write_json(path / MANIFEST, facts)
        pieces = [path / f".piece-{number:06d}.txt" for number in range(-(-len(texts) // CHUNK))]
        if not all(file.exists() for file in files):
            for number, piece in enumerate(pieces):
                start = number * CHUNK
                if not piece.exists():
                    write_text(piece, _piece(texts[start : start + CHUNK], start, rewriter, count=count, seed=seed))
                if on_progress is not None:
                    on_progress(min(start + CHUNK, len(texts)), len(texts))
            for number, file in enumerate(files):
                with atomic_path(file) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as out:
                    for piece in pieces:
                        lines = piece.read_text(encoding="utf-8").split("\n")[:-1]
                        out.writelines(f"{line}\n" for line in lines[number::count])
        for piece in pieces:
            piece.unlink(missing_ok=True)
        return files


def _piece(texts: Sequence[str], start: int, rewriter: Rewriter, *, count: int, seed: int) -> str:
    """``count`` lines for each caption."""
    lines: list[str] = []
    for place, text in enumerate(texts, start):
        made = rewriter.rewrite(text, count=count, generator=of_key(f"{place} {text}", seed=seed, salt="rewrite"))
        if len(made) != count:
            raise InputError(
                f"{type(rewriter).__name__}: expected {count} rewrites of caption {place}, got {len(made)}"
            )
        lines += [f"{one_line(one)}\n" for one in made]
    return "".join(lines)


def read_rewrites(files: Sequence[Path], *, captions: int) -> list[list[str]]:
    """The rewrites of each caption, from one file for each rewrite.

    Args:
        files: text files of one line for each caption.
        captions: how many there must be.

    Raises:
        InputError: no file, one that cannot be read, or one with another number of lines; it names the file.
    """
    if not files:
        raise InputError("files: expected at least one, got none")
    columns = []
    for file in files:
        lines = read_text(file, limit=_LARGEST).removesuffix("\n").split("\n")
        if len(lines) != captions:
            raise InputError(f"{file}: expected {captions} lines, one for each caption, got {len(lines)}")
        columns.append(lines)
    return [list(row) for row in zip(*columns, strict=True)]
