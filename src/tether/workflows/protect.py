"""A model made useless but for a key, and whole again: ``tether compress --protect`` and ``--restore``."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from torch import nn

from tether.compression.protect import Obfuscator, Secret
from tether.core.atomic_io import write_json
from tether.core.errors import InputError
from tether.core.locks import locked
from tether.core.protocols import DualEncoder
from tether.core.replaced_parts import replaced_parts
from tether.core.types import Batch
from tether.models.convert.saved_files import CONFIG_FILE
from tether.models.save import save
from tether.workflows.compressed_folder import PARTS, REPORT_FILE, check_free, check_not_model
from tether.workflows.models import Model, opened

FORMAT = "tether-restored-1"
ROUNDS, SAMPLES, EPOCHS, PATIENCE = 2, 5, 6, 3
"""Of the search: choices of rows, and at most so many passes over the calibration rows for each."""


def protected(model: nn.Module, batches: Sequence[Batch], *, key: Path, share: float) -> tuple[nn.Module, list[str]]:
    """The useless copy and what is said of it; its secret is written first.

    Args:
        model: with plain weights.
        batches: that it is to be wrong on.
        key: file of the secret.
        share: see ``Obfuscator``.
    """
    given = {"rounds": ROUNDS, "samples": SAMPLES, "epochs": EPOCHS, "patience": PATIENCE}
    obfuscator = Obfuscator(model, eps=None, share=share, clamp="layer", **given)
    changed, secret = obfuscator.fit(batches)
    check_new_key(key)  # again: another may have written there meanwhile
    secret.save(key)
    found = obfuscator.found
    assert found is not None
    said = [
        f"protect: {found.changed:,} of {found.total:,} weights changed ({100 * found.changed / found.total:.3f} %), "
        f"none beyond its layer's own range (largest magnitude {found.largest_before:.3f} before, "
        f"{found.largest_after:.3f} after); of the calibration images {100 * found.accuracy_before:.1f} % found their "
        f"text before and {100 * found.accuracy_after:.1f} % after",
        "protect: the key brings it back bit for bit; it is the only place with the true weights, beside the original. "
        "Who trains the copy on a few images of their own gets most of it back",
    ]
    return changed, said


def check_new_key(key: Path) -> None:
    """See that no key is written over: it may be the only one of a copy that others have.

    Raises:
        InputError: something is there.
    """
    if key.exists() or key.is_symlink():
        raise InputError(f"--protect: {key} is there already; a key is never replaced, so give another name")


def restored(
    model: Model, key: str | Path, *, out: str | Path, existing: str = "refuse", device: str = "auto"
) -> DualEncoder:
    """Bring a protected model back, bit for bit, and save it.

    Args:
        model: the copy, loaded (it is not changed), or a name that ``tether.load`` takes.
        key: file of its secret.
        out: folder of the result.
        existing: ``refuse`` or ``replace`` what this verb wrote there.
        device: where to load the model.

    Raises:
        InputError: no secret, one of another model, or a folder that holds something else.
    """
    folder, secret = Path(out), Secret.load(key)
    check_not_model(folder, model)
    check_free(folder, existing=existing)
    base, title = opened(model, device=device)
    whole = secret.restore(copy.deepcopy(cast(nn.Module, base)))
    parts = replaced_parts(folder, keys=[CONFIG_FILE, REPORT_FILE], others=PARTS)
    with locked(folder, purpose="tether compress"), parts as new:
        save(whole, new)
        write_json(new / REPORT_FILE, {"format": FORMAT, "base": title, "digest": secret.original_digest})
    return cast(DualEncoder, whole)
