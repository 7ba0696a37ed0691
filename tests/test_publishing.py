"""Publishing on a Hub: the unmodified client against a loopback server."""

import dataclasses
import logging
import pickle
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard, constants, hf_hub_download
from torch import nn
from torchvision.utils import save_image

from tafm_loss import (
    Backbone,
    BackboneConfig,
    Tap,
    WeightsAccessError,
    WeightsCorruptError,
    WeightsError,
    WeightsFormatError,
    WeightsNotFoundError,
    WeightsUnavailableError,
    finetune_backbone,
    load_backbone,
    push_backbone,
    save_backbone,
)
from tafm_loss.cli import main
from tafm_loss.scenes import generate_scenes
from tests.hub_fixtures import go_offline, hub_environment
from tests.hub_server.server import HubServer

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "docs" / "guides" / "publishing.md").read_text()
REPO = "owner/deblur"


@pytest.fixture
def backbone() -> Backbone:
    return load_backbone("tafm-compact")


@pytest.fixture
def folder(backbone: Backbone, tmp_path: Path) -> Path:
    return save_backbone(backbone, tmp_path / "tuned")


def published(hub: HubServer, revision: str = "main") -> dict[str, bytes]:
    commit = hub.repositories[REPO].find(revision)
    assert commit is not None
    return {path: file.data for path, file in commit.files.items() if path != ".gitattributes"}


def empty_cache() -> None:
    shutil.rmtree(constants.HF_HUB_CACHE, ignore_errors=True)


@pytest.mark.parametrize("server", ["hub", "xet_hub"])
def test_what_is_pushed_comes_back_byte_for_byte(
    server: str, request: pytest.FixtureRequest, folder: Path, backbone: Backbone
) -> None:
    hub: HubServer = request.getfixturevalue(server)
    source = push_backbone(folder, REPO, token=hub.token, tag="v1")
    assert re.fullmatch(rf"{REPO}@[0-9a-f]{{40}}", source)
    for spelling in (source, f"{REPO}@v1", REPO):
        empty_cache()
        loaded = load_backbone(spelling)
        assert loaded.sha256 == backbone.sha256
        assert loaded.source == f"hf-hub:{source}"
    for name in ("config.json", "model.safetensors"):
        assert Path(hf_hub_download(REPO, name)).read_bytes() == (folder / name).read_bytes()


def test_a_backbone_needs_no_folder_and_its_card_names_the_repository_and_the_digest(
    hub: HubServer, backbone: Backbone
) -> None:
    assert load_backbone(push_backbone(backbone, REPO, token=hub.token)).sha256 == backbone.sha256
    assert sorted(published(hub)) == ["README.md", "config.json", "model.safetensors"]
    card = ModelCard(published(hub)["README.md"].decode())
    assert card.data.library_name == "tafm-loss"
    assert f'from_pretrained("{REPO}")' in card.text and backbone.sha256 in card.text


def test_nothing_goes_but_what_belongs_to_a_backbone(hub: HubServer, folder: Path) -> None:
    for name in ("checkpoint.pt", ".env", "photo.jpg", "report.json", "history.jsonl", "pytorch_model.bin"):
        (folder / name).write_bytes(b"{}")
    (folder / "images").mkdir()
    (folder / "images" / "private.png").write_bytes(b"")
    (folder / "LICENSE").write_text("Apache")
    (folder / "report.png").write_bytes(b"\x89PNG")
    before = sorted(folder.rglob("*"))
    push_backbone(folder, REPO, token=hub.token)
    assert sorted(published(hub)) == ["LICENSE", "README.md", "config.json", "model.safetensors", "report.png"]
    assert sorted(folder.rglob("*")) == before
    assert "](report.png)" in published(hub)["README.md"].decode()


def test_what_was_tuned_from_a_repository_names_it(hub: HubServer, folder: Path) -> None:
    source = push_backbone(folder, REPO, token=hub.token)
    scenes = generate_scenes(4, 96, generator=torch.Generator().manual_seed(0))
    tuned = finetune_backbone(load_backbone(REPO), scenes, steps=1, batch_size=2, crop_size=64, progress=False)
    assert f"hf-hub:{source}" in tuned.backbone.config.base_weights
    push_backbone(tuned.backbone, "owner/next", token=hub.token)
    card = ModelCard.load("owner/next")
    assert (card.data.base_model, card.data.base_model_relation) == (REPO, "finetune")


def test_a_card_that_the_hub_refuses_is_a_format_error(hub: HubServer, folder: Path) -> None:
    (folder / "README.md").write_text("---\nlicense:\tmit\nbroken\n---\n")
    with pytest.raises(WeightsFormatError, match=r"refuses the YAML .*README\.md"):
        push_backbone(folder, REPO, token=hub.token)


