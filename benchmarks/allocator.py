"""What it saves that freed memory stays with the process: CPU seconds with malloc's defaults over those without.

Command: ``python benchmarks/allocator.py [--quick] [--json OUT]``; about three minutes of one core.

Each figure is a fresh process with one thread that does the same work with glibc's defaults or after
``tether.core.allocator.keep_freed_memory()``, by turns. The work: 64 images of 260 pixels through ``starter``'s image
tower in one batch, and ten training steps of a small dual encoder with 64 images of 64 pixels.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

WORK = {
    "embed 64 images with starter": """
import torch, tether
model = tether.load("starter").eval()
images = torch.rand(64, 3, *model.image_spec.size)
def work():
    with torch.inference_mode():
        model.encode_image(images)
""",
    "ten training steps": """
import torch
from tether.losses import clip_loss
from tether.models import create
model = create("small", seed=0, image_size=64, patch=8)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
images = torch.rand(64, 3, 64, 64)
texts = model.tokenizer([f"number {row}" for row in range(64)])
def work():
    for _ in range(10):
        loss = clip_loss(model.encode_image(images).unit, model.encode_text(texts).unit, model.logit_scale)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
""",
}
TIMED = """
import resource, sys, time
import torch
torch.set_num_threads(1)
if sys.argv[1] == "kept":
    from tether.core.allocator import keep_freed_memory
    assert keep_freed_memory()
{work}
work()
begun = time.process_time()
work()
print(time.process_time() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""


def once(work: str, how: str) -> tuple[float, float]:
    """CPU seconds of the second call, and the most memory in GiB."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    command = [sys.executable, "-c", TIMED.format(work=WORK[work]), how]
    said = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    seconds, most = said.split()
    return float(seconds), float(most)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one round")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    results = {}
    for work in WORK:
        rounds = [{how: once(work, how) for how in ("default", "kept")} for _ in range(1 if given.quick else 5)]
        ratios = sorted(one["default"][0] / one["kept"][0] for one in rounds)
        most = {how: statistics.median(one[how][1] for one in rounds) for how in ("default", "kept")}
        seconds = {how: statistics.median(one[how][0] for one in rounds) for how in ("default", "kept")}
        results[work] = {"ratios": ratios, "seconds": seconds, "gib": most}
        print(
            f"{work}: {statistics.median(ratios):.2f} times the CPU seconds with malloc's defaults "
            f"({ratios[0]:.2f} to {ratios[-1]:.2f}), {seconds['default']:.2f} to {seconds['kept']:.2f} s, "
            f"{most['default']:.2f} to {most['kept']:.2f} GiB at most"
        )
    if given.json:
        given.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
