"""Loading from a Hub: the unmodified client against a loopback server, and everything that can go wrong on the way."""

import hashlib
import importlib
import json
import logging
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn
from urllib.parse import urlsplit

import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.utils import _http
from torch import Tensor, nn

from tafm_loss import (
    Backbone,
    BackboneConfig,
    Tap,
    TaskAdaptiveFeatureLoss,
    WeightsAccessError,
    WeightsCorruptError,
    WeightsError,
    WeightsFormatError,
    WeightsNotFoundError,
    WeightsUnavailableError,
    load_backbone,
    push_backbone,
    save_backbone,
)
from tafm_loss.weights import defaults
from tafm_loss.weights import hub as hub_module
from tafm_loss.weights.hub import HubRepository, HubSource
from tests.hub_fixtures import go_offline, hub_environment
from tests.hub_server.server import HubServer

Files = dict[str, bytes]
REPO = "owner/deblur"
CONFIG, WEIGHTS = "config.json", "model.safetensors"
NO_COMMIT = "0" * 40
POSIX = pytest.mark.skipif(os.name == "nt", reason="permissions are of POSIX")


def flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def cached(pattern: str) -> list[Path]:
    return sorted(Path(constants.HF_HUB_CACHE).glob(f"models--*/snapshots/*/{pattern}"))


@pytest.fixture
def commit(hub: HubServer, files: Files) -> str:
    return hub.seed(REPO, files, tag="v1")


# What works


@pytest.mark.parametrize("spell", ["{}", "hf-hub:{}", "{}@main", "{}@v1", "{}@{commit}", "hf-hub:{}@v1"])
def test_every_spelling_loads_the_same_weights(hub: HubServer, commit: str, backbone: Backbone, spell: str) -> None:
    loaded = load_backbone(spell.format(REPO, commit=commit))
    assert loaded.sha256 == backbone.sha256
    assert loaded.config == backbone.config
    assert not loaded.training
    assert loaded.source == f"hf-hub:{REPO}@{commit}"


def test_the_revision_may_be_an_argument_and_two_are_one_too_many(
    hub: HubServer, commit: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "tafm_loss"):
        assert load_backbone(REPO, revision="v1").source == f"hf-hub:{REPO}@{commit}"
    assert f"{REPO}@v1 is commit {commit}" in caplog.text
    assert load_backbone(f"{REPO}@v1", revision="v1").source == f"hf-hub:{REPO}@{commit}"
    with pytest.raises(ValueError, match="two revisions"):
        load_backbone(f"{REPO}@v1", revision="v2")


def test_config_and_weights_are_of_one_commit_though_main_moves_in_between(
    hub: HubServer, commit: str, files: Files, backbone: Backbone
) -> None:
    def move(request: Any) -> None:
        if request.path.endswith(CONFIG) and request.method == "GET":
            hub.seed(REPO, {**files, WEIGHTS: flipped(files[WEIGHTS])})

    hub.on_request.append(move)
    loaded = load_backbone(REPO)
    assert (loaded.sha256, loaded.source) == (backbone.sha256, f"hf-hub:{REPO}@{commit}")
    asked = [request.path for request in hub.requests if "/resolve/" in request.path and WEIGHTS in request.path]
    assert asked
    assert all(commit in path for path in asked)


