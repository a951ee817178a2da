"""Requests a second and waiting times of ``tether serve``, beside another server of OpenAI's API with the same model.

    python benchmarks/serve.py [--model open_clip:ViT-B-32] [--clients 1 16 64] [--quick] [--json OUT]
        [--against http://127.0.0.1:7997 --against-model NAME]

Starts ``tether serve`` on a free port and asks it for embeddings of short texts, one a request, from so many clients at
once; each waits for its answer before it asks again. ``--against`` is a server that runs already, such as infinity-emb
with the model that ``tether export --format transformers`` wrote; both are asked in turns, round by round, so that
what else the machine does meets both. Prints requests a second, and the median and 99th percentile of an answer's time,
over the rounds: median (range).
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

WORDS = (
    "red",
    "green",
    "blue",
    "large",
    "old",
    "new",
    "wooden",
    "bright",
    "quiet",
    "cat",
    "dog",
    "car",
    "tree",
    "house",
    "street",
)


def ask(base: str, model: str, *, clients: int, seconds: float) -> tuple[float, float, float]:
    """Requests a second, median and 99th percentile in ms."""
    place, took, failed = urlsplit(base), list[float](), list[str]()
    until = time.monotonic() + seconds

    def client(number: int) -> None:
        connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=120)
        asked = 0
        while (start := time.monotonic()) < until:
            text = " ".join(WORDS[(number * 7 + asked * k) % len(WORDS)] for k in range(1, 7))
            body = json.dumps({"model": model, "input": [f"{text} {number} {asked}"]})
            connection.request("POST", f"{place.path}/v1/embeddings", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200:
                failed.append(str(answer.status))
                return
            took.append(time.monotonic() - start)
            asked += 1

    start = time.monotonic()
    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed or len(took) < 2:
        sys.exit(f"{base}: {len(failed)} requests were answered {', '.join(sorted(set(failed)))}")
    cuts = statistics.quantiles(took, n=100)
    return len(took) / (time.monotonic() - start), 1000 * cuts[49], 1000 * cuts[98]


def started(model: str, log: Path) -> tuple[subprocess.Popen[bytes], str]:
    """``tether serve`` on a free port, and its address."""
    command = [sys.executable, "-m", "tether", "serve", model, "--name", "model", "--random-weights", "--port", "0"]
    environment = {name: value for name, value in os.environ.items() if name != "TETHER_TOKEN"}
    with log.open("wb") as file:
        process = subprocess.Popen(command, stderr=file, env=environment)
    while process.poll() is None:
        if found := re.search(r"at (http://127\.0\.0\.1:\d+)/", log.read_text()):
            return process, found[1]
        time.sleep(0.1)
    sys.exit(log.read_text())


def shown(values: list[float]) -> str:
    return f"{statistics.median(values):8.1f} ({min(values):.1f} to {max(values):.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="open_clip:ViT-B-32")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--against")
    parser.add_argument("--against-model", default="model")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    model, rounds, seconds = ("tiny", 2, 1.0) if given.quick else (given.model, 5, 10.0)
    with tempfile.TemporaryDirectory() as folder:
        process, address = started(model, Path(folder) / "log.txt")
        try:
            servers = {"tether": (address, "model")}
            if given.against:
                servers["against"] = (given.against.rstrip("/"), given.against_model)
            for base, name in servers.values():
                ask(base, name, clients=4, seconds=seconds)  # warm
            found = []
            for clients in given.clients:
                measured: dict[str, list[tuple[float, float, float]]] = {name: [] for name in servers}
                for _ in range(rounds):
                    for name, server in servers.items():
                        measured[name].append(ask(*server, clients=clients, seconds=seconds))
                for name, rows in measured.items():
                    rate, middle, late = (list(column) for column in zip(*rows, strict=True))
                    times = f"p50 {shown(middle)} ms  p99 {shown(late)} ms"
                    print(f"{clients:4} clients  {name:8} {shown(rate)} requests/s  {times}")
                    found.append({"clients": clients, "server": name, "rate": rate, "p50": middle, "p99": late})
                if given.against:
                    ratios = [ours[0] / theirs[0] for ours, theirs in zip(*measured.values(), strict=True)]
                    print(f"{clients:4} clients  tether / against {shown(ratios)}")
        finally:
            process.terminate()
            process.wait(60)
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
