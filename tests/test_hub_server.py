"""The loopback Hub, asked by the unmodified client alone: it refuses and fails as told, and does not hide its bugs."""

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import errors, hf_hub_download

from tests.hub_fixtures import hub_environment
from tests.hub_server.server import HubServer

REPO = "owner/net"
WEIGHTS = random.Random(0).randbytes(200_000)
FILES = {"config.json": b'{"format": 1}', "model.safetensors": WEIGHTS}


def fetch(name: str = "model.safetensors", **options: Any) -> bytes:
    return Path(hf_hub_download(REPO, name, **options)).read_bytes()


def test_a_flipped_byte_passes_the_client_unseen(hub: HubServer) -> None:
    hub.seed(REPO, FILES)
    fault = hub.fail("safetensors", corrupt=1000, times=1)
    got = fetch()
    assert [at for at in range(len(WEIGHTS)) if got[at] != WEIGHTS[at]] == [1000]
    assert fetch(force_download=True) == WEIGHTS
    assert fault.count == 1


def test_a_fresh_process_has_the_hub_and_no_token(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.seed(REPO, {"a": b"1"})
    monkeypatch.setenv("HF_TOKEN", "hf_developer")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code = f"import huggingface_hub as h; print(open(h.hf_hub_download({REPO!r}, 'a')).read(), h.get_token())"
    environment = hub_environment(hub, tmp_path / "fresh")
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("1 None\n", 0), done.stderr
    assert [request.authorization for request in hub.requests] == [None, None]


def test_a_bug_of_the_server_does_not_pass_for_a_fault(hub: HubServer) -> None:
    with pytest.raises(ZeroDivisionError), HubServer() as server:
        server.seed(REPO, {"a": b"1"})
        server.on_request.append(lambda request: 1 // 0)
        with pytest.raises(errors.LocalEntryNotFoundError):
            fetch("a", endpoint=server.endpoint)
