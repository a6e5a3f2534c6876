"""Models of the hub: published with a card and loaded by name, through the library's own calls, to and from a server on
this machine that speaks the hub's protocol."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from mt.errors import UserError
from mt.model.card import model_card
from mt.model.directory import load_model
from mt.model.hub import is_hub_name

ROOT = Path(__file__).resolve().parents[3]
SHA = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Repositories of one commit; all files are regular ones."""

    repositories: dict[str, dict[str, bytes]]
    private: dict[str, Any]


class Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def answer_json(self, content: Any, status: int = 200) -> None:
        self.answer(json.dumps(content).encode(), status, Content_Type="application/json")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        endpoint = f"http://127.0.0.1:{self.server.server_port}"
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            self.server.private[name] = asked.get("visibility") or asked.get("private")
            self.server.repositories.setdefault(name, {})
            self.answer_json({"url": f"{endpoint}/{name}", "name": name})
            return
        if self.path == "/api/validate-yaml":
            self.answer_json({"errors": [], "warnings": []})
            return
        name = "/".join(self.path.split("/")[3:5])
        if self.path.endswith("/preupload/main"):
            asked = json.loads(body)["files"]
            self.answer_json({"files": [{**each, "uploadMode": "regular", "shouldIgnore": False} for each in asked]})
        elif "/commit/main" in self.path:
            for line in body.splitlines():
                each = json.loads(line)
                if each["key"] == "file":
                    content = base64.b64decode(each["value"]["content"])
                    self.server.repositories[name][each["value"]["path"]] = content
            self.answer_json({"commitOid": SHA, "commitUrl": f"{endpoint}/{name}/commit/{SHA}"})
        else:
            self.answer_json({"error": f"not known: {self.path}"}, 404)

    def do_GET(self) -> None:
        parts = self.path.partition("?")[0].strip("/").split("/")
        name = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
        files = self.server.repositories.get(name)
        if files is None:
            self.answer(b"", 404, X_Error_Code="RepoNotFound")
        elif parts[0] == "api" and "tree" in parts:
            listed = [{"type": "file", "path": path, "size": len(of), "oid": path} for path, of in files.items()]
            self.answer_json(listed)
        elif parts[0] == "api":
            siblings = [{"rfilename": path} for path in files]
            self.answer_json(
                {"id": name, "sha": SHA, "siblings": siblings, "private": False, "tags": [], "downloads": 0}
            )
        elif "/".join(parts[4:]) in files:
            content = files["/".join(parts[4:])]
            digest = hashlib.sha1(content).hexdigest()
            self.answer(content, ETag=f'"{digest}"', X_Repo_Commit=SHA, Content_Type="application/octet-stream")
        else:
            self.answer(b"", 404, X_Error_Code="EntryNotFound")

    do_HEAD = do_GET


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub(("127.0.0.1", 0), Answers)
    server.repositories, server.private = {}, {}
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    thread.join()


