"""The loopback Hub, asked by the unmodified client alone: it keeps what it is given, and refuses and fails as told."""

import hashlib
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi, constants, errors, hf_hub_download, snapshot_download

from tests.hub_fixtures import hub_environment, use_hub
from tests.hub_server.messages import Request
from tests.hub_server.server import HubServer

REPO = "owner/net"
MEBIBYTE = 1 << 20
CARD = b"---\nlicense: mit\ntags:\n- blur\nmodel-index:\n- name: net\n  results: []\n---\n# Net\n"
WEIGHTS = random.Random(0).randbytes(200_000)
FILES = {"README.md": CARD, "config.json": b'{"format": 1}', "model.safetensors": WEIGHTS, "figures/a.png": b"\x89PNG"}


@pytest.fixture
def api(hub: HubServer) -> HfApi:
    return HfApi(token=hub.token)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for path, data in FILES.items():
        (tmp_path / "folder" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / path).write_bytes(data)
    return tmp_path / "folder"


def push(api: HfApi, folder: Path, **options: Any) -> str:
    api.create_repo(REPO, exist_ok=True)
    return str(api.upload_folder(repo_id=REPO, folder_path=folder, **options).oid)


def fetch(name: str = "model.safetensors", **options: Any) -> bytes:
    return Path(hf_hub_download(REPO, name, **options)).read_bytes()


def asked(hub: HubServer, method: str, part: str) -> list[Request]:
    return [request for request in hub.requests if request.method == method and part in request.path]


# What is put in comes out