@pytest.mark.parametrize(
    ("name", "damage", "kind", "message"),
    [
        ("report.json", lambda data: b"{", WeightsFormatError, r"report\.json is no report"),
        ("README.md", lambda data: b"\xff\xfe", WeightsFormatError, "no text in UTF-8"),
        ("model.safetensors", lambda data: data[:-1] + bytes([data[-1] ^ 1]), WeightsCorruptError, "sha256"),
        ("config.json", None, WeightsNotFoundError, "no backbone in"),
    ],
)
def test_damage_is_found_before_anything_is_sent(
    hub: HubServer,
    folder: Path,
    name: str,
    damage: Callable[[bytes], bytes] | None,
    kind: type[WeightsError],
    message: str,
) -> None:
    path = folder / name
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage(path.read_bytes() if path.exists() else b""))
    with pytest.raises(kind, match=message):
        push_backbone(folder, REPO, token=hub.token)
    assert not hub.requests


def test_a_second_push_is_a_second_commit_and_a_tag_keeps_the_first(
    hub: HubServer, folder: Path, backbone: Backbone
) -> None:
    first = push_backbone(folder, REPO, token=hub.token, tag="v1")
    (folder / "README.md").write_text("Second.\n")
    second = push_backbone(folder, REPO, token=hub.token)
    assert first != second
    assert load_backbone(f"{REPO}@v1").source == f"hf-hub:{first}"
    before = published(hub)
    (folder / "README.md").write_text("Third.\n")
    with pytest.raises(WeightsError, match="has a tag v1 already"):
        push_backbone(folder, REPO, token=hub.token, tag="v1")
    assert published(hub) == before


def test_a_branch_is_made_and_a_card_of_your_own_goes_as_it_is(
    hub: HubServer, folder: Path, backbone: Backbone
) -> None:
    push_backbone(folder, REPO, token=hub.token)
    (folder / "README.md").write_text("---\nlicense: mit\n---\nMine.\n")
    push_backbone(folder, REPO, token=hub.token, revision="trial")
    assert published(hub, "trial")["README.md"] == b"---\nlicense: mit\n---\nMine.\n"
    assert b"Mine" not in published(hub)["README.md"]
    assert load_backbone(f"{REPO}@trial").sha256 == backbone.sha256


def test_weights_of_an_architecture_of_your_own_are_published_without_it(hub: HubServer, tmp_path: Path) -> None:
    config = BackboneConfig("mine", "mine-of-3", {"map": Tap(4, 1)}, (0.5,) * 3, (0.5,) * 3, 3)
    own = Backbone(Mine(), config)
    source = push_backbone(save_backbone(own, tmp_path / "own"), REPO, token=hub.token)
    assert load_backbone(source, module=Mine()).sha256 == own.sha256
    with pytest.raises(WeightsFormatError, match=r"module=\.\.\."):
        load_backbone(source)


class Mine(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"map": self.conv(images)}


# What the Hub refuses