def call(code: str, endpoint: str, folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: the library reads the address of the hub when it is imported."""
    environment = {"HF_ENDPOINT": endpoint, "HF_HOME": str(folder / "hf"), "PYTHONPATH": str(ROOT), **more}
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, check=False, timeout=120
    )


PUBLISH = """
from mt import load
print(load("{model}").push_to_hub("people/model", {evaluation}, licence="apache-2.0", private=True, token="t"))
"""
LOAD = """
from mt import load
translator = load("people/model{revision}")
print(translator.loaded.meta["weights_blake2b"], len(list(translator.translate(["a b"]))))
"""


def evaluation_of(model: Path, folder: Path) -> Path:
    """A folder with results.json as evaluate would have written it, as far as a card reads it."""
    score = {"score": 12.345, "low": 11.0, "high": 13.0, "signature": "nrefs:1|x:`y`"}
    block = {"ece": 0.0461, "noise_floor": 0.0069, "confidence": 0.95, "accuracy": 0.91, "signature": "ece|bins:15"}
    results = {
        **dict.fromkeys(("bleu", "chrf", "ter"), score),
        "calibration": {"teacher_forced": block, "inference": block},
        "model": {"fingerprint": load_model(model, "cpu").meta["weights_blake2b"]},
        "data": {"lines": 1000, "references": ["a: b|c.en"], "fingerprints": {"test.en": "abc"}},
        "files": {},
    }
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps(results))
    return folder


@pytest.mark.slow
def test_a_published_model_is_loaded_by_name_with_its_card_beside_it(
    tiny_model: Path, tmp_path: Path, hub: Hub
) -> None:
    endpoint = f"http://127.0.0.1:{hub.server_port}"
    evaluation = evaluation_of(tiny_model, tmp_path / "evaluation")
    (tiny_model / "training.safetensors").write_bytes(b"the optimiser's")
    (tiny_model / "shortlist.safetensors").write_bytes(b"{}")
    (tiny_model / "evil.py").write_text("raise SystemExit")
    done = call(PUBLISH.format(model=tiny_model, evaluation=repr(str(evaluation))), endpoint, tmp_path)
    assert (done.returncode, done.stdout) == (0, f"{endpoint}/people/model\n"), done.stderr
    files = hub.repositories["people/model"]
    assert {*files} == {*load_model(tiny_model, "cpu").meta["files"], "meta.json", "README.md", "shortlist.safetensors"}
    assert hub.private == {"people/model": "private"} or hub.private == {"people/model": True}
    head = yaml.safe_load(files["README.md"].decode().split("---\n")[1])
    assert (head["language"], head["license"]) == (["de", "en"], "apache-2.0")
    assert head["model-index"][0]["results"][0]["metrics"][0] == {"type": "bleu", "value": 12.35, "name": "BLEU"}
    assert files.pop("shortlist.safetensors") == b"{}"
    hub.repositories["people/model"] |= {
        "evil.py": b"raise SystemExit",
        "onnx/model.safetensors": b"x",
        "training.safetensors": b"x",
    }
    done = call(LOAD.format(revision=""), endpoint, tmp_path)
    assert done.stdout == f"{load_model(tiny_model, 'cpu').meta['weights_blake2b']} 1\n", done.stderr
    for other in ("evil.py", "onnx", "training.safetensors"):
        assert not list((tmp_path / "hf").rglob(other))
    hub.server_close()
    again = call(LOAD.format(revision=""), endpoint, tmp_path)  # from the cache
    assert again.stdout == done.stdout, again.stderr
    offline = call(LOAD.format(revision=f"@{SHA}"), endpoint, tmp_path, HF_HUB_OFFLINE="1")
    assert offline.stdout == done.stdout, offline.stderr


def test_a_damaged_file_of_the_hub_is_refused(tiny_model: Path, tmp_path: Path, hub: Hub) -> None:
    endpoint = f"http://127.0.0.1:{hub.server_port}"
    hub.repositories["people/model"] = {path.name: path.read_bytes() for path in tiny_model.iterdir()}
    hub.repositories["people/model"]["config.yaml"] += b"\n# changed\n"
    done = call(LOAD.format(revision=""), endpoint, tmp_path)
    assert "config.yaml: was changed or damaged" in done.stderr


def test_without_a_network_one_line_comes_in_seconds(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{free.getsockname()[1]}"
    code = (
        "import sys; from mt.cli.commands import main; sys.argv = ['mt', 'translate', 'people/model']; sys.exit(main())"
    )
    began = time.monotonic()
    done = call(code, endpoint, tmp_path)
    assert done.returncode == 2 and time.monotonic() - began < 30
    assert done.stderr.startswith("error: people/model: no such folder here, and the hub gives no such model (")
    assert done.stderr.count("\n") == 1


def test_an_evaluation_of_another_model_is_not_published(tiny_model: Path, tmp_path: Path) -> None:
    from mt.decoding.translator import Translator

    evaluation = evaluation_of(tiny_model, tmp_path / "evaluation")
    path = evaluation / "results.json"
    path.write_text(path.read_text().replace('"fingerprint": "', '"fingerprint": "x'))
    with pytest.raises(UserError, match="is of another model"):
        Translator(load_model(tiny_model, "cpu")).push_to_hub("people/model", evaluation)
    with pytest.raises(UserError, match="ORGANISATION/MODEL"):
        Translator(load_model(tiny_model, "cpu")).push_to_hub("model")


def test_what_stands_in_results_is_no_markup_of_the_card(tiny_model: Path, tmp_path: Path) -> None:
    results = json.loads((evaluation_of(tiny_model, tmp_path / "evaluation") / "results.json").read_text())
    loaded = load_model(tiny_model, "cpu")
    card = model_card(loaded.config, loaded.meta, "people/m<b>", results)
    assert "| bleu | 12.35 | [11.00, 13.00] | `nrefs:1\\|x:'y'` |" in card.splitlines()
    assert "# people/m\\<b\\>" in card.splitlines()
    assert yaml.safe_load(card.split("---\n")[1])["model-index"][0]["results"][0]["dataset"]["name"] == "a: b|c.en"


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("people/model", True),
        ("people/model@v1.0", True),
        ("here/model", False),
        ("a/b/c", False),
        ("/tmp/x", False),
        ("x", False),
    ],
)
def test_a_name_of_the_hub_is_no_path(name: str, is_one: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    assert is_hub_name(Path(name)) == is_one


@pytest.mark.parametrize("name", ["../o", "a/b", "/dev/zero", "*", "", "a\\b", ".."])
def test_a_listing_names_nothing_outside_its_folder(name: str, tiny_model: Path) -> None:
    meta = json.loads((tiny_model / "meta.json").read_text())
    meta["files"][name] = "0"
    (tiny_model / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(UserError, match="no name of a file beside it"):
        load_model(tiny_model, "cpu")