def test_a_folder_of_that_name_goes_before_the_hub_unless_told_otherwise(
    hub: HubServer, commit: str, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_backbone(backbone, tmp_path / REPO)
    monkeypatch.chdir(tmp_path)
    assert load_backbone(REPO).source is None
    assert load_backbone(f"hf-hub:{REPO}").source == f"hf-hub:{REPO}@{commit}"


def test_another_cache_is_used_if_asked_for(hub: HubServer, commit: str, tmp_path: Path) -> None:
    cache = tmp_path / "Zwischenspeicher für Ω"
    load_backbone(REPO, cache_dir=cache)
    assert not cached(WEIGHTS)
    hub.stop()
    load_backbone(REPO, cache_dir=str(cache), local_files_only=True)


def test_large_files_travel_through_xet_as_well(xet_hub: HubServer, files: Files, backbone: Backbone) -> None:
    source = push_backbone(backbone, REPO, token=xet_hub.token)
    xet_hub.requests.clear()
    assert load_backbone(source).sha256 == backbone.sha256
    assert any("xet-read-token" in request.path for request in xet_hub.requests)


# The cache


def leave_out_the_hub(hub: HubServer, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if how == "environment":
        go_offline(monkeypatch)
    elif how == "nobody listens":
        hub.stop()
    elif how == "503":
        hub.fail(".*", status=503)
    elif how in ("X-Repo-Commit", "ETag"):
        hub.fail("/resolve/", drop_header=how)


@pytest.mark.parametrize("how", ["commit", "argument", "environment", "nobody listens", "503"])
def test_what_is_cached_loads_without_a_hub(
    hub: HubServer, commit: str, backbone: Backbone, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = f"{REPO}@{commit if how == 'commit' else 'v1'}"
    load_backbone(source)
    hub.requests.clear()
    leave_out_the_hub(hub, how, monkeypatch)
    assert load_backbone(source, local_files_only=how == "argument").sha256 == backbone.sha256
    assert how == "503" or not hub.requests


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("argument", "local_files_only forbids"),
        ("environment", "HF_HUB_OFFLINE forbids"),
        *((how, "cannot be reached") for how in ("nobody listens", "X-Repo-Commit", "ETag")),
        ("503", "the Hub answers with error 503|cannot be reached"),
    ],
)
def test_what_is_not_cached_says_how_it_can_be_had(
    hub: HubServer, commit: str, how: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_out_the_hub(hub, how, monkeypatch)
    told = rf"{REPO}/config\.json@v1 .*not in the cache.*{message}|{message}"
    with pytest.raises(WeightsUnavailableError, match=told):
        load_backbone(f"{REPO}@v1", local_files_only=how == "argument")


def test_a_hub_that_nobody_serves_is_given_up_at_once(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.stop()
    asked = []
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_, **__: asked.append(1))
    with pytest.raises(ConnectionError, match="check the connection"):
        load_backbone(REPO)
    assert not asked  # the client would try for 23 s


@POSIX
@pytest.mark.skipif(os.name != "nt" and os.geteuid() == 0, reason="nothing is read-only for root")
def test_a_read_only_cache_is_enough_to_load(hub: HubServer, commit: str, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    load_backbone(f"{REPO}@v1", cache_dir=cache)
    for folder, _, _ in os.walk(cache):
        os.chmod(folder, 0o555)
    try:
        load_backbone(f"{REPO}@v1", cache_dir=cache)
    finally:
        for folder, _, _ in os.walk(cache):
            os.chmod(folder, 0o755)


def test_a_cache_that_cannot_be_written_is_told(hub: HubServer, commit: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(WeightsError, match=r"the cache cannot be written \(Not a directory\).* cache_dir="):
        load_backbone(REPO, cache_dir=tmp_path / "file" / "cache")


def test_what_the_client_of_a_user_can_fetch_is_fetched(
    hub: HubServer, commit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not hasattr(_http, "set_client_factory"):
        pytest.skip("this version of the client takes no transport of its user's")
    http = importlib.import_module(type(_http.get_session()).__module__.partition(".")[0])

    class ThroughATunnel(http.HTTPTransport):  # type: ignore[misc, name-defined]
        """Reaches a host that nobody else does."""

        def handle_request(self, request: Any) -> Any:
            if request.url.host == "hub.invalid":
                request.url = request.url.copy_with(host="127.0.0.1", port=urlsplit(hub.endpoint).port)
            return super().handle_request(request)

    monkeypatch.setattr(constants, "ENDPOINT", "http://hub.invalid")
    template = "http://hub.invalid/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    _http.set_client_factory(lambda: http.Client(transport=ThroughATunnel(), follow_redirects=True, timeout=None))
    try:
        assert load_backbone(REPO).source == f"hf-hub:{REPO}@{commit}"
    finally:
        _http.set_client_factory(_http.default_client_factory)


@pytest.mark.parametrize("module", [hub_module, defaults])
def test_a_refusal_is_an_answer_and_a_closed_port_is_none(module: ModuleType, hub: HubServer) -> None:
    assert module.reachable(f"{hub.endpoint}/nothing/here")
    assert not module.reachable("http://127.0.0.1:1/file")


@pytest.mark.parametrize(
    ("error", "expected"), [(TimeoutError(), True), (ConnectionRefusedError(), False), (RuntimeError(), False)]
)
def test_who_is_connected_and_slow_is_not_given_up(error: Exception, expected: bool) -> None:
    def ask() -> NoReturn:
        raise error

    assert hub_module.answers(ask) is expected


# What the Hub refuses


@pytest.mark.parametrize("token", [None, "hf_loopbackOther"])
@pytest.mark.parametrize("private", [False, True])
def test_a_repository_that_is_missing_or_private_is_not_found(
    hub: HubServer, files: Files, token: str | None, private: bool
) -> None:
    if private:
        hub.seed(REPO, files, private=True)
    with pytest.raises(WeightsNotFoundError, match=rf"{REPO}/config\.json .*check the name, or pass the token="):
        load_backbone(REPO, token=token)


@pytest.mark.parametrize(
    ("how", "message"),
    [({"gated": True}, "asked for on the repository's page"), ({"disabled": True}, "the Hub has disabled the repo")],
)
def test_a_gated_or_disabled_repository_is_told_as_such(
    hub: HubServer, files: Files, how: dict[str, bool], message: str
) -> None:
    hub.seed(REPO, files, **how)
    with pytest.raises(WeightsAccessError, match=message):
        load_backbone(REPO)
    if "gated" in how:
        assert load_backbone(REPO, token=hub.token)


def test_a_wrong_token_is_refused_even_for_a_public_repository(hub: HubServer, commit: str) -> None:
    for token, message in (
        ("hf_wrong", r"the token is refused: .*token=False"),
        (True, "token=True needs a token: log"),
    ):
        with pytest.raises(WeightsAccessError, match=message):
            load_backbone(REPO, token=token)
    assert load_backbone(REPO, token=False)


@pytest.mark.parametrize(
    ("status", "kind"),
    [(403, WeightsAccessError), (404, WeightsNotFoundError), (500, WeightsUnavailableError)],
)
@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_a_bare_status_is_told_by_what_it_means(
    hub: HubServer, commit: str, status: int, kind: type[WeightsError], method: str
) -> None:
    hub.fail(WEIGHTS if method == "HEAD" else "", status=status, method=method, cdn_only=method == "GET")
    with pytest.raises(kind, match=rf"{REPO}/{WEIGHTS}@{commit}"):
        load_backbone(REPO)


def test_a_missing_revision_or_backbone_is_not_found(hub: HubServer) -> None:
    hub.seed(REPO, {"README.md": b"hello"})
    nothing = "no such branch, tag or commit"
    for revision, message in {
        "v2": nothing,
        NO_COMMIT: nothing,
        "main": r"a backbone is a config\.json and a ",
    }.items():
        with pytest.raises(WeightsNotFoundError, match=message):
            load_backbone(f"{REPO}@{revision}")


def test_pickles_are_never_read(hub: HubServer, files: Files) -> None:
    pickles = dict.fromkeys(("pytorch_model.bin", "model.pt", "model.pth"), pickle.dumps({"weight": 1}))
    hub.seed(REPO, {CONFIG: files[CONFIG], **pickles})
    with pytest.raises(WeightsNotFoundError, match="pickles are never read"):
        load_backbone(REPO)
    assert not any(name in request.path for request in hub.requests for name in pickles)


@pytest.mark.parametrize(
    "source",
    [
        *("hf-hub:a--b/c", "owner/-name", "owner/name.git", "owner/" + "n" * 97, "a/b/c", "hf-hub:name"),
        *("owner/näme", "owner/name@", "owner/name@a b", "", "a b/c", "hf-hub:", "https://example.com/a/b"),
    ],
)
def test_an_impossible_name_says_how_it_was_read(hub: HubServer, source: str) -> None:
    with pytest.raises(WeightsNotFoundError, match=r"no backbone is called .* an owner/name\[@revision\]"):
        load_backbone(source)
    assert not hub.requests


def test_a_name_that_the_client_refuses_is_not_found(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tafm_loss.weights.loading.REPOSITORY", re.compile(".*"))
    with pytest.raises(WeightsNotFoundError, match="no repository can have this name"):
        load_backbone("owner/a--b")


def test_a_mistyped_folder_is_told_as_both_that_it_could_be(hub: HubServer) -> None:
    with pytest.raises(WeightsNotFoundError, match=r"no such repository.*; nor is there a folder runs/tuned here"):
        load_backbone("runs/tuned")


# What the way does


@pytest.mark.parametrize(
    "what", [{"corrupt": -1}, {"status": 416}, {"truncate": 1000, "stall": 2.0}], ids=["flip", "broken part", "stall"]
)
def test_what_goes_wrong_once_is_fetched_again(
    hub: HubServer, commit: str, backbone: Backbone, what: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.3 if "stall" in what else 10)
    fault = hub.fail("", times=1, cdn_only=True, **what)
    assert load_backbone(REPO).sha256 == backbone.sha256
    assert fault.count == 1
    hub.stop()
    assert load_backbone(REPO, local_files_only=True).sha256 == backbone.sha256


def test_a_byte_that_is_flipped_always_is_found_and_fetched_no_more_than_twice(hub: HubServer, commit: str) -> None:
    fault = hub.fail("", corrupt=-1, cdn_only=True)
    with pytest.raises(WeightsCorruptError, match=rf"{REPO}@{commit}: .*sha256.*fetched anew, without avail"):
        load_backbone(REPO)
    assert fault.count == 2


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
@pytest.mark.parametrize("damage", [flipped, lambda data: data[: len(data) // 2], lambda data: b""])
def test_damage_in_the_cache_is_mended(
    hub: HubServer, commit: str, backbone: Backbone, name: str, damage: Callable[[bytes], bytes]
) -> None:
    load_backbone(REPO)
    (path,) = cached(name)
    path.write_bytes(damage(path.read_bytes())[:-1] if name == CONFIG else damage(path.read_bytes()))
    assert load_backbone(REPO).sha256 == backbone.sha256
    assert load_backbone(REPO, local_files_only=True).sha256 == backbone.sha256


@pytest.mark.parametrize(
    ("how", "message"),
    [
        *((how, "Delete it from the cache, and load .* a connection") for how in ("argument", "environment")),
        ("nobody listens", "could not be fetched anew: .*cannot be reached"),
    ],
)
def test_damage_in_the_cache_that_cannot_be_mended_is_told_with_the_reason(
    hub: HubServer, commit: str, how: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_backbone(f"{REPO}@{commit}")
    (path,) = cached(WEIGHTS)
    path.write_bytes(flipped(path.read_bytes()))
    leave_out_the_hub(hub, how, monkeypatch)
    with pytest.raises(WeightsCorruptError, match=rf"snapshots.*sha256.*{message}"):
        load_backbone(f"{REPO}@{commit}", local_files_only=how == "argument")


def test_without_symbolic_links_damage_is_mended_too(
    hub: HubServer, commit: str, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.file_download.are_symlinks_supported", lambda cache_dir=None: False)
    fault = hub.fail("", corrupt=-1, times=1, cdn_only=True)
    assert load_backbone(REPO).sha256 == backbone.sha256
    assert fault.count == 1
    (path,) = cached(WEIGHTS)
    assert not path.is_symlink()


@pytest.mark.parametrize(
    ("fault", "kinds", "message"),
    [
        # The second in 2.x, which tries again.
        ({"truncate": 1000}, (WeightsCorruptError, WeightsUnavailableError), "again"),
        ({"extra_body": b"more"}, (WeightsCorruptError,), "again"),
        ({"replace": b"<!DOCTYPE html><title>Sign in</title>"}, (WeightsCorruptError,), "again"),
        ({"reset_after": 1000}, (WeightsUnavailableError,), "the connection broke off: try again"),
    ],
    ids=["short", "long", "html", "reset"],
)
def test_a_body_of_another_length_is_told_and_the_next_load_succeeds(
    hub: HubServer, commit: str, fault: dict[str, Any], kinds: tuple[type[WeightsError], ...], message: str
) -> None:
    hub.fail("", cdn_only=True, **fault)
    with pytest.raises(kinds, match=rf"{REPO}/{WEIGHTS}.* {message}"):
        load_backbone(REPO)
    hub.faults.clear()
    assert load_backbone(REPO)


def test_a_file_of_another_size_is_not_downloaded(hub: HubServer, files: Files) -> None:
    hub.seed(REPO, {**files, WEIGHTS: files[WEIGHTS] + bytes(10**6)})
    with pytest.raises(WeightsCorruptError, match=rf"{WEIGHTS}.*\d+ bytes there, expected {len(files[WEIGHTS])}"):
        load_backbone(REPO)
    assert not any(request.host.startswith("localhost") for request in hub.requests)


def test_another_commit_than_the_one_asked_for_is_refused(hub: HubServer, commit: str) -> None:
    hub.fail("/resolve/", set_header={"X-Repo-Commit": "1" * 40})
    with pytest.raises(WeightsCorruptError, match=f"asked for the commit {commit}, the Hub answers with 1111"):
        load_backbone(f"{REPO}@{commit}")


def test_a_cache_without_commits_is_refused(
    hub: HubServer, files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda _, name, **options: str(tmp_path / name))
    with pytest.raises(WeightsError, match="cannot tell the commit"):
        load_backbone(REPO)


def test_what_is_published_so_is_not_fetched_twice(hub: HubServer, files: Files) -> None:
    data = b"no safetensors, but as announced"
    config = json.loads(files[CONFIG])
    config["weights"].update(size=len(data), sha256=hashlib.sha256(data).hexdigest())
    hub.seed(REPO, {CONFIG: json.dumps(config).encode(), WEIGHTS: data})
    with pytest.raises(WeightsFormatError, match="is no safetensors file") as raised:
        load_backbone(REPO)
    assert "anew" not in str(raised.value)
    assert len([request for request in hub.requests if request.host.startswith("localhost")]) == 1


def test_a_repair_that_fails_leaves_what_is_intact(
    hub: HubServer, commit: str, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.file_download.are_symlinks_supported", lambda cache_dir=None: False)
    load_backbone(f"{REPO}@{commit}")
    (config,), (weights,) = cached(CONFIG), cached(WEIGHTS)
    intact, whole = config.read_bytes(), weights.read_bytes()
    weights.write_bytes(flipped(whole))
    hub.fail(".*", status=503)
    with pytest.raises(WeightsCorruptError, match=r"sha256.*not be fetched anew: .*(error 503|cannot be reached)"):
        load_backbone(f"{REPO}@{commit}")
    assert config.read_bytes() == intact
    assert sorted(path.name for path in config.parent.iterdir()) == [CONFIG, WEIGHTS]
    hub.faults.clear()
    assert load_backbone(f"{REPO}@{commit}").sha256 == backbone.sha256


def test_damage_is_mended_by_several_at_once(hub: HubServer, commit: str, backbone: Backbone) -> None:
    load_backbone(f"{REPO}@{commit}")
    for _ in range(3):
        (path,) = cached(WEIGHTS)
        path.write_bytes(flipped(path.read_bytes()))
        with ThreadPoolExecutor(4) as pool:
            loaded = list(pool.map(load_backbone, [f"{REPO}@{commit}"] * 4))
        assert {each.sha256 for each in loaded} == {backbone.sha256}


@pytest.mark.parametrize("token", ["", "hf_x\n", "hf_é", "hf x"])
def test_a_token_that_cannot_be_sent_is_told_without_it(hub: HubServer, commit: str, token: str) -> None:
    with pytest.raises(ValueError, match="token must be letters") as raised:
        load_backbone(REPO, token=token)
    assert not token.strip() or token not in str(raised.value)
    assert not hub.requests


def test_the_loss_reads_a_private_repository(hub: HubServer, files: Files, backbone: Backbone) -> None:
    hub.seed(REPO, files, private=True, tag="v1")
    options = {"token": hub.token, "revision": "v1", "sha256": backbone.sha256}
    assert TaskAdaptiveFeatureLoss.from_pretrained(REPO, **options, weight=2.0).weight == 2.0
    with pytest.raises(WeightsCorruptError):
        TaskAdaptiveFeatureLoss.from_pretrained(REPO, token=hub.token, sha256="0" * 64)


# What strangers publish


def seeded_config(hub: HubServer, files: Files, change: Callable[[dict[str, Any]], object]) -> None:
    config = json.loads(files[CONFIG])
    change(config)
    hub.seed(REPO, {**files, CONFIG: json.dumps(config).encode()})


@pytest.mark.parametrize(
    "change",
    [
        lambda config: config.update(format="transformers"),
        lambda config: config.update(format_version=2),
        lambda config: config.update(format_version=True),
        lambda config: config.update(auto_map={"AutoModel": "code.Model"}),
        lambda config: config.pop("weights"),
        lambda config: config.update(weights=[]),
        lambda config: config["weights"].update(file="../../../../etc/passwd"),
        lambda config: config["weights"].update(file="pytorch_model.bin"),
        lambda config: config["weights"].update(url="http://evil/x"),
        lambda config: config["weights"].update(size=2**60),
        lambda config: config["weights"].update(size=-1),
        lambda config: config["weights"].update(size=1.5),
        lambda config: config["weights"].update(sha256="0"),
        lambda config: config["backbone"].update(architecture="hf-hub:evil/x"),
        lambda config: config["backbone"].update(mean=[0.0, 0.0, 0.0]),
        lambda config: config["backbone"].update(minimum_size=200_000),
        lambda config: config["backbone"].update(std=[0.0, 1.0, 1.0]),
    ],
)
def test_a_hostile_config_is_refused(hub: HubServer, files: Files, change: Callable[[dict[str, Any]], object]) -> None:
    seeded_config(hub, files, change)
    with pytest.raises(WeightsFormatError, match=rf"{REPO}@.*config\.json"):
        load_backbone(REPO)


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{", b'{"a": NaN}', b'{"a": 1, "a": 2}', b"\xff", b"[" * 100_000, b"9" * 5000, b" " * (2**20 + 1)],
    ids=range(9),
)
def test_a_config_that_is_no_json_is_refused_and_no_weights_are_fetched(
    hub: HubServer, files: Files, content: bytes
) -> None:
    hub.seed(REPO, {**files, CONFIG: content})
    with pytest.raises(WeightsFormatError, match="is no JSON that can be trusted"):
        load_backbone(REPO)
    assert not any(request.path.endswith(WEIGHTS) for request in hub.requests)


def test_weights_of_a_stranger_with_a_config_that_vouches_for_them_fail_the_users_digest(
    hub: HubServer, files: Files, backbone: Backbone, tmp_path: Path
) -> None:
    other = load_backbone("tafm-compact")
    with torch.no_grad():
        next(other.parameters()).mul_(1.01)
    folder = save_backbone(other, tmp_path / "other")
    hub.seed(REPO, {path.name: path.read_bytes() for path in folder.iterdir()})
    assert load_backbone(REPO).sha256 == other.sha256
    with pytest.raises(WeightsCorruptError, match="or another file"):
        load_backbone(REPO, sha256=backbone.sha256)


def test_a_listed_name_is_pinned_and_sends_no_token(
    hub: HubServer, commit: str, files: Files, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", hub.token)
    published = {"tafm-test": HubSource(REPO, commit, backbone.sha256)}
    monkeypatch.setattr("tafm_loss.weights.loading.PUBLISHED", published)
    hub.seed(REPO, {**files, WEIGHTS: flipped(files[WEIGHTS])})
    loss = TaskAdaptiveFeatureLoss("tafm-test")
    assert loss.sha256 == backbone.sha256
    assert loss.backbone.source == f"hf-hub:{REPO}@{commit}"
    assert not any(request.authorization for request in hub.requests)
    published["tafm-test"] = HubSource(REPO, commit, "0" * 64)
    with pytest.raises(WeightsCorruptError, match="expected 0000"):
        load_backbone("tafm-test")


def test_the_token_is_not_shown_by_what_holds_it() -> None:
    assert "hf_secret" not in repr(HubRepository(REPO, "hf_secret"))


def test_no_token_goes_to_the_host_of_the_large_files(hub: HubServer, commit: str) -> None:
    load_backbone(REPO, token=hub.token)
    bodies = [request for request in hub.requests if request.host.startswith("localhost")]
    assert bodies
    assert not any(request.authorization for request in bodies)


FAILURES: dict[str, Callable[[HubServer], object]] = {
    "gated": lambda hub: hub.repositories[REPO].__setattr__("gated", True),
    "other's": lambda hub: hub.repositories[REPO].__setattr__("private", True),
    "403": lambda hub: hub.fail("", status=403),
    "500": lambda hub: hub.fail("", status=500, cdn_only=True),
    "reset": lambda hub: hub.fail("", reset_after=10, cdn_only=True),
    "short": lambda hub: hub.fail("", truncate=10, cdn_only=True),
    "corrupt": lambda hub: hub.fail("", corrupt=-1, cdn_only=True),
    "gone": lambda hub: hub.stop(),
}


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES.keys())
def test_no_error_holds_the_token_or_the_address(
    hub: HubServer, commit: str, failure: Callable[[HubServer], object], caplog: pytest.LogCaptureFixture
) -> None:
    failure(hub)
    with caplog.at_level(logging.DEBUG), pytest.raises(WeightsError) as raised:
        load_backbone(REPO, token="hf_loopbackOther")
    error = raised.value
    told = [str(error), repr(error), repr(vars(error)), repr(error.args), pickle.dumps(error).decode("latin1")]
    told += [record.getMessage() for record in caplog.records if record.name.startswith("tafm_loss")]
    assert not any("hf_loopback" in text or hub.endpoint in text for text in told)
    assert error.__cause__ is None
    assert error.__context__ is None or error.__suppress_context__
    assert isinstance(pickle.loads(pickle.dumps(error)), type(error))
    hangs_on_it: BaseException | None = error
    while hangs_on_it is not None:  # the client's errors hold the request
        assert isinstance(hangs_on_it, WeightsError)
        hangs_on_it = hangs_on_it.__cause__ or hangs_on_it.__context__


# Hardship


class Heavy(nn.Module):
    """An architecture whose file is longer than the blocks of 10 MiB in which the client reads."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.table = nn.Parameter(torch.zeros(6_000_000))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"map": self.conv(images) + self.table[0]}


@pytest.fixture(scope="module")
def heavy(tmp_path_factory: pytest.TempPathFactory) -> Files:
    generator = torch.Generator().manual_seed(0)
    module = Heavy()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.rand(parameter.shape, generator=generator))
    config = BackboneConfig("heavy", "heavy", {"map": Tap(4, 1)}, (0.5,) * 3, (0.5,) * 3, 3)
    folder = save_backbone(Backbone(module, config), tmp_path_factory.mktemp("heavy"))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("share", [0.0, 0.01, 0.2, 0.45, 0.7, 0.95])
def test_a_server_that_dies_anywhere_leaves_a_cache_that_the_next_load_can_use(
    hub: HubServer, heavy: Files, share: float
) -> None:
    hub.seed(REPO, heavy)
    hub.stop_after(int(share * sum(map(len, heavy.values()))))
    with pytest.raises(WeightsUnavailableError):
        load_backbone(REPO, module=Heavy())
    with pytest.raises(WeightsUnavailableError, match=r"cannot be reached|not in the cache"):
        load_backbone(REPO, module=Heavy())
    hub.start()
    loaded = load_backbone(REPO, module=Heavy())
    assert loaded.sha256 == json.loads(heavy[CONFIG])["weights"]["sha256"]


LOADS = f"""
import sys
from tafm_loss import load_backbone
print(load_backbone({REPO!r}).sha256)
"""


def test_three_processes_at_once_on_an_empty_cache_of_a_mirror_all_succeed(
    hub: HubServer, commit: str, backbone: Backbone, tmp_path: Path
) -> None:
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    options["env"] = hub_environment(hub, tmp_path / "fresh")  # with its address in HF_ENDPOINT
    processes = [subprocess.Popen([sys.executable, "-c", LOADS], **options) for _ in range(3)]
    assert [process.communicate(timeout=120) for process in processes] == [(f"{backbone.sha256}\n", "")] * 3
    assert [process.returncode for process in processes] == [0, 0, 0]
