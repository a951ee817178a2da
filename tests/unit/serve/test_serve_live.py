"""A server in a process of its own: PyPI's openai client, many clients at once, one that goes away, SIGTERM."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import tether
from serving import TOKEN, Server, image_bytes, make_store
from tether import cli
from tether.core.errors import InputError
from tether.serve.run import bound, listen

pytestmark = pytest.mark.slow

openai = pytest.importorskip("openai")

MANY = 200
GUIDE = Path(__file__).parents[3] / "docs" / "guides" / "serve.md"
BLOCKS = re.findall(r"```bash\n(.*?)```", GUIDE.read_text("utf-8"), re.S)


def client_of(server, token=TOKEN, **settings):
    return openai.OpenAI(base_url=f"{server.address}/v1", api_key=token, timeout=60, **settings)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("live")
    make_store(folder / "photos.db", tether.load("tiny", random_weights=True).eval())
    server = Server(folder, "--max-queue", "2048", "--max-rows", "32", "--store", str(folder / "photos.db"))
    yield server
    server.process.kill()
    server.process.wait()


def rows(answer):
    return np.array([each.embedding for each in answer.data])


def test_the_openai_client_as_it_comes(server):
    client = client_of(server)
    assert [model.id for model in client.models.list()] == ["starter"]
    found = client.embeddings.create(model="starter", input=["a cat", "a dog"])
    assert rows(found).shape == (2, 64)
    np.testing.assert_allclose(np.linalg.norm(rows(found), axis=1), 1, atol=1e-5)
    plain = client.embeddings.create(model="starter", input="a cat", encoding_format="float")
    np.testing.assert_allclose(rows(plain)[0], rows(found)[0], atol=1e-5)
    short = client.embeddings.create(model="starter", input="a cat", dimensions=8)
    assert rows(short).shape == (1, 8)
    assert found.usage.total_tokens == 8
    with pytest.raises(openai.NotFoundError, match="no model 'other'"):
        client.embeddings.create(model="other", input="a cat")
    with pytest.raises(openai.BadRequestError, match="empty"):
        client.embeddings.create(model="starter", input="")
    with pytest.raises(openai.AuthenticationError, match="the token is wrong"):
        client_of(server, "another-secret").models.list()


def test_many_at_once_have_what_they_have_alone(server):
    client = client_of(server, max_retries=0)
    texts = [f"a {'very ' * (number % 5)}small thing number {number}" for number in range(MANY)]
    alone = np.concatenate(
        [rows(client.embeddings.create(model="starter", input=texts[i : i + 1])) for i in range(0, MANY, 10)]
    )

    def ask(text):
        try:
            return rows(client.embeddings.create(model="starter", input=text))[0]
        except openai.RateLimitError as error:
            return int(error.response.headers["retry-after"])

    with ThreadPoolExecutor(MANY) as pool:
        found = list(pool.map(ask, texts))
    answered = [number for number, one in enumerate(found) if not isinstance(one, int)]
    assert answered
    assert all(one >= 1 for one in found if isinstance(one, int))
    for number in answered:
        if number % 10 == 0:
            np.testing.assert_allclose(found[number], alone[number // 10], atol=1e-5)
    text = server.get("/metrics")
    batches = float(re.search(r"tether_batch_rows_count (\S+)", text)[1])
    counted = float(re.search(r'tether_rows_total\{kind="text"\} (\S+)', text)[1])
    assert batches < counted  # rows of several clients went through together


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl on PATH")
@pytest.mark.parametrize("block", BLOCKS)
def test_the_guide_in_curl(server, tmp_path, block):
    (tmp_path / "like.jpg").write_bytes(image_bytes(kind="JPEG"))
    said = subprocess.run(
        ["bash", "-ec", block.replace("http://127.0.0.1:8000", server.address)],
        capture_output=True,
        cwd=tmp_path,
        env={**os.environ, "TETHER_TOKEN": TOKEN},
        timeout=60,
        check=True,
    )
    answer = json.loads(said.stdout)
    assert "detail" not in answer
    assert "error" not in answer
    assert any(answer.get(name) for name in ("data", "hits", "images", "areas")), answer


def raw(server, head, body=b""):
    connection = socket.create_connection(("127.0.0.1", server.port), 60)
    connection.sendall(
        f"{head}\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\n".encode()
        + body
    )
    return connection


def test_half_a_gigabyte_is_refused_at_once(server):
    with raw(
        server, "POST /v1/embeddings HTTP/1.1", b"Expect: 100-continue\r\nContent-Length: 500000000\r\n\r\n"
    ) as one:
        assert b"413" in one.recv(100)


def test_a_client_that_goes_away_does_no_harm(server):
    for _ in range(5):
        with raw(server, "POST /v1/embeddings HTTP/1.1", b"Content-Length: 1000\r\n\r\n{"):
            pass
        body = b'{"model": "starter", "input": "a cat"}'
        with raw(server, "POST /v1/embeddings HTTP/1.1", b"Content-Length: %d\r\n\r\n" % len(body) + body):
            pass
    assert rows(client_of(server).embeddings.create(model="starter", input="a cat")).shape == (1, 64)
    assert "Traceback" not in server.said()


def test_sigterm_finishes_what_was_taken(tmp_path):
    server = Server(tmp_path, "--max-rows", "8")
    client = client_of(server, max_retries=0)
    answers = []

    def ask(number):
        texts = [f"number {number} {i}" for i in range(300)]
        with contextlib.suppress(openai.APIConnectionError):  # one that was not taken yet
            answers.append(rows(client.embeddings.create(model="starter", input=texts)).shape)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(600):  # until the model has begun with all of them
        if (
            server.process.poll() is not None
            or "tether_queue_rows 0.0" not in server.get("/metrics")
            or len(answers) == 3
        ):
            break
        threading.Event().wait(0.02)
    assert server.stop() == 143
    for thread in threads:
        thread.join(60)
    assert answers
    assert set(answers) == {(300, 64)}
    assert TOKEN not in server.said()
    assert "Traceback" not in server.said()


def test_a_port_in_use_is_told_before_the_model_is_loaded():
    with bound("127.0.0.1", 0) as taken:
        listen(taken)
        with pytest.raises(InputError, match=r"in use; take another one"):
            bound("127.0.0.1", taken.getsockname()[1])


def test_nobody_is_let_in_before_the_model_is_loaded():
    with bound("127.0.0.1", 0) as mine:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(mine.getsockname(), 10)
        with bound(*mine.getsockname()) as other:  # both may have it until one listens
            listen(mine)
            with pytest.raises(InputError, match=r"in use; take another one"):
                listen(other)
        socket.create_connection(mine.getsockname(), 10).close()


def test_other_machines_need_a_token(monkeypatch, capsys):
    monkeypatch.delenv("TETHER_TOKEN", raising=False)
    with pytest.raises(SystemExit) as ended:
        cli.main(["serve", "tiny", "--host", "0.0.0.0"])
    assert ended.value.code == 2
    assert "--no-token" in capsys.readouterr().err
