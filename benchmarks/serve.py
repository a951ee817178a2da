"""Embeddings a second and waiting times of ``tether serve``, beside infinity-emb with the same random ViT-B/32.

    python benchmarks/serve.py [--against /tmp/infinity-venv/bin/infinity_emb] [--rounds 5] [--seconds 8] [--quick]
        [--json OUT]

Writes a CLIP of ViT-B/32's sizes with random weights as a transformers folder, starts ``tether serve`` and, with
``--against``, infinity-emb on it, each with one thread for its products, and sees that both give the same embeddings.
Then clients, one thread each, ask for embeddings of short texts or of JPEG photos (500 x 375, as data URIs) and wait for
each answer before they ask again; both servers in turns, round by round, so that what else the machine does meets both.
Prints texts or images a second, CPU seconds of the server for 1,000 of them (Linux), and the median and 99th
percentile of an answer's time over all rounds; then ratios of the same round: median (range).

infinity-emb needs an environment of its own:
    pip install 'infinity-emb[server,torch,vision]==0.0.77' 'transformers<4.49' 'optimum<1.24' 'click<8.2' 'typer<0.16' 'pyarrow<21'
It is told to send nothing anywhere (DO_NOT_TRACK, HF_HUB_OFFLINE).
"""  # noqa: E501 - a command to copy

from __future__ import annotations

import argparse
import base64
import http.client
import io
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

COLOURS, THINGS = ["red", "green", "blue", "old", "wooden", "bright"], ["cat", "dog", "car", "tree", "house", "street"]
LOADS = [
    ("text", 1, 1),
    ("text", 1, 16),
    ("text", 1, 64),
    ("text", 32, 4),
    ("image", 1, 1),
    ("image", 1, 16),
    ("image", 8, 4),
]
"""What is asked for, how many in one request, by how many clients."""
ALONE = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "DO_NOT_TRACK": "1"}


@dataclass(frozen=True, slots=True)
class Server:
    """A running one.

    Attributes:
        name: of the program.
        port: on 127.0.0.1.
        process: its process, which holds its threads.
    """

    name: str
    port: int
    process: subprocess.Popen[bytes]

    def body(self, kind: str, items: list[str]) -> bytes:
        """A request for embeddings; the two programs name images differently."""
        if kind == "text":
            return json.dumps({"model": "model", "input": items}).encode()
        if self.name == "tether":
            return json.dumps({"model": "model", "input": [{"image": item} for item in items]}).encode()
        return json.dumps({"model": "model", "input": items, "modality": "image"}).encode()

    def cpu(self) -> float:
        """CPU seconds so far, or NaN where nobody tells."""
        try:
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return float("nan")
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Round:
    """One load on one server for some seconds: texts or images a second, CPU seconds for 1,000, ms of each answer."""

    rate: float
    cpu: float
    took: list[float]


def photos(number: int) -> list[str]:
    """JPEG files as data URIs."""
    chance, found = np.random.default_rng(0), list[str]()
    for _ in range(number):
        pixels = chance.integers(0, 256, (24, 32, 3), np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).resize((500, 375), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        found.append("data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode())
    return found


def ask(server: Server, kind: str, *, rows: int, clients: int, seconds: float, images: list[str]) -> Round:
    """Ask for so long, and wait for the last answers."""
    took, failed, serial = list[float](), list[str](), count()

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=300)
        while time.monotonic() < until:
            numbers = [next(serial) for _ in range(rows)]
            if kind == "text":
                items = [
                    f"a {COLOURS[n % 6]} {THINGS[n // 6 % 6]} beside a {COLOURS[n // 7 % 6]} one {n}" for n in numbers
                ]
            else:
                items = [images[n % len(images)] for n in numbers]
            body = server.body(kind, items)
            start = time.monotonic()
            connection.request("POST", "/v1/embeddings", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            took.append(1000 * (time.monotonic() - start))
            if answer.status != 200:
                failed.append(str(answer.status))
                return

    threads = [threading.Thread(target=client) for _ in range(clients)]
    cpu, start = server.cpu(), time.monotonic()
    until = start + seconds
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed or not took:
        sys.exit(f"{server.name}: {len(failed)} requests were answered {', '.join(sorted(set(failed)))}")
    done = len(took) * rows
    return Round(done / (time.monotonic() - start), 1000 * (server.cpu() - cpu) / done, took)


def started(name: str, command: list[str], port: int, log: Path) -> Server:
    """A server that answers."""
    environment = {key: value for key, value in os.environ.items() if key != "TETHER_TOKEN"} | ALONE | OFFLINE
    with log.open("wb") as file:
        server = Server(name, port, subprocess.Popen(command, stdout=file, stderr=file, env=environment))
    while server.process.poll() is None:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=5).close()
            return server
        except OSError:
            time.sleep(0.2)
    sys.exit(log.read_text()[-4000:])


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def begin(folder: Path, model: Path, infinity: str | None) -> list[Server]:
    """Both servers, or ours alone."""
    port = free_port()
    ours = [sys.executable, "-m", "tether", "serve", str(model), "--name", "model", "--port", str(port)]
    servers = [started("tether", ours, port, folder / "tether.log")]
    if infinity:
        port = free_port()
        theirs = (
            f"{infinity} v2 --model-id {model} --served-model-name model --host 127.0.0.1 --port {port} --device cpu"
        )
        theirs += " --dtype float32 --engine torch --batch-size 64 --url-prefix /v1 --log-level warning"
        try:
            servers.append(started("infinity", theirs.split(), port, folder / "infinity.log"))
        except BaseException:
            stop(servers)
            raise
    return servers


def stop(servers: list[Server]) -> None:
    for server in servers:
        server.process.terminate()
    for server in servers:
        server.process.wait(60)


def embedded(server: Server, kind: str, items: list[str]) -> np.ndarray:
    request = urllib.request.Request(f"http://127.0.0.1:{server.port}/v1/embeddings", server.body(kind, items))
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request) as answer:
        return np.array([row["embedding"] for row in json.load(answer)["data"]])


