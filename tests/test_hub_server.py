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


@pytest.mark.parametrize("token", ["nobody", "other", "owner"])
@pytest.mark.parametrize("kind", ["public", "private", "gated", "missing"])
def test_reading_follows_the_rules(hub: HubServer, kind: str, token: str) -> None:
    if kind != "missing":
        hub.seed(REPO, {"a": b"1"}, private=kind == "private", gated=kind == "gated")
    given = {"nobody": False, "other": hub.other_token, "owner": hub.token}[token]
    if kind == "public" or (token == "owner" and kind != "missing"):
        assert fetch("a", token=given) == b"1"
        return
    with pytest.raises(errors.GatedRepoError if kind == "gated" else errors.RepositoryNotFoundError):
        fetch("a", token=given)


def test_a_flipped_byte_passes_the_client_unseen(hub: HubServer) -> None:
    hub.seed(REPO, FILES)
    fault = hub.fail("safetensors", corrupt=1000, times=1)
    got = fetch()
    assert [at for at in range(len(WEIGHTS)) if got[at] != WEIGHTS[at]] == [1000]
    assert fetch(force_download=True) == WEIGHTS
    assert fault.count == 1


@pytest.mark.parametrize(
    ("what", "asked"),
    [({"status": 403}, 1), ({"reset_after": 1000}, 1), ({"truncate": 1000, "times": 1}, 2), ({"extra_body": b"!"}, 1)],
)
def test_faults_fall_on_the_host_of_the_large_files(hub: HubServer, what: dict[str, Any], asked: int) -> None:
    hub.seed(REPO, FILES)
    fault = hub.fail("safetensors", cdn_only=True, **what)
    if "times" in what:
        assert fetch() == WEIGHTS
    else:
        with pytest.raises(Exception, match=r"403|reset|[Cc]onsistency|^$"):
            fetch()
    bodies = [request for request in hub.requests if request.method == "GET" and "/cdn/" in request.path]
    assert (len(bodies), fault.count) == (asked, 1)


def test_the_server_goes_away_in_a_download_and_comes_back_as_it_was(hub: HubServer) -> None:
    hub.seed(REPO, FILES)
    endpoint = hub.endpoint
    hub.stop_after(100_000)
    with pytest.raises(Exception, match=r"."):
        fetch()
    assert not hub.running
    hub.start()
    assert (hub.endpoint, fetch()) == (endpoint, WEIGHTS)


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
