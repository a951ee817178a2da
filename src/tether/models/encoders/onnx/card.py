"""The ``README.md`` of an exported folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tether.models.encoders.onnx.description import Description

_HEAD = """# A dual encoder of images and texts, without torch

Exported by Tether (`pip install tether-clip`) from a `{kind}`: {precision}, for {runtime}.

    pip install {packages}
    python run.py photo.jpg "a photo of a cat"

| file | what it is |
| --- | --- |
| `{image}` | normalised pixels (n, 3, {size}) float32 to embeddings (n, {dim}), not normalised |
| `{text}` | token ids (n, length) int64, 0 after the end, length at most {context}, to embeddings (n, {dim}) |
| `tether_config.json` | how images are prepared, the length of texts, logit scale and bias |
| `tokenizer.json` | {tokenizer} |
| `run.py` | embeds images and texts and prints their cosines |
| `parity.json` | what was measured below, with all figures |

In Python with Tether: `tether.load("FOLDER")`.

## Against torch

"""
_TOKENIZERS = {
    "clip": "CLIP's tokenizer for the package tokenizers; open_clip's also mends HTML and wrong encodings first",
    "json": "the model's tokenizer for the package tokenizers",
    "none": "is not there: {why}",
}


def card(described: Description, parity: Mapping[str, Any], *, why: str) -> str:
    """The text: what lies where, how it is used, and how near it is to torch.

    Args:
        described: the folder's description.
        parity: contents of ``parity.json``.
        why: there is no tokenizer, where there is none.
    """
    runtime = "onnxruntime" if described.runtime == "onnx" else "openvino"
    height, width = described.image.size
    head = _HEAD.format(
        kind=described.exported_from,
        precision=described.precision,
        runtime=runtime,
        packages=f"{runtime} numpy pillow tokenizers",
        image=described.files["image"],
        text=described.files["text"],
        size=f"h, w), best {height} x {width}" if described.any_size else f"{height}, {width})",
        dim=described.dim,
        context=described.context,
        tokenizer=_TOKENIZERS[described.tokenizer].format(why=why),
    ).replace("))", ")")
    lines = ["| tower | inputs | largest difference | mean cosine | least cosine |", "| --- | --- | --- | --- | --- |"]
    for where in ("drawn", "data"):
        for side in ("image", "text"):
            if where in parity:
                found = parity[where][side]
                numbers = f"{found['max_difference']:.1e} | {found['mean_cosine']:.6f} | {found['min_cosine']:.6f}"
                lines.append(f"| {side} | {where} | {numbers} |")
    if "recall" in parity:
        lines += ["", "| recall | torch | here |", "| --- | --- | --- |"]
        before, after = parity["recall"]["before"], parity["recall"]["after"]
        lines += [f"| {name} | {100 * before[name]:.1f} | {100 * after[name]:.1f} |" for name in before]
        rows = parity["data"]["rows"]
        lines += ["", f"Of {rows:,} rows; chance at 10, text to image, is {100 * min(1.0, 10 / rows):.1f}."]
    return head + "\n".join(lines) + "\n"
