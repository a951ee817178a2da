"""What the server answers, and what it refuses: in one process, without a port."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import shutil
import threading
from concurrent.futures import Future

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from starlette.requests import Request
from starlette.testclient import TestClient

import tether
from serving import HOSTILE, data_uri, headed, image_bytes, make_store
from tether.core.errors import InputError
from tether.core.types import Features, ImageSpec
from tether.data.words import WordCounts
from tether.serve import bodies
from tether.serve.app import make_app
from tether.serve.auth import read_token
from tether.serve.batching import StoppingError
from tether.serve.limits import BodyLimit, ServerLimits
from tether.serve.schemas import ClassifyRequest, EmbeddingsRequest, SearchRequest
from tether.serve.start import service_of
from tether.tasks.retrieve.store import Store

TOKEN = "a-token-of-many-letters"
BASE = "http://localhost"


@pytest.fixture(scope="module")
def model():
    return tether.load("tiny", random_weights=True).eval()


@pytest.fixture(scope="module")
def store(tmp_path_factory, model):
    path = tmp_path_factory.mktemp("serve") / "photos.db"
    make_store(path, model)
    return path


LIMITS = ServerLimits(request_bytes=1 << 20, held_bytes=4 << 20, pixels=1 << 16, texts=100, letters=1000, images=4)


@pytest.fixture(scope="module")
def client(model, store):
    app = make_app(service_of(model, store=str(store), name="tiny", limits=LIMITS))
    with TestClient(app, base_url=BASE) as client:
        yield client


def embed(client, given, **more):
    return client.post("/v1/embeddings", json={"model": "tiny", "input": given, **more})


def floats(answer):
    assert answer.status_code == 200, answer.text
    return torch.tensor([row["embedding"] for row in answer.json()["data"]])


class TestEmbeddings:
    def test_texts_and_images_in_one_list_keep_their_places(self, client, model):
        answer = embed(client, ["a cat", {"image": data_uri()}, {"text": "a dog"}])
        rows = floats(answer)
        assert [row["index"] for row in answer.json()["data"]] == [0, 1, 2]
        torch.testing.assert_close(rows[[0, 2]], torch.nn.functional.normalize(model.embed(["a cat", "a dog"]), dim=1))
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(3))
        torch.testing.assert_close(rows[1:2], floats(embed(client, {"image": data_uri()})), atol=1e-5, rtol=0)
        assert answer.json()["usage"]["prompt_tokens"] == 8

    def test_base64_is_little_endian_float32(self, client):
        answer = embed(client, "a cat", encoding_format="base64").json()["data"][0]["embedding"]
        found = np.frombuffer(base64.b64decode(answer), "<f4")
        np.testing.assert_allclose(found, floats(embed(client, "a cat"))[0].numpy(), atol=1e-6)

    def test_fewer_dimensions_are_of_length_one(self, client):
        rows = floats(embed(client, "a cat", dimensions=8))
        torch.testing.assert_close(rows, torch.nn.functional.normalize(floats(embed(client, "a cat"))[:, :8], dim=1))

    def test_a_text_that_was_cut_is_told(self, client):
        assert embed(client, ["a red square " * 60, "a"]).json()["usage"]["texts_cut"] == 1

    @pytest.mark.parametrize(
        ("body", "status", "said"),
        [
            ({"model": "gpt", "input": "a"}, 404, "no model 'gpt'"),
            ({"model": "tiny", "input": []}, 400, "at least one"),
            ({"model": "tiny", "input": ["a", " "]}, 400, "input[1]: the text is empty"),
            ({"model": "tiny", "input": ["a"] * 101}, 413, "101 texts; at most 100"),
            ({"model": "tiny", "input": ["a"] * 10_000}, 413, "a list of 10,000; at most 104"),
            ({"model": "tiny", "input": "a" * 900_000}, 413, "a text of 900,000 letters"),
            ({"model": "tiny", "input": "a" * 1_100_000}, 413, "too long"),
            ({"model": "tiny", "input": ["a", 1, 2]}, 400, "input[1]: expected a text"),
            ({"model": "tiny", "input": [1, 2]}, 400, "input[0]: expected a text"),
            ({"model": "tiny", "input": 3}, 400, "token ids are not read"),
            ({"model": "tiny", "input": "a", "dimensions": 10**4000}, 400, "less than or equal"),
            ({"model": "tiny", "input": "a", "dimensions": 65}, 400, "this model has 64"),
            ({"model": "tiny", "input": "a", "dimensions": 0}, 400, "dimensions"),
            ({"model": "tiny", "input": "a", "encoding_format": "xml"}, 400, "encoding_format"),
            ({"model": "tiny", "input": {"image": "data:image/png;base64,!"}}, 400, "not base64"),
            ({"model": "tiny", "input": {"image": "data:image/png;base64,AAAA"}}, 400, "input[0]: not an image"),
            ({"model": "tiny", "input": {"image": "/etc/passwd"}}, 400, "expected a data URI"),
            ({"model": "tiny", "input": {"image": "file:///etc/passwd"}}, 400, "expected a data URI"),
            ({"model": "tiny", "input": {"image": "http://127.0.0.1/a.png"}}, 400, "fetches no URLs"),
            ({"model": "tiny", "input": [{"image": data_uri()}] * 5}, 413, "at most 4"),
            ({"input": "a"}, 400, "model"),
        ],
    )
    def test_bad_input_is_told_in_the_shape_of_openai(self, client, body, status, said):
        answer = client.post("/v1/embeddings", json=body)
        assert answer.status_code == status, answer.text
        assert said in answer.json()["error"]["message"]
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}

    @pytest.mark.parametrize("size", [(257, 257), (60_000, 60_000)])
    def test_an_image_of_many_pixels_is_not_decoded(self, client, size):
        answer = embed(client, {"image": data_uri(headed(*size))})
        assert answer.status_code == 413
        assert "pixels" in answer.json()["error"]["message"]

    @pytest.mark.parametrize(
        ("body", "kind", "status", "said"),
        [
            (b"{", "application/json", 400, "not valid JSON"),
            (b"[" * 50_000, "application/json", 400, "JSON"),
            (b'{"model":"tiny","input":["\\ud800"]}', "application/json", 400, "not Unicode"),
            (b"[" + b"0," * 150_000 + b"0]", "application/json", 400, "values"),
            (b"x", "text/plain", 415, "application/json"),
        ],
    )
    def test_bodies_that_are_no_request(self, client, body, kind, status, said):
        answer = client.post("/v1/embeddings", content=body, headers={"content-type": kind})
        assert answer.status_code == status
        assert said in answer.json()["error"]["message"]

    def test_of_many_wrong_values_the_first_alone_is_told(self):
        told = []
        for given in ([1] * 90_000, [{"a": 1}] * 40_000, [{"image": None}] * 40_000):
            with pytest.raises(ValidationError) as refused:
                EmbeddingsRequest.model_validate({"model": "tiny", "input": given})
            told.append(refused.value.error_count())
        for model in (SearchRequest, ClassifyRequest):
            with pytest.raises(ValidationError) as refused:
                model.model_validate({str(number): 1 for number in range(90_000)})
            told.append(refused.value.error_count())
        with pytest.raises(ValidationError) as refused:
            ClassifyRequest.model_validate({"classes": [1] * 90_000})
        assert [*told, refused.value.error_count()] == [1] * 6

    def test_a_long_body_is_read_beside_the_event_loop(self, client, monkeypatch):
        threads = []

        def made(*given):
            threads.append(threading.current_thread())
            return plain(*given)

        plain = bodies._made
        monkeypatch.setattr(bodies, "_made", made)
        assert embed(client, ["a" * 990] * 100).status_code == 200
        assert embed(client, ["a" * 1000] * 100 + [{"text": "a" * 40_000}]).status_code == 413
        assert embed(client, "a").status_code == 200
        assert threads[1] not in (threads[0], threads[2])

    def test_commas_in_texts_are_no_values(self, client):
        assert embed(client, ["," * 999] * 100).status_code == 200

    def test_the_model_is_listed(self, client):
        assert [each["id"] for each in client.get("/v1/models").json()["data"]] == ["tiny"]
        assert client.get("/v1/models/tiny").json()["object"] == "model"
        assert client.get("/v1/models/other").status_code == 404


class TestBounds:
    def test_a_body_without_a_length_is_counted_while_it_comes(self, client, monkeypatch):
        monkeypatch.setattr("tether.serve.limits._DRAIN_SECONDS", 0.1)
        sent = []

        def pieces():
            for _ in range(40):
                sent.append(1)
                yield b" " * (1 << 16)

        answer = client.post("/v1/embeddings", content=pieces(), headers={"content-type": "application/json"})
        assert answer.status_code == 413
        assert "1,048,576 bytes" in answer.json()["error"]["message"]

    def test_a_file_of_a_form_is_counted_as_well(self, client):
        answer = client.post("/search", files={"image": ("a.png", b"x" * (2 << 20))})
        assert answer.status_code == 413
        assert "too long" in answer.json()["detail"]

    def test_all_bodies_together_are_bounded(self, model):
        app = make_app(service_of(model, name="tiny", limits=LIMITS))
        with TestClient(app, base_url=BASE) as client:
            stack = app.middleware_stack
            while not isinstance(stack, BodyLimit):
                stack = stack.app
            stack.held = LIMITS.held_bytes
            refused = embed(client, "a cat")
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
            stack.held = 0
            assert embed(client, "a cat").status_code == 200
            assert stack.held == 0

    def test_a_full_queue_is_429(self, model):
        limits = ServerLimits(texts=4, images=4, queue=4)
        service = service_of(model, name="tiny", limits=limits)
        with TestClient(make_app(service), base_url=BASE) as client:
            go, begun = threading.Event(), threading.Event()
            service.batcher.call(lambda _: (begun.set(), go.wait(30)))
            assert begun.wait(30)
            service.batcher.texts(["a", "b"])
            answer = embed(client, ["a", "b", "c"])
            go.set()
            assert answer.status_code == 429
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.json()["error"]["code"] == "queue_full"

    def test_a_server_that_stops_says_so(self, model):
        service = service_of(model, name="tiny", limits=LIMITS)
        with TestClient(make_app(service), base_url=BASE) as client:
            service.batcher.close(30)
            answer = embed(client, "a cat")
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            assert answer.json()["error"]["message"] == "the server is stopping"

    def test_who_is_waited_for_no_longer_is_told_as_well(self, model):
        service = service_of(model, name="tiny", limits=LIMITS)

        async def ask():
            request = Request({"type": "http"}, asyncio.Event().wait)
            asked = asyncio.create_task(service.answered(request, Future()))
            await asyncio.sleep(0)
            asked.cancel()  # as uvicorn does after --stop-seconds
            with pytest.raises(StoppingError):
                await asked

        asyncio.run(ask())
        service.close(30)


class TestWhoMayAsk:
    @pytest.fixture(scope="class")
    def closed(self, model):
        with TestClient(make_app(service_of(model, name="tiny"), token=TOKEN), base_url=BASE) as client:
            yield client

    @pytest.mark.parametrize("given", [None, "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN[:-1]}", "Bearer \xff"])
    def test_without_the_token_nothing_is_told(self, closed, given):
        headers = {} if given is None else {"authorization": given.encode("latin-1")}
        for path in ("/v1/models", "/metrics", "/about", "/thumbnail/a", "/nothing"):
            answer = closed.get(path, headers=headers)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
            assert TOKEN not in answer.text

    def test_with_it_all_is(self, closed):
        assert closed.get("/v1/models", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200

    def test_page_and_health_need_none(self, closed):
        for path in ("/", "/page.js", "/page.css", "/health", "/docs", "/openapi.json"):
            assert closed.get(path).status_code == 200, path

    @pytest.mark.parametrize(
        "host",
        [
            "evil.example",
            "localhost.evil.example",
            "10.0.0.1",
            "[::2]:8000",
            "",
            "[::1].evil.example",
            "[::1]@evil",
            "localhost:80.evil.example",
            "localhost@evil.example",
        ],
    )
    def test_a_name_that_leads_here_by_a_trick_is_refused(self, client, host):
        assert client.get("/about", headers={"host": host}).status_code == 403

    @pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1", "[::1]:80", "[::1]", "LOCALHOST:8000"])
    def test_own_names_are_not(self, client, host):
        assert client.get("/health", headers={"host": host}).status_code == 200

    @pytest.mark.parametrize(
        "headers",
        [
            {"origin": "http://evil.example", "sec-fetch-site": "cross-site"},
            {"sec-fetch-site": "same-site"},
            {"origin": "http://evil.example"},
            {"origin": "http://localhost:9000"},
            {"origin": "null"},
        ],
    )
    def test_forms_of_other_sites_are_not_read(self, client, headers):
        answer = client.post("/search", files={"json": (None, '{"text": "a"}')}, headers=headers)
        assert (answer.status_code, answer.json()["detail"]) == (403, "pages of other sites may not ask this server")
        assert client.get("/", headers=headers).status_code == 200  # a link leads to the page

    @pytest.mark.parametrize("headers", [{"origin": BASE, "sec-fetch-site": "same-origin"}, {"origin": BASE}, {}])
    def test_forms_of_the_own_page_are(self, client, headers):
        assert client.post("/search", files={"json": (None, '{"text": "a"}')}, headers=headers).status_code == 200

    def test_other_sites_may_not_read(self, client):
        answer = client.options(
            "/search", headers={"origin": "http://evil.example", "access-control-request-method": "POST"}
        )
        assert answer.status_code == 403
        assert not [name for name in answer.headers if name.startswith("access-control")]

    def test_answers_are_not_guessed_at(self, client):
        headers = client.get("/health").headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in headers["content-security-policy"]


class TestToken:
    def read(self, path=None, **environment):
        return read_token(path, environment=environment)

    def test_from_a_file_or_the_environment(self, tmp_path):
        (tmp_path / "token").write_text(f"{TOKEN}\n")
        assert self.read(tmp_path / "token", TETHER_TOKEN="another-token-of-many") == TOKEN
        assert self.read(TETHER_TOKEN=TOKEN) == TOKEN
        assert self.read() is None

    @pytest.mark.parametrize("token", ["", "short-secret", "with spaces in all of it", "ümlaute-ümlaute-ümlaute"])
    def test_bad_ones_are_refused_and_not_quoted(self, tmp_path, token):
        (tmp_path / "token").write_text(token)
        with pytest.raises(InputError, match="expected a token") as refused:
            self.read(tmp_path / "token")
        assert not token or token not in str(refused.value)


class TestSearch:
    def search(self, client, **body):
        answer = client.post("/search", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def test_by_words_image_file_and_key(self, client, model):
        found = self.search(client, text="a cat", k=5)
        assert len(found["hits"]) == 5
        scores = [hit["score"] for hit in found["hits"]]
        assert scores == sorted(scores, reverse=True)
        assert found["nearest"] == pytest.approx(scores[0], abs=1e-5)
        by_uri = self.search(client, image=data_uri(), k=3)
        form = {"image": ("a.png", image_bytes(), "image/png")}
        by_file = client.post("/search", files=form, data={"json": json.dumps({"k": 3})}).json()
        assert by_file == by_uri
        like = self.search(client, key="../../etc/passwd", k=1)
        assert like["hits"][0]["key"] == "../../etc/passwd"
        assert like["hits"][0]["score"] == pytest.approx(1, abs=1e-5)

    def test_rows_are_plain_values(self, client):
        hit = next(one for one in self.search(client, text="a", k=12)["hits"] if one["key"].startswith("row 0/"))
        assert hit["texts"] == [HOSTILE]
        assert hit["meta"] == {"label": HOSTILE, "my year": 2000, "size": 0.5, "good": True, "when": "2022-01-08"}
        assert hit["image"]

    def test_nothing_above_the_cutoff(self, client):
        found = self.search(client, text="a cat", cutoff=0.9999)
        assert found["hits"] == []
        assert "nothing found: the best of 12 images" in found["nothing"]
        every = self.search(client, text="a cat", cutoff=-1)
        assert len(every["hits"]) == 12
        assert every["nothing"] is None

    def test_nothing_above_the_cutoff_among_those_that_pass_a_filter(self, client):
        filters = [{"column": "label", "value": "cat"}]
        found = self.search(client, text="a cat", cutoff=0.9999, filters=filters)
        assert "the best of those that pass the filter, of 12 images, scores" in found["nothing"]

    def test_words_that_no_caption_has_are_told(self, model, store):
        service = service_of(model, store=str(store), name="tiny")
        assert service.collection.words is None  # of random weights
        service.collection.words = WordCounts("digest", 200, 216, True, {"a": 3, "cat": 1})
        with TestClient(make_app(service), base_url=BASE) as client:
            assert self.search(client, text="a cat")["unseen"] == []
            (told,) = self.search(client, text="a submarine")["unseen"]
            assert "submarine is in none of the 216 captions" in told
            assert self.search(client, image=data_uri())["unseen"] == []

    @pytest.mark.parametrize(
        ("given", "rows"),
        [
            ({"column": "label", "value": "cat"}, 5),
            ({"column": "label", "value": HOSTILE}, 1),
            ({"column": "label", "op": "!=", "value": "cat"}, 7),
            ({"column": "label", "op": "in", "value": ["cat", "50%_dog"]}, 11),
            ({"column": "label", "op": "contains", "value": "50%_D"}, 6),
            ({"column": "label", "op": "contains", "value": "%"}, 6),
            ({"column": "label", "op": "contains", "value": "' OR '1'='1"}, 1),
            ({"column": "my year", "op": ">=", "value": 2010}, 2),
            ({"column": "my year", "op": "<", "value": 2000.5}, 1),
            ({"column": "my year", "op": ">", "value": 2000.5}, 11),
            ({"column": "my year", "op": ">", "value": 2000.0}, 11),
            ({"column": "size", "op": ">=", "value": 11}, 1),
            ({"column": "size", "value": 0.5}, 1),
            ({"column": "good", "value": True}, 4),
            ({"column": "label", "value": "none\\"}, 0),
            ({"column": "label", "value": "x'; DROP TABLE embeddings; --"}, 0),
        ],
    )
    def test_filters_only_filter(self, client, given, rows):
        found = self.search(client, text="a cat", filters=[given], k=50)
        assert len(found["hits"]) == rows
        assert rows or found["nothing"] == "no row passes the filter"

    @pytest.mark.parametrize(
        ("body", "status", "said"),
        [
            ({"text": "a", "image": data_uri()}, 400, "one of text, image and key, got text, image"),
            ({}, 400, "got none"),
            ({"text": "  "}, 400, "text: the text is empty"),
            ({"text": "a", "k": 1000}, 413, "at most 200"),
            ({"text": "a", "cutoff": "auto"}, 400, "auto is not known"),
            ({"text": "a", "cutoff": "high"}, 400, "cutoff"),
            ({"text": "a", "where": "1=1"}, 400, "body: unknown field 'where'; expected text, image, key"),
            ({"text": "a", "k": 10**4000}, 400, "k: Input should be less"),
            ({"key": "a" * 5000}, 400, "key"),
            ({"text": "a", "filters": [{"column": "a" * 5000, "value": "a"}]}, 400, "filters[0].column"),
            ({"text": "a", "filters": [{"column": "label", "value": []}]}, 400, "filters[0].value: expected a text"),
            ({"text": "a", "filters": [{"column": "label", "value": "y" * 2001}]}, 400, "at most 2,000 letters"),
            (
                {"text": "a", "filters": [{"column": "label", "op": "in", "value": ["y" * 2000] * 40}]},
                413,
                "filters: 80,171 letters; at most 65,536",
            ),
            ({"text": "a", "filters": [{"column": "label", "value": "a", "b": 1}]}, 400, "unknown field 'b'"),
            ({"text": "a", "filters": [{"column": "1=1 OR key", "value": "a"}]}, 400, "columns: key, label"),
            ({"text": "a", "filters": [{"column": "embedding", "value": "a"}]}, 400, "no column"),
            ({"text": "a", "filters": [{"column": "label", "op": "LIKE", "value": "a"}]}, 400, "op"),
            ({"text": "a", "filters": [{"column": "label", "value": 3}]}, 400, "expected a text, got 3"),
            ({"text": "a", "filters": [{"column": "my year", "value": 2000.5}]}, 400, "expected a whole number"),
            ({"text": "a", "filters": [{"column": "size", "value": True}]}, 400, "expected a number"),
            ({"text": "a", "filters": [{"column": "my year", "value": "1 OR 1=1"}]}, 400, "expected a whole number"),
            ({"text": "a", "filters": [{"column": "my year", "value": 10**400}]}, 400, "filters"),
            ({"text": "a", "filters": [{"column": "label", "op": "in", "value": "cat"}]}, 400, "list"),
            ({"key": "no such"}, 404, "no row of that key"),
        ],
    )
    def test_bad_input_has_a_detail(self, client, body, status, said):
        answer = client.post("/search", json=body)
        assert answer.status_code == status, answer.text
        assert said in answer.json()["detail"]

    def test_a_form_that_breaks_off(self, client):
        body = b'--x\r\ncontent-disposition: form-data; name="image"; filename="a.png"\r\n\r\nabc'
        answer = client.post("/search", content=body, headers={"content-type": "multipart/form-data; boundary=x"})
        assert (answer.status_code, "no field is whole" in answer.json()["detail"]) == (400, True)

    def test_without_a_store(self, model):
        with TestClient(make_app(service_of(model, name="tiny")), base_url=BASE) as client:
            answer = client.post("/search", json={"text": "a"})
            assert answer.status_code == 404
            assert "--store" in answer.json()["detail"]
            assert client.get("/about").json()["store"] is None

    def test_a_store_of_another_model_is_refused(self, store):
        with pytest.raises(InputError, match="between two models mean nothing"):
            service_of(other_model(), store=str(store))

    def test_no_such_store(self, model, tmp_path):
        with pytest.raises(InputError, match="no such store"):
            service_of(model, store=str(tmp_path / "none.db"))

    def test_a_store_that_is_gone_is_no_fault_of_the_client(self, model, store, tmp_path):
        gone = tmp_path / "photos.db"
        shutil.copytree(store, gone)
        with TestClient(make_app(service_of(model, store=str(gone), name="tiny")), base_url=BASE) as client:
            assert client.post("/search", json={"text": "a"}).status_code == 200
            gone.rename(tmp_path / "away.db")
            filters = [{"column": "label", "value": "cat"}]
            for answer in (
                client.post("/search", json={"text": "a"}),
                client.post("/search", json={"text": "a", "filters": filters}),
                client.post("/search", json={"key": "row 0/ä?.jpg"}),
                client.get("/thumbnail/row%200%2F%C3%A4%3F.jpg"),
            ):
                assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
                assert "photos.db" not in answer.text
            (tmp_path / "away.db").rename(gone)
            assert client.post("/search", json={"text": "a"}).status_code == 200

    def test_columns_and_their_values_are_told(self, client):
        told = client.get("/about").json()
        columns = {one["name"]: one for one in told["store"]["columns"]}
        assert columns["label"]["values"] == sorted(["cat", "50%_dog", HOSTILE])
        assert columns["good"]["values"] == [False, True]
        assert columns["my year"] == {"name": "my year", "kind": "integer", "values": None}
        assert "thumbnail" not in columns
        assert told["limits"]["letters"] == 1000


def other_model():
    model = tether.load("tiny", random_weights=True)
    with torch.no_grad():
        next(model.parameters()).add_(1)
    return model


class TestThumbnails:
    def test_of_a_key_with_all_sorts_of_letters(self, client):
        answer = client.get("/thumbnail/row%200%2F%C3%A4%3F.jpg")
        assert answer.headers["content-type"] == "image/jpeg"
        assert Image.open(io.BytesIO(answer.content)).format == "JPEG"

    def test_what_is_no_image_is_not_given_out(self, client):
        answer = client.get("/thumbnail/row%2010%2F%C3%A4%3F.jpg")
        assert answer.status_code == 404
        assert "script" not in answer.text

    def test_large_ones_come_from_the_folder_of_images(self, model, store, tmp_path):
        rows = Store.open(store).records([f"row {i}/ä?.jpg" for i in range(4)])
        paths = ["a.png", "../secret.png", "broken.png", "none.png"]
        rows = rows.append_column("path", pa.array(paths)).replace_schema_metadata(rows.schema.metadata)
        Store.create(tmp_path / "a.db", schema=rows.schema, rows=[rows])
        photos = tmp_path / "photos"
        photos.mkdir()
        (photos / "a.png").write_bytes(image_bytes(size=(3200, 800)))
        (photos / "broken.png").write_bytes(b"<script>")
        (tmp_path / "secret.png").write_bytes(image_bytes(size=(500, 500)))
        service = service_of(model, store=str(tmp_path / "a.db"), name="tiny", images=photos)
        with TestClient(make_app(service), base_url=BASE) as client:
            sizes = []
            for i in range(4):
                answer = client.get(f"/image/row%20{i}%2F%C3%A4%3F.jpg")
                if answer.status_code == 200:
                    assert answer.headers["content-type"] == "image/jpeg"
                    sizes.append(Image.open(io.BytesIO(answer.content)).size)
                else:
                    sizes.append(answer.status_code)
                    assert str(tmp_path) not in answer.text
            assert sizes == [(1600, 400), (64, 48), 404, (64, 48)]
            assert client.get("/image/no-such-key").status_code == 404
            assert client.get("/about").json()["store"]["large"]

    def test_large_ones_are_the_thumbnails_without_a_folder(self, client):
        small, large = (client.get(f"/{kind}/row%200%2F%C3%A4%3F.jpg") for kind in ("thumbnail", "image"))
        assert small.content == large.content
        assert client.get("/image/row%2011").status_code == 404

    @pytest.mark.parametrize("key", ["..%2F..%2Fetc%2Fpasswd", "none", "%2Fetc%2Fpasswd", "%00", "row' OR 1=1 --"])
    def test_no_key_leads_to_a_file(self, client, key):
        assert client.get(f"/thumbnail/{key}").status_code == 404


class TestOtherTasks:
    def test_classes(self, client, model):
        form = [("images", ("a.png", image_bytes(), "image/png"))]
        body = {"classes": ["a cat", "a dog", HOSTILE], "top": 2, "images": [data_uri()]}
        found = client.post("/classify", files=form, data={"json": json.dumps(body)}).json()["images"]
        assert len(found) == 2
        assert found[0]["label"] == found[0]["ranked"][0]["name"]
        assert len(found[0]["ranked"]) == 2
        again = client.post(
            "/classify", json={"classes": ["a cat", "a dog", HOSTILE], "images": [data_uri()], "top": 2}
        )
        assert again.json()["images"][0]["label"] == found[0]["label"]

    def test_classes_of_several_images_at_once_are_those_of_each(self, client):
        uris = [data_uri(image_bytes((10 * i, 200 - 10 * i, 99))) for i in range(4)]
        body = {"classes": ["a cat", "a dog", "a bird"], "top": 3}
        together = client.post("/classify", json={**body, "images": uris}).json()["images"]
        for one, uri in zip(together, uris, strict=True):
            (alone,) = client.post("/classify", json={**body, "images": [uri]}).json()["images"]
            for a, b in zip(one["ranked"], alone["ranked"], strict=True):
                assert {**a, "confidence": 0, "cosine": 0} == {**b, "confidence": 0, "cosine": 0}
                assert a["cosine"] == pytest.approx(b["cosine"], abs=1e-4)

    def test_masks(self, client):
        found = client.post("/segment", json={"image": data_uri(), "classes": ["a cat", "a dog"]}).json()
        assert found["size"] == [48, 64]
        assert sum(found["areas"].values()) == pytest.approx(1)
        mask = Image.open(io.BytesIO(base64.b64decode(found["mask"].partition(",")[2])))
        assert mask.size == (64, 48)

    def test_defects(self, client):
        found = client.post("/detect", json={"image": data_uri(), "name": "tile"}).json()
        assert 0 <= found["score"] <= 1
        assert found["heat"].startswith("data:image/png;base64,")

    def test_a_model_that_cannot_says_why(self):
        with TestClient(make_app(service_of(NoPatches(), name="odd")), base_url=BASE) as client:
            for path, more in (("/segment", {"classes": ["a", "b"]}), ("/detect", {})):
                answer = client.post(path, json={"image": data_uri(), **more})
                assert answer.status_code == 422, answer.text
                assert "this model cannot do that" in answer.json()["detail"]

    @pytest.mark.parametrize("path", ["/segment", "/detect"])
    def test_of_two_images_none_is_left_out(self, client, path):
        body = {"image": data_uri()} | ({"classes": ["a", "b"]} if path == "/segment" else {})
        form = {"image": ("a.png", image_bytes(), "image/png")}
        answer = client.post(path, files=form, data={"json": json.dumps(body)})
        assert (answer.status_code, "got 2" in answer.json()["detail"]) == (400, True)

    @pytest.mark.parametrize(
        ("path", "body", "status", "said"),
        [
            ("/classify", {"classes": ["a"], "images": []}, 400, "expected an image"),
            ("/classify", {"classes": [], "images": [data_uri()]}, 400, "at least 1"),
            ("/classify", {"classes": ["a" * 1001], "images": [data_uri()]}, 413, "1,001 letters"),
            ("/classify", {"classes": ["a"] * 201, "images": [data_uri()]}, 413, "at most 200"),
            ("/classify", {"classes": ["a", "a"], "images": [data_uri()]}, 400, "a"),
            ("/classify", {"classes": ["a"], "images": [data_uri()], "templates": ["no place"]}, 400, "{}"),
            ("/segment", {"classes": ["a"], "image": data_uri()}, 400, "at least 2"),
            ("/segment", {"classes": ["a", "b"], "image": data_uri(image_bytes(size=(100, 100)))}, 413, "pixels"),
            (
                "/segment",
                {"classes": list(map(str, range(100))), "image": data_uri(image_bytes(size=(40, 40)))},
                413,
                "pixels",
            ),
            ("/detect", {}, 400, "image: expected an image, as a data URI or as a file of a form, got none"),
            ("/detect", {"name": " ", "image": data_uri()}, 400, "name: the text is empty"),
        ],
    )
    def test_bad_input(self, client, path, body, status, said):
        answer = client.post(path, json=body)
        assert answer.status_code == status, answer.text
        assert said in answer.json()["detail"]


class NoPatches(torch.nn.Module):
    """Sees the mean colour and no patches."""

    def __init__(self):
        super().__init__()
        self.dim, self.image_spec, self.logit_bias = 3, ImageSpec((8, 8)), None
        self.logit_scale = torch.nn.Parameter(torch.tensor(10.0))
        self.tokenizer = tether.load("tiny", random_weights=True).tokenizer

    def encode_image(self, image, *, mask=None):
        return Features(image.float().mean(dim=(2, 3)) + 1)

    def encode_text(self, text, *, mask=None):
        return Features(torch.stack([text.float().mean(1), text.float().amax(1), text.float().amin(1)], 1))


class TestUrls:
    @pytest.fixture(scope="class")
    def open_client(self, model):
        service = service_of(model, name="tiny", limits=LIMITS, allow_urls=True)
        with TestClient(make_app(service), base_url=BASE) as client:
            yield client, service

    @pytest.mark.parametrize(
        "host",
        ["127.0.0.1:9", "localhost:9", "[::1]:9", "169.254.169.254", "10.0.0.1", "224.0.0.1", "[::ffff:10.0.0.1]"],
    )
    def test_no_address_of_this_network_is_connected_to(self, open_client, host, monkeypatch):
        tried = []
        monkeypatch.setattr("socket.create_connection", lambda *given, **_: tried.append(given))
        answer = embed(open_client[0], {"image": f"http://{host}/a.png"})
        assert answer.status_code == 400
        assert "is not a public host" in answer.json()["error"]["message"]
        assert not tried

    @pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://example.com/a.png", "s3://bucket/a.png", "/a.png"])
    def test_other_protocols_are_not_spoken(self, open_client, url):
        assert "expected a data URI" in embed(open_client[0], {"image": url}).json()["error"]["message"]

    def test_what_is_fetched_is_bounded_and_read_as_any_image(self, open_client, monkeypatch):
        client, service = open_client
        asked = []
        monkeypatch.setattr(
            service.images,
            "_get",
            lambda url, *, limit, seconds: (asked.append((url, limit, seconds)), image_bytes())[1],
        )
        found = floats(embed(client, {"image": "https://example.com/a.png"}))
        assert asked == [("https://example.com/a.png", LIMITS.request_bytes, 15.0)]
        torch.testing.assert_close(found, floats(embed(client, {"image": data_uri()})), atol=1e-5, rtol=0)


class TestPages:
    def test_nothing_is_loaded_from_elsewhere(self, client):
        for path in ("/", "/docs", "/page.js", "/page.css"):
            text = client.get(path).text
            assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
            assert "https://" not in text
        assert "innerHTML" not in client.get("/page.js").text

    def test_the_api_is_described(self, client):
        paths = client.get("/openapi.json").json()["paths"]
        assert {"/v1/embeddings", "/search", "/classify", "/segment", "/detect"} <= set(paths)
        assert "POST /search" in client.get("/docs").text

    def test_metrics(self, client):
        embed(client, "a cat")
        client.get("/" + "no-such-path")
        text = client.get("/metrics").text
        assert 'tether_requests_total{route="/v1/embeddings",status="200"}' in text
        assert 'tether_rows_total{kind="text"}' in text
        assert "tether_queue_rows 0.0" in text
        assert "no-such-path" not in text

    def test_a_path_that_is_none(self, client):
        assert client.get("/v1/none").json()["error"]["type"] == "not_found_error"
        assert client.get("/none").json()["detail"] == "Not Found"
        assert client.get("/search").status_code == 405