@pytest.mark.parametrize(
    ("prepare", "repo_id", "token", "kind", "message"),
    [
        (None, "other/deblur", "hf_loopbackOwner", WeightsAccessError, "forbidden"),
        (None, REPO, "hf_wrong", WeightsAccessError, "a token that may write there is needed"),
        (lambda hub: hub.fail("/commit/", status=412), REPO, "hf_loopbackOwner", WeightsError, "somebody else"),
        (lambda hub: hub.fail("/commit/", status=500), REPO, "hf_loopbackOwner", WeightsUnavailableError, "error 500"),
        (lambda hub: hub.stop(), REPO, "hf_loopbackOwner", WeightsUnavailableError, "cannot be reached|broke off"),
    ],
    ids=["other's", "wrong token", "stale", "500", "gone"],
)
def test_a_push_that_fails_says_why_and_never_with_the_token(
    hub: HubServer,
    folder: Path,
    prepare: Callable[[HubServer], object] | None,
    repo_id: str,
    token: str,
    kind: type[WeightsError],
    message: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if prepare is not None:
        prepare(hub)
    with caplog.at_level(logging.DEBUG, "tafm_loss"), pytest.raises(kind, match=message) as raised:
        push_backbone(folder, repo_id, token=token)
    error = raised.value
    told = [str(error), repr(vars(error)), pickle.dumps(error).decode("latin1"), caplog.text]
    assert not any(token in text for text in told)
    assert error.__cause__ is None or not hasattr(error.__cause__, "response")
    assert error.__context__ is None or not hasattr(error.__context__, "response")


def test_without_a_token_or_offline_nothing_is_pushed(
    hub: HubServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(WeightsAccessError, match="log in with `hf auth login`, set HF_TOKEN, or pass token="):
        push_backbone(folder, REPO)
    go_offline(monkeypatch)
    with pytest.raises(WeightsUnavailableError, match="HF_HUB_OFFLINE forbids to ask the Hub: push without it"):
        push_backbone(folder, REPO, token=hub.token)


@pytest.mark.parametrize(
    "options",
    [
        *({"repo_id": name} for name in ("a--b/c", "deblur", "a/b/c", None, "owner/x.git")),
        *({"tag": name} for name in ("", "a b", "..", "-v1", "v1.lock", "0" * 40, "v1/", 5)),
        {"revision": "a..b"},
        {"token": "hf_x\n"},
    ],
)
def test_what_can_be_no_name_is_refused_before_anything_is_sent(
    hub: HubServer, folder: Path, options: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=r"(repo_id|tag|revision|token) must be"):
        push_backbone(folder, **{"repo_id": REPO, "token": hub.token, **options})
    assert not hub.requests


def test_a_repository_that_is_public_is_not_taken_for_a_private_one(hub: HubServer, folder: Path) -> None:
    push_backbone(folder, REPO, token=hub.token)
    before = published(hub)
    (folder / "README.md").write_text("Secret.\n")
    with pytest.raises(WeightsError, match="is there already, and public"):
        push_backbone(folder, REPO, token=hub.token, private=True)
    assert published(hub) == before
    for _ in range(2):
        push_backbone(folder, "owner/hidden", token=hub.token, private=True)
    with pytest.raises(WeightsNotFoundError):
        load_backbone("owner/hidden")
    assert load_backbone("owner/hidden", token=hub.token)


def test_a_tag_that_fails_says_that_the_commit_is_there(hub: HubServer, folder: Path, backbone: Backbone) -> None:
    hub.fail("/tag/", status=400)
    with pytest.raises(WeightsError, match=rf"published as {REPO}@[0-9a-f]{{40}}, but not tagged v1") as raised:
        push_backbone(folder, REPO, token=hub.token, tag="v1")
    source = str(raised.value).split()[2].rstrip(",")
    assert load_backbone(source).sha256 == backbone.sha256


def test_weights_that_their_network_does_not_fit_are_not_published(
    hub: HubServer, backbone: Backbone, tmp_path: Path
) -> None:
    config = dataclasses.replace(backbone.config, taps={"stage1": Tap(27, 2)})
    with pytest.raises(WeightsFormatError):
        push_backbone(Backbone(backbone.network, config), REPO, token=hub.token)
    assert not hub.requests


def test_a_put_that_fails_once_is_tried_again(hub: HubServer, folder: Path, backbone: Backbone) -> None:
    fault = hub.fail("", status=500, method="PUT", times=1)
    assert load_backbone(push_backbone(folder, REPO, token=hub.token)).sha256 == backbone.sha256
    assert fault.count == 1


# The command


def test_the_command_prints_what_loads_it(
    hub: HubServer, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert main(["push", str(folder), REPO, "--private", "--tag", "v1"]) == 0
    output = capsys.readouterr().out
    commit = hub.repositories[REPO].tags["v1"]
    assert f"pushed: {REPO}@{commit}" in output
    assert f"tafm-loss info {REPO}@v1" in output
    assert hub.repositories[REPO].private
    assert main(["info", f"{REPO}@v1"]) == 0
    assert f'"source": "hf-hub:{REPO}@{commit}"' in capsys.readouterr().out


def test_the_command_tells_mistakes_in_a_line(hub: HubServer, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", str(folder / "nowhere"), REPO]) == 2
    assert main(["push", str(folder), "other/deblur"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2
    assert all(line.startswith("tafm-loss: error: ") for line in errors)


def test_the_session_of_the_guide_ends_in_a_fresh_process_of_somebody_else(hub: HubServer, tmp_path: Path) -> None:
    commands, session = re.findall(r"```(?:bash|python)\n(.*?)```", GUIDE, re.DOTALL)
    tune, *others = (shlex.split(line)[1:] for line in commands.splitlines())
    tune += ["--steps", "2", "--batch-size", "2", "--crop-size", "64", "--validation", "none"]
    scenes = generate_scenes(6, 96, generator=torch.Generator().manual_seed(0))
    (tmp_path / "photographs").mkdir()
    for index, scene in enumerate(scenes):
        save_image(scene, tmp_path / "photographs" / f"{index}.png")
    mine = hub_environment(hub, tmp_path / "my-home") | {"HF_TOKEN": hub.token, "PYTHONPATH": str(ROOT)}
    for command in (tune, *others):
        subprocess.run([sys.executable, "-m", "tafm_loss.cli", *command], env=mine, cwd=tmp_path, check=True)

    theirs = hub_environment(hub, tmp_path / "their-home") | {"PYTHONPATH": str(ROOT)}
    script = f"{session}\nprint(loss_fn.sha256)"
    result = subprocess.run([sys.executable, "-c", script], env=theirs, check=True, capture_output=True, text=True)
    source, sha256 = result.stdout.split()
    assert source == f"hf-hub:owner/name@{hub.repositories['owner/name'].tags['v1']}"
    assert sha256 == load_backbone(tmp_path / "my-backbone").sha256
    assert result.stderr == ""
