"""Embeds images and texts with the model in this folder and prints their cosines, without torch.

    python run.py photo.jpg other.png "a photo of a cat" "two dogs"

Needs onnxruntime (openvino where the folder has .xml files) and numpy; Pillow for images, tokenizers for texts.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
CONFIG = json.loads((HERE / "tether_config.json").read_text(encoding="utf-8"))


def tower(side):
    """A function from the tower's input to its embeddings; open it once, call it often."""
    path = str(HERE / CONFIG["files"][side])
    if CONFIG["runtime"] == "openvino":
        import openvino

        model = openvino.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return lambda rows: model(rows)[0]
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # nothing is reported to anybody
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda rows: session.run(None, {session.get_inputs()[0].name: rows})[0]


def pixels(path):
    """An image file to (3, height, width) normalised floats."""
    from PIL import Image, ImageOps

    spec, image = CONFIG["image"], ImageOps.exif_transpose(Image.open(path))
    clear = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
    image = image.convert("RGBA" if clear else "RGB")
    if clear:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    (height, width), (down, across) = spec["size"], spec["resized"] or spec["size"]
    if spec["resize"] == "squash":
        size = (across, down)
    elif spec["resize"] == "shortest" and down == across:
        size = tuple(side * down // min(image.size) for side in image.size)
    else:
        ratio = (min if spec["resize"] == "shortest" else max)(image.height / down, image.width / across)
        size = (max(1, round(image.width / ratio)), max(1, round(image.height / ratio)))
    image = image.resize(size, getattr(Image.Resampling, spec["interpolation"].upper()))
    canvas = Image.new("RGB", (width, height), (spec["fill"],) * 3)
    spare = [got - want for got, want in zip(image.size, canvas.size, strict=True)]
    left, top = (-n // 2 if n < 0 else -(n // 2 if spec["resized"] else round(n / 2)) for n in spare)
    canvas.paste(image, (left, top))
    normal = (np.asarray(canvas, np.float32) / 255 - np.float32(spec["mean"])) / np.float32(spec["std"])
    return normal.transpose(2, 0, 1)


def ids(texts):
    """Strings to (n, length) token ids, 0 after the end; longer texts lose their ends."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(HERE / "tokenizer.json"))
    tokenizer.enable_truncation(CONFIG["text"]["context"])
    rows = [found.ids for found in tokenizer.encode_batch(texts)]
    return np.array([row + [0] * (max(map(len, rows)) - len(row)) for row in rows], np.int64)


def main(things):
    """Prints the cosines of all images and texts with each other."""
    images, texts = [t for t in things if Path(t).is_file()], [t for t in things if not Path(t).is_file()]
    found = [tower("image")(np.stack([pixels(path) for path in images]))] if images else []
    found = np.concatenate([*found, *([tower("text")(ids(texts))] if texts else [])])
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    for name, row in zip(images + texts, found @ found.T, strict=True):
        print(*(f"{cosine:7.4f}" for cosine in row), name)


if __name__ == "__main__":
    try:
        main(sys.argv[1:] or ["a photo of a cat", "a photo of a dog"])
    except ModuleNotFoundError as error:
        runtime = "openvino" if CONFIG["runtime"] == "openvino" else "onnxruntime"
        sys.exit(f"run.py needs {error.name}: pip install {runtime} tokenizers Pillow")