def shown(values: list[float], digits: int = 2) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def summary(kind: str, rows: int, clients: int, name: str, found: list[Round]) -> dict[str, Any]:
    took = sorted(one for each in found for one in each.took)
    late = {f"p{share}": took[min(len(took) - 1, len(took) * share // 100)] for share in (50, 99)}
    rates, cpu = [each.rate for each in found], [each.cpu for each in found]
    print(
        f"{clients:3} clients, {rows:2} {kind}s each  {name:9} {shown(rates, 1)} {kind}s/s  CPU s for 1,000: "
        f"{shown(cpu)}  p50 {late['p50']:.0f} ms  p99 {late['p99']:.0f} ms of {len(took)}",
        flush=True,
    )
    about = {"kind": kind, "rows": rows, "clients": clients, "server": name}
    return {**about, "rate": rates, "cpu_for_1000": cpu, **late, "requests": len(took)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", metavar="INFINITY_EMB", help="the command of infinity-emb in its environment")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0, help="of one round of one server")
    parser.add_argument("--only", choices=("text", "image"))
    parser.add_argument("--quick", action="store_true", help="a tiny model, two rounds of a second")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    rounds, seconds = (2, 1.0) if given.quick else (given.rounds, given.seconds)
    import tether
    from tether.models import create

    found, images = [], photos(16)
    with tempfile.TemporaryDirectory() as name:
        made = create("tiny" if given.quick else "base", seed=0).eval()
        model = tether.export(made, Path(name) / "model", format="transformers")
        servers = begin(Path(name), model, given.against)
        try:
            for kind, items in (("text", ["a red cat", "two dogs on a boat"]), ("image", images[:2])):
                rows = [embedded(server, kind, items) for server in servers]
                print(f"{kind}s, least cosine of the servers' embeddings: {min((rows[0] * rows[-1]).sum(1)):.5f}")
                for server in servers:  # warm
                    ask(server, kind, rows=1, clients=4, seconds=seconds / 2, images=images)
            for kind, rows, clients in LOADS:
                if given.only not in (None, kind):
                    continue
                measured: dict[str, list[Round]] = {server.name: [] for server in servers}
                for turn in range(rounds):
                    for server in servers if turn % 2 == 0 else servers[::-1]:
                        one = ask(server, kind, rows=rows, clients=clients, seconds=seconds, images=images)
                        measured[server.name].append(one)
                found += [summary(kind, rows, clients, *each) for each in measured.items()]
                if given.against:
                    pairs = list(zip(measured["tether"], measured["infinity"], strict=True))
                    rate = [ours.rate / theirs.rate for ours, theirs in pairs]
                    cpu = [ours.cpu / theirs.cpu for ours, theirs in pairs]
                    print(f"    tether / infinity: {kind}s/s {shown(rate)}, CPU {shown(cpu)}", flush=True)
        finally:
            stop(servers)
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
