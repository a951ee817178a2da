"""What a run's record names is read on this machine; nothing is asked of another one unless the user says so."""

import http.server
import json
import threading

import pytest
import yaml

from tether.cli import main
from tether.core.errors import InputError
from tether.data.recorded import open_recorded
from tether.evaluate import report
from tether.workflows.learnt import learnt_from, remark

pytestmark = pytest.mark.slow


@pytest.fixture
def asked():
    """A server on loopback; what is yielded lists the requests that it gets, and its address."""
    requests = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            body = b"file,caption\na.jpg,a\n"
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_HEAD(self):
            self.do_GET()

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", requests
    server.shutdown()
    server.server_close()


def _elsewhere(host, folder):
    (folder / "list.json").write_text(json.dumps(["s3://bucket/a.tar"]))
    return {
        "url": f"{host}/table.csv",
        "chained": f"simplecache::{host}/table.csv",
        "mapping": {"name": "csv", "path": f"{host}/table.csv"},
        "root": {"name": "csv", "path": "table.csv", "root": host},
        "hub": "hf:owner/name",
        "hub by keyword": {"name": "hf", "path": "owner/name"},
        "nested hub": {"name": "split", "source": {"name": "hf", "path": "owner/name"}, "part": "train"},
        "in a word": "split:source=hf:owner/name,part=test",
        "remote images": {"name": "csv", "path": "table.csv", "remote_images": True},
        "manifest": str(folder / "list.json"),
        "manifest by slash": {"name": "csv", "path": f"{folder / 'list.json'}/"},
        "manifest in a word": f"csv:path={folder / 'list.json'},image=file",
        "bucket": "s3://bucket/pairs-{000..100}.tar",
    }


KINDS = [
    "url", "chained", "mapping", "root", "hub", "hub by keyword", "nested hub", "in a word", "remote images",
    "manifest", "manifest by slash", "manifest in a word", "bucket",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_elsewhere_is_opened(kind, asked, tmp_path):
    host, requests = asked
    spec = _elsewhere(host, tmp_path)[kind]
    with pytest.raises(InputError, match=r"^here: leads to .*not read unasked; if you trust it: type this"):
        open_recorded(spec, where="here", instead="type this")
    assert requests == []


@pytest.mark.parametrize("kind", KINDS)
def test_no_reader_of_a_record_follows_it(kind, asked, tmp_path):
    host, requests = asked
    spec = _elsewhere(host, tmp_path)[kind]
    run = tmp_path / "run"
    run.mkdir()
    record = {"model": {"size": "tiny"}, "data": spec, "steps": 2, "evaluate": {"source": spec}}
    (run / "config.yaml").write_text(yaml.safe_dump(record))
    with pytest.raises(InputError, match=r"config\.yaml: evaluate\.source: leads to .*tether report .* --source"):
        report.write(run)
    digits = open_recorded("digits", where="here")
    assert remark(str(run), digits) == ""
    assert learnt_from(str(run), digits, most=2) == 0
    with pytest.raises(SystemExit) as ended:
        main(["train", "--resume", "--out", str(run)])
    assert ended.value.code == 2
    assert requests == []


def test_a_folder_of_this_machine_is_not_downloaded_as_its_readme_says(asked, tmp_path):
    host, requests = asked
    (tmp_path / "state.json").symlink_to(tmp_path / "nothing")
    files = {"config_name": "default", "data_files": f"{host}/x.parquet"}
    (tmp_path / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': [files]})}---\n")
    with pytest.raises(InputError, match="cannot open it"):
        open_recorded(str(tmp_path), where="here")
    assert requests == []


def test_files_of_this_machine_are_opened(tmp_path):
    (tmp_path / "words.txt").write_text("a word\nhttp is one\n")
    assert open_recorded("digits", where="here").name.startswith("digits")
    assert open_recorded({"name": "digits", "split": "test"}, where="here").name.startswith("digits")
