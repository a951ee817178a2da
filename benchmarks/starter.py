"""``starter`` on photographs with captions: as it comes, and after its maps are fitted to most of them.

Command: ``python benchmarks/starter.py PHOTOS [--held 200] [--limits 50,100,200,400]``. PHOTOS is any source that
``tether.data`` opens; the last rows are held out. The towers' rows are computed once; each fit takes a second.
"""

from __future__ import annotations

import argparse
import time

import torch

import tether
from tether.adaptation.finetune import MapFit
from tether.core.protocols import DualEncoder
from tether.data import open_source
from tether.data.in_order import ordered
from tether.evaluate.retrieval import recall_at_k
from tether.models.composed.encoder import ComposedEncoder
from tether.models.embed import encode_images, encode_texts


def rows_of(model: DualEncoder, source: object) -> tuple[torch.Tensor, list[tuple[str, ...]]]:
    captions: list[tuple[str, ...]] = []

    def pixels():
        for rows, batch in ordered(source, image_spec=model.image_spec, batch_size=32):
            captions.extend(row.texts for row in rows)
            yield batch

    return encode_images(model, pixels()), captions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos")
    parser.add_argument("--held", type=int, default=200)
    parser.add_argument("--limits", default="20,50,100,200,400")
    given = parser.parse_args()
    begun = time.perf_counter()
    model = tether.load("starter")
    print(f"load: {time.perf_counter() - begun:.1f} s")
    view, source = model.before_maps(), open_source(given.photos, where="photos")
    begun = time.process_time()
    images, captions = rows_of(view, source)
    print(f"{len(images)} images: {time.process_time() - begun:.0f} CPU s")
    begun = time.process_time()
    texts = encode_texts(view, [text for row in captions for text in row])
    print(f"{len(texts)} texts: {time.process_time() - begun:.0f} CPU s")
    owners = torch.tensor([place for place, row in enumerate(captions) for _ in row])
    held = len(images) - given.held

    def measure(which: ComposedEncoder) -> str:
        with torch.no_grad():
            eyes = torch.nn.functional.normalize(which.parts.image_map(images[held:]), dim=1)
            words = torch.nn.functional.normalize(which.parts.text_map(texts[owners >= held]), dim=1)
        found = recall_at_k(eyes, words, text_to_image=owners[owners >= held] - held)
        return ", ".join(f"R@{k} {found[f'text_to_image_r{k}']:.3f}" for k in (1, 5, 10))

    print(f"starter, {given.held} held out: {measure(model)}")
    for limit in [*(int(count) for count in given.limits.split(",")), held]:
        begun = time.process_time()
        some = owners < min(limit, held)
        found = MapFit().fit(model, images[:limit][:held], texts[some], owners=owners[some])
        spent = time.process_time() - begun
        inside = ", ".join(f"{value:.3f}" for value in found.recall)
        print(
            f"fitted to {min(limit, held)}: {measure(found.model)} (keep {found.keep}, scale "
            f"{found.model.logit_scale:.0f}, inside {inside} of {found.pool}, {spent:.1f} CPU s)"
        )


if __name__ == "__main__":
    main()