@pytest.mark.parametrize("name", ["hub", "xet_hub"])
def test_a_folder_that_was_pushed_comes_back_at_its_branch_tag_and_commit(
    name: str, request: pytest.FixtureRequest, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub: HubServer = request.getfixturevalue(name)
    api = HfApi(token=hub.token)
    oid = push(api, folder)
    api.create_tag(REPO, tag="v1", revision=oid)
    for revision in ("main", "v1", oid):
        snapshot = Path(snapshot_download(REPO, revision=revision, cache_dir=tmp_path / revision))
        assert snapshot.name == oid
        assert {path: (snapshot / path).read_bytes() for path in FILES} == FILES

    # Once by the large file storage, once by neither it nor its downloads.
    uploads, downloads = asked(hub, "PUT", "/upload/"), asked(hub, "GET", "/cdn/")
    assert (len(uploads), len(downloads)) == ((1, 3) if name == "hub" else (0, 0))
    assert bool(asked(hub, "GET", "xet-write-token")) == bool(asked(hub, "GET", "xet-read-token")) == hub.uses_xet

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    assert fetch(cache_dir=tmp_path / "plain") == WEIGHTS


def test_what_is_unchanged_is_not_committed_again(hub: HubServer, api: HfApi, folder: Path) -> None:
    first = push(api, folder)
    assert push(api, folder) == first
    (folder / "model.safetensors").write_bytes(WEIGHTS[::-1])
    second = push(api, folder)
    assert [commit.commit_id for commit in api.list_repo_commits(REPO)][:2] == [second, first]
    assert fetch(revision=first) == WEIGHTS != fetch(revision="main") == WEIGHTS[::-1]
    # The same content under another name is not sent again.
    uploads = len(asked(hub, "PUT", "/upload/"))
    api.upload_file(repo_id=REPO, path_or_fileobj=folder / "model.safetensors", path_in_repo="copy.safetensors")
    assert len(asked(hub, "PUT", "/upload/")) == uploads
    assert fetch("copy.safetensors") == WEIGHTS[::-1]


def test_files_and_folders_are_deleted(api: HfApi, folder: Path) -> None:
    push(api, folder)
    api.delete_file("config.json", REPO)
    api.delete_folder("figures", REPO)
    assert api.list_repo_files(REPO) == [".gitattributes", "README.md", "model.safetensors"]


def test_info_and_tree_tell_sizes_and_digests(api: HfApi, folder: Path) -> None:
    oid = push(api, folder)
    sha256, sha1 = hashlib.sha256(WEIGHTS).hexdigest(), hashlib.sha1(b"blob 4\0\x89PNG").hexdigest()

    info = api.model_info(REPO, files_metadata=True)
    assert (info.id, info.sha, info.private, info.gated) == (REPO, oid, False, False)
    siblings = {sibling.rfilename: sibling for sibling in info.siblings or []}
    assert siblings.keys() == {".gitattributes", *FILES}
    assert siblings["figures/a.png"].blob_id == sha1 and siblings["figures/a.png"].size == 4
    weights = siblings["model.safetensors"].lfs
    assert weights is not None and (weights.sha256, weights.size) == (sha256, len(WEIGHTS))

    everything: dict[str, Any] = {entry.path: entry for entry in api.list_repo_tree(REPO, recursive=True)}
    assert everything.keys() == {".gitattributes", "figures", *FILES}
    assert everything["model.safetensors"].lfs.sha256 == sha256
    assert [entry.path for entry in api.list_repo_tree(REPO, "figures", revision=oid)] == ["figures/a.png"]
    assert {entry.path for entry in api.list_repo_tree(REPO)} == everything.keys() - {"figures/a.png"}
    found = api.get_paths_info(REPO, ["figures/a.png", "figures", "no"])
    assert [type(entry).__name__ for entry in found] == ["RepoFolder", "RepoFile"]


def test_branches_and_tags_come_and_go(hub: HubServer, api: HfApi) -> None:
    old = hub.seed(REPO, {"a": b"1"}, tag="v1")
    new = hub.seed(REPO, {"a": b"2"})
    api.create_branch(REPO, branch="dev/x", revision="v1")
    refs = api.list_repo_refs(REPO)
    assert {ref.name: ref.target_commit for ref in refs.branches} == {"main": new, "dev/x": old}
    assert {ref.name: ref.target_commit for ref in refs.tags} == {"v1": old}
    assert fetch("a", revision="dev/x") == b"1"
    with pytest.raises(errors.HfHubHTTPError, match="409"):
        api.create_tag(REPO, tag="v1")
    api.delete_tag(REPO, tag="v1")
    api.delete_branch(REPO, branch="dev/x")
    refs = api.list_repo_refs(REPO)
    assert ([ref.name for ref in refs.branches], refs.tags) == (["main"], [])


def test_a_seeded_commit_holds_just_the_given_files_whatever_they_are_called(hub: HubServer, api: HfApi) -> None:
    hub.seed(REPO, {"a": b"1"})
    hub.seed(REPO, {"../../b": b"2", "pytorch_model.bin": b"\x80"})
    assert api.list_repo_files(REPO) == ["../../b", "pytorch_model.bin"]


# Who may do what


def test_only_the_owner_writes(hub: HubServer, api: HfApi, folder: Path) -> None:
    push(api, folder)
    with pytest.raises(errors.HfHubHTTPError, match="403"):
        api.create_repo("other/net")
    with pytest.raises(errors.HfHubHTTPError, match="401"):
        api.create_repo(REPO, token=False)
    with pytest.raises(errors.HfHubHTTPError, match="409"):
        api.create_repo(REPO)
    with pytest.raises(errors.HfHubHTTPError, match="403"):
        api.upload_folder(repo_id=REPO, folder_path=folder, token=hub.other_token)
    with pytest.raises(errors.RepositoryNotFoundError):
        api.upload_folder(repo_id="owner/none", folder_path=folder)
    with pytest.raises(errors.RepositoryNotFoundError):
        api.create_tag(REPO, tag="v1", token=False)
    api.delete_repo(REPO)
    assert not api.repo_exists(REPO)


@pytest.mark.parametrize("token", ["nobody", "other", "owner"])
@pytest.mark.parametrize("kind", ["public", "private", "gated", "disabled", "missing"])
def test_reading_follows_the_rules(hub: HubServer, kind: str, token: str) -> None:
    if kind != "missing":
        hub.seed(REPO, {"a": b"1"}, private=kind == "private", gated=kind == "gated", disabled=kind == "disabled")
    given = {"nobody": False, "other": hub.other_token, "owner": hub.token}[token]
    refusal = {
        "public": None,
        "private": errors.RepositoryNotFoundError if token != "owner" else None,
        "gated": errors.GatedRepoError if token != "owner" else None,
        "disabled": errors.LocalEntryNotFoundError,
        "missing": errors.RepositoryNotFoundError,
    }[kind]
    if refusal is None:
        assert fetch("a", token=given) == b"1"
        return
    with pytest.raises(refusal) as caught:
        fetch("a", token=given)
    assert isinstance(caught.value, errors.GatedRepoError) == (kind == "gated")
    assert isinstance(caught.value.__cause__, errors.DisabledRepoError) == (kind == "disabled")


def test_an_unknown_token_is_refused_even_where_none_is_needed(hub: HubServer) -> None:
    hub.seed(REPO, {"a": b"1"})
    with pytest.raises(errors.HfHubHTTPError, match="Invalid credentials in Authorization header") as caught:
        fetch("a", token="hf_unknown")
    assert not isinstance(caught.value, errors.RepositoryNotFoundError)


def test_what_does_not_exist_gives_the_errors_of_the_client(hub: HubServer, api: HfApi) -> None:
    hub.seed(REPO, {"a": b"1"})
    with pytest.raises(errors.RevisionNotFoundError):
        fetch("a", revision="v9")
    with pytest.raises(errors.RemoteEntryNotFoundError):
        fetch("b")
    with pytest.raises(errors.RevisionNotFoundError):
        api.model_info(REPO, revision="0" * 40)
    with pytest.raises(errors.RemoteEntryNotFoundError):
        list(api.list_repo_tree(REPO, "folder"))
    assert not api.repo_exists("owner/none")


def test_a_stale_parent_and_ill_formed_metadata_are_refused(api: HfApi, folder: Path) -> None:
    parent = push(api, folder)
    (folder / "config.json").write_bytes(b"{}")
    push(api, folder, parent_commit=parent)
    (folder / "config.json").write_bytes(b"[]")
    with pytest.raises(errors.HfHubHTTPError, match="412"):
        push(api, folder, parent_commit=parent)
    for card in ("---\nlicense: mit\n", "---\nlicense mit\n---\n", "---\ntags:\n\t- a\n---\n"):
        (folder / "README.md").write_text(card)
        with pytest.raises(ValueError, match=r"Invalid metadata in README\.md"):
            push(api, folder)
    (folder / "README.md").write_text("# no metadata\n")
    with pytest.warns(UserWarning, match="empty or missing yaml"):
        push(api, folder)


def test_the_token_does_not_reach_the_host_of_the_large_files(hub: HubServer) -> None:
    hub.seed(REPO, FILES, private=True)
    assert fetch(token=hub.token) == WEIGHTS
    seen = {(request.method, request.host.split(":")[0]): request.authorization for request in hub.requests}
    assert seen == {("HEAD", "127.0.0.1"): f"Bearer {hub.token}", ("GET", "localhost"): None}


# Faults


def test_a_flipped_byte_passes_unseen_until_the_checksums_are_verified(hub: HubServer, api: HfApi) -> None:
    oid = hub.seed(REPO, FILES)
    fault = hub.fail("safetensors", corrupt=1000, times=1)
    snapshot_download(REPO)
    got = fetch()
    assert [at for at in range(len(WEIGHTS)) if got[at] != WEIGHTS[at]] == [1000]
    assert [mismatch["path"] for mismatch in api.verify_repo_checksums(REPO, revision=oid).mismatches] == [
        "model.safetensors"
    ]
    assert fetch(force_download=True) == WEIGHTS
    assert api.verify_repo_checksums(REPO, revision=oid).mismatches == []
    assert fault.count == 1


@pytest.mark.parametrize(
    "what", [{"replace": b"<html>"}, {"extra_body": b"!"}, {"set_header": {"Content-Length": "3"}, "method": "GET"}]
)
def test_a_body_of_another_length_is_noticed(hub: HubServer, what: dict[str, Any]) -> None:
    hub.seed(REPO, FILES)
    hub.fail("safetensors", **what)
    with pytest.raises(OSError, match="Consistency check failed"):
        fetch()


def test_a_body_that_ends_early_is_asked_for_again_until_the_client_gives_up(hub: HubServer) -> None:
    hub.seed(REPO, FILES)
    once = hub.fail("safetensors", truncate=1000, times=1)
    assert fetch() == WEIGHTS
    assert once.count == 1
    always = hub.fail("safetensors", truncate=1000)
    with pytest.raises(Exception) as caught:
        fetch(force_download=True)
    assert (type(caught.value).__name__, always.count) == ("RemoteProtocolError", 6)


@pytest.mark.parametrize("sent", [0, 1000, len(WEIGHTS) - 1])
def test_a_reset_is_an_error_of_its_own_and_not_tried_again(hub: HubServer, sent: int) -> None:
    hub.seed(REPO, FILES)
    fault = hub.fail("safetensors", reset_after=sent)
    with pytest.raises(Exception) as caught:
        fetch()
    assert (type(caught.value).__name__, fault.count) == ("ReadError", 1)
    assert not isinstance(caught.value, (OSError, errors.HfHubHTTPError))


@pytest.mark.parametrize("what", [{}, {"truncate": 1000}])
def test_a_stalled_body_runs_into_the_time_limit_of_the_client(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, what: dict[str, Any]
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
    hub.seed(REPO, FILES)
    fault = hub.fail("safetensors", stall=60.0, times=1, cdn_only=True, **what)
    assert fetch() == WEIGHTS
    assert (fault.count, len(asked(hub, "GET", "/cdn/"))) == (1, 2)


def test_refusals_by_status_fall_where_they_are_told_to(hub: HubServer) -> None:
    hub.seed(REPO, FILES)
    bodies = hub.fail("safetensors", status=403, cdn_only=True)
    with pytest.raises(errors.HfHubHTTPError, match="403"):
        fetch()
    assert bodies.count == 1
    hub.faults.clear()
    everything = hub.fail("safetensors", status=503, set_header={"X-Error-Message": "out of order"})
    with pytest.raises(errors.LocalEntryNotFoundError) as caught:
        fetch()
    assert "out of order" in str(caught.value.__cause__)
    assert everything.count > 1
    hub.faults.clear()
    hub.fail("safetensors", status=503, times=3)
    assert fetch() == WEIGHTS


def test_an_upload_that_the_storage_refuses_once_is_sent_again(hub: HubServer, api: HfApi, folder: Path) -> None:
    fault = hub.fail("/upload/", status=500, times=1)
    push(api, folder)
    assert (fault.count, fetch()) == (1, WEIGHTS)


def test_headers_are_dropped_and_set(hub: HubServer) -> None:
    oid = hub.seed(REPO, FILES)
    fault = hub.fail("config", drop_header="x-repo-commit", times=1)
    with pytest.raises(errors.LocalEntryNotFoundError, match="X-Repo-Commit"):
        fetch("config.json")
    assert fault.count == 1
    hub.fail("config", set_header={"ETag": '"mine"'}, method="HEAD")
    path = Path(hf_hub_download(REPO, "config.json"))
    assert (path.parent.name, path.resolve().name) == (oid, "mine")


@pytest.mark.parametrize("ignore_range", [False, True])
def test_a_large_body_is_resumed_where_it_was_cut(hub: HubServer, ignore_range: bool) -> None:
    # The client writes blocks of 10 MiB: only what is larger leaves something to go on from.
    data = random.Random(0).randbytes(MEBIBYTE) * 12
    hub.seed(REPO, {"model.safetensors": data})
    hub.fail("safetensors", truncate=11 * MEBIBYTE, times=1)
    if ignore_range:
        hub.fail("safetensors", ignore_range=True)
    assert fetch() == data
    assert [request.range for request in asked(hub, "GET", "/cdn/")] == [None, f"bytes={10 * MEBIBYTE}-"]


def test_a_branch_can_move_between_two_requests(hub: HubServer) -> None:
    old = hub.seed(REPO, FILES)

    def move(request: Request) -> None:
        if request.path.endswith("/main/model.safetensors"):
            hub.seed(REPO, {"config.json": b"[]", "model.safetensors": b"new"})

    hub.on_request.append(move)
    path = Path(hf_hub_download(REPO, "config.json"))
    assert (path.parent.name, path.read_bytes()) == (old, FILES["config.json"])
    assert (fetch(), fetch(revision=old)) == (b"new", WEIGHTS)


def test_the_server_goes_away_in_a_download_and_comes_back_as_it_was(hub: HubServer) -> None:
    hub.seed(REPO, FILES)
    endpoint = hub.endpoint
    hub.stop_after(100_000)
    with pytest.raises(Exception) as caught:
        fetch()
    assert type(caught.value).__name__ == "ConnectError"
    assert not hub.running
    assert sum(request.method == "GET" for request in hub.requests) == 1
    with pytest.raises(errors.LocalEntryNotFoundError):
        fetch()
    hub.start()
    assert (hub.endpoint, fetch()) == (endpoint, WEIGHTS)


# Use


@pytest.fixture
def another(tmp_path: Path) -> Iterator[HubServer]:
    with HubServer("hf_another") as server:
        server.seed(REPO, {"a": b"another"})
        yield server


def test_a_fresh_process_has_the_hub_and_no_token(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.seed(REPO, {"a": b"1"})
    monkeypatch.setenv("HF_TOKEN", "hf_developer")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code = f"import huggingface_hub as h; print(open(h.hf_hub_download({REPO!r}, 'a')).read(), h.get_token())"
    command = [sys.executable, "-c", code]
    environment = hub_environment(hub, tmp_path / "fresh")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.returncode) == ("1 None\n", 0), done.stderr
    assert [request.authorization for request in hub.requests] == [None, None]
    assert (tmp_path / "fresh" / "hub" / "models--owner--net").is_dir()


def test_this_process_can_change_to_another_hub(
    hub: HubServer, another: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.seed(REPO, {"a": b"1"})
    assert fetch("a") == b"1"
    monkeypatch.setenv("HF_TOKEN", "hf_developer")
    use_hub(another, tmp_path / "another", monkeypatch)
    assert fetch("a") == b"another"
    assert {request.authorization for request in another.requests} == {None}


def test_a_bug_of_the_server_does_not_pass_for_a_fault(hub: HubServer) -> None:
    with pytest.raises(ZeroDivisionError), HubServer() as server:
        server.seed(REPO, {"a": b"1"})
        server.on_request.append(lambda request: 1 // 0)
        with pytest.raises(errors.LocalEntryNotFoundError):
            fetch("a", endpoint=server.endpoint)
