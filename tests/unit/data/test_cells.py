"""What the cells of a table may name: files below its folder, public hosts where allowed, and nothing else."""

import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tables import rows_of, square
from tether.core.errors import InputError
from tether.data import open_source
from tether.data.curate.pools.opening import open_pool
from tether.data.images import decode
from tether.data.remote import fetch, is_public
from tether.data.sources.columns import Reach


def everything(_):
    return True


class _Answers(BaseHTTPRequestHandler):
    def do_GET(self):
        where = {"/to": "/a.png", "/to-file": "file:///etc/passwd", "/loop": "/loop", "/to-ftp": "ftp://host/a.png"}
        self.send_response(302 if self.path in where else 404 if self.path == "/none" else 200)
        if self.path in where:
            self.send_header("Location", where[self.path])
        self.end_headers()
        for _ in range(100 if self.path == "/endless" else 1):
            self.wfile.write(b"x" * 1000 if self.path == "/endless" else square())
        while self.path == "/slow" and not self.server.over.wait(0.05):
            self.wfile.write(b"x")

    def log_message(self, *_):
        pass


@pytest.fixture
def table(tmp_path):
    folder = tmp_path / "table"
    folder.mkdir()
    for path in ("secret.png", "table/a.png"):
        (tmp_path / path).write_bytes(square())
    (folder / "out.png").symlink_to(tmp_path / "secret.png")
    (folder / "in.png").symlink_to(folder / "a.png")
    return folder


@pytest.fixture
def host():
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Answers)
    server.over = threading.Event()
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.over.set()
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("address", "public"),
    [
        *((each, True) for each in ("8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8")),
        *((each, False) for each in ("127.0.0.1", "10.1.2.3", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1")),
        *((each, False) for each in ("::1", "fe80::1%eth0", "fd00::1", "ff02::1", "fec0::1", "::ffff:127.0.0.1")),
        *((each, False) for each in ("2002:7f00:1::", "64:ff9b::10.0.0.1", "2001:0:1::", "240.0.0.1", "::127.0.0.1")),
    ],
)
def test_which_addresses_are_public(address, public):
    assert is_public(address) is public


def test_a_public_host_is_read_with_its_redirects_and_limits(host):
    assert fetch(f"{host}/a.png", allowed=everything) == fetch(f"{host}/to", allowed=everything) == square()
    assert fetch(f"{host}/to", trusted=host.removeprefix("http://")) == square()
    for path, message in {
        "endless": "more than 5,000 bytes",
        "slow": "takes too long|breaks off",
        "none": "the answer is 404",
        "loop": "redirects",
        "to-file": "no http or https URL",
        "to-ftp": "no http or https URL",
    }.items():
        with pytest.raises(InputError, match=message):
            fetch(f"{host}/{path}", allowed=everything, limit=5000, seconds=0.5 if path == "slow" else 20)


def test_private_hosts_are_refused_by_name_address_and_redirect(host):
    port = host.rpartition(":")[2]
    for url in (host, f"http://localhost:{port}", f"http://2130706433:{port}", f"http://[::ffff:127.0.0.1]:{port}"):
        with pytest.raises(InputError, match=r"not a public host|cannot read it"):
            fetch(f"{url}/a.png")
    asked = []
    with pytest.raises(InputError, match="not a public host"):  # each redirect's address is asked for anew
        fetch(f"{host}/to", allowed=lambda address: asked.append(address) or len(asked) < 2)
    assert asked == ["127.0.0.1"] * 2
    with pytest.raises(InputError, match=r"cannot read it: (ConnectionRefusedError|Connection refused)"):
        fetch("http://127.0.0.1:1/a.png", allowed=everything)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../secret.png", "outside"),
        ("{folder}/../secret.png", "outside"),
        ("/etc/hostname", "outside .*root=FOLDER"),
        ("out.png", "outside"),  # a link that leads out
        ("file:///etc/hostname", "not opened"),
        ("memory://x/a.png", "not opened"),
        ("reference://::file://a.json", "chains"),
        ("simplecache::https://host/a.png", "chains"),
        ("https://host/a.png", "remote_images=true"),
        ("s3://bucket/a.png", "remote_images=true"),
        ("a\0.png", "not the name of a file"),
        ("\ud800.png", "not the name of a file|no such file"),
        ("x" * 5000, "not the name of a file"),
        ("~nouser/a.png", "no such file"),
    ],
)
def test_a_name_that_leads_elsewhere_is_refused(table, name, message):
    with pytest.raises(InputError, match="(?i)" + message):
        decode(Reach((str(table),)).open(name.format(folder=table)))


def test_such_a_name_is_one_bad_row_of_a_table(table):
    names = ["a.png", "in.png", str(table / "a.png")]
    wrong = ["../secret.png", "out.png", "/etc/hostname", "https://host/a.png", "x::file:///etc/hostname"]
    pq.write_table(pa.table({"image": names + wrong, "caption": ["x"] * 8}), table / "a.parquet")
    (table / "a.csv").write_text("image,caption\n" + "".join(f"{name},x\n" for name in names + wrong))
    for kind in ("csv", "parquet"):
        rows = rows_of(open_source(str(table / f"a.{kind}")))
        assert [decode(row.image).shape for row in rows[:3]] == [(3, 6, 6)] * 3
        assert [bool(row.bad) and row.image is None for row in rows[3:]] == [True] * 5
    (found,) = open_pool(str(table / "a.parquet")).read(0, columns="captions", extra=["image"])
    assert found.extra["image"].to_pylist() == [square()] * 3 + [None] * 5


def test_the_user_moves_the_folder_and_allows_remote_images(tmp_path, host, monkeypatch):
    (tmp_path / "lists").mkdir()
    (tmp_path / "a.png").write_bytes(square())
    lines = ["image,caption", "a.png,x", f"{tmp_path}/a.png,y", f"{host}/a.png,z"]
    (tmp_path / "lists" / "a.csv").write_text("\n".join(lines) + "\n")
    given = f"csv:path={tmp_path}/lists/a.csv,root={tmp_path},remote_images="
    near, absolute, remote = rows_of(open_source(given + "false"))
    assert decode(near.image).shape == decode(absolute.image).shape == (3, 6, 6)
    assert "remote_images=true" in remote.bad
    assert "not a public host" in rows_of(open_source(given + "true"))[2].bad
    assert Reach((str(tmp_path),), remote=True, allowed=everything).open(f"{host}/a.png") == square()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lists" / "a.csv").write_text("image,caption\na.png,x\n")
    with pytest.raises(InputError, match="say root="):
        rows_of(open_source("lists/a.csv"))


@pytest.mark.parametrize("name", ["../b.png", "%2e%2e/b.png", "/b.png", "http://127.0.0.1:1/b.png", "x::file:///b.png"])
def test_a_table_behind_a_url_reaches_its_own_folder_only(host, name):
    reach = Reach((f"{host}/tables",))
    assert reach.open("a.png") == square()  # a host that the user named may be private
    with pytest.raises(InputError):
        reach.open(name)


def test_a_path_of_nobody_is_an_input_error(tmp_path):
    for path in ("~nouser/x.csv", "x" * 5000 + ".csv", "a\0.csv"):
        with pytest.raises(InputError):
            open_source(path)
    os.mkfifo(tmp_path / "a.png")
    for path in (tmp_path / "a.png", "a\0.png", "x" * 5000, "\ud800.png", tmp_path):
        with pytest.raises(
            InputError, match=r"(?i)not a regular file|not the name|too long|is a directory|no such file"
        ):
            decode(path)
