"""Saving and loading: round trips, every kind of source, and damage."""

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from tafm_loss import (
    Backbone,
    BackboneConfig,
    Tap,
    WeightsCorruptError,
    WeightsError,
    WeightsFormatError,
    WeightsNotFoundError,
    create_backbone,
    load_backbone,
    save_backbone,
)

COMMIT = "0123456789abcdef" * 2 + "01234567"


class Mine(nn.Module):
    """An architecture that no list knows."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"map": self.norm(self.conv(images))}


@pytest.fixture
def backbone() -> Backbone:
    with torch.random.fork_rng(), pytest.warns(UserWarning, match="random weights"):
        torch.manual_seed(0)
        backbone = create_backbone("squeezenet1_1", weights=None, layers=["relu1", "fire3"])
    units = {"l2": {"relu1": 0.5, "fire3": 0.25}}
    backbone.config = dataclasses.replace(backbone.config, name="tuned", units=units, measurements={"selectivity": 4.5})
    return backbone


@pytest.fixture
def mine() -> Backbone:
    config = BackboneConfig("mine", "mine-of-3", {"map": Tap(4, 1)}, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Backbone(Mine(), config).eval()


@pytest.fixture
def folder(backbone: Backbone, tmp_path: Path) -> Path:
    return save_backbone(backbone, tmp_path / "saved")


@pytest.fixture
def images() -> Tensor:
    return torch.rand(1, 3, 37, 45, generator=torch.Generator().manual_seed(0))


def same(first: Backbone, second: Backbone, images: Tensor) -> bool:
    ours, theirs = first(images), second(images)
    return (
        first.sha256 == second.sha256
        and first.config == second.config
        and ours.keys() == theirs.keys()
        and all(torch.equal(ours[tap], theirs[tap]) for tap in ours)
    )


@pytest.mark.parametrize("frozen", [False, True])
def test_what_is_saved_comes_back_bit_for_bit(backbone: Backbone, tmp_path: Path, images: Tensor, frozen: bool) -> None:
    saved = save_backbone(backbone.frozen_copy() if frozen else backbone, tmp_path / "new" / "folder")
    loaded = load_backbone(saved)
    assert same(loaded, backbone, images)
    assert not loaded.training
    assert all(parameter.requires_grad for parameter in loaded.parameters())


def test_the_folder_holds_two_files_and_the_digest_is_the_backbones(folder: Path, backbone: Backbone) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    config = json.loads((folder / "config.json").read_text())
    data = (folder / "model.safetensors").read_bytes()
    assert config["weights"] == {"file": "model.safetensors", "size": len(data), "sha256": backbone.sha256}
    assert config["backbone"]["name"] == "tuned"


@pytest.mark.skipif(os.name == "nt", reason="permissions are of POSIX")
def test_files_are_as_readable_as_any_other(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "other").write_text("")
    for path in folder.iterdir():
        assert path.stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize("step", [(os, "replace"), (Path, "write_bytes"), (Path, "write_text")])
def test_saving_again_replaces_and_a_failure_leaves_what_was_there(
    folder: Path, backbone: Backbone, mine: Backbone, monkeypatch: pytest.MonkeyPatch, step: tuple[Any, str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("no space")

    with monkeypatch.context() as patched:
        patched.setattr(*step, fail)
        with pytest.raises(OSError, match="no space"):
            save_backbone(mine, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert load_backbone(folder).sha256 == backbone.sha256
    save_backbone(mine, folder)
    assert load_backbone(folder, module=Mine()).sha256 == mine.sha256


@pytest.mark.parametrize("spell", [str, Path, lambda path: f"local-dir:{path}"])
def test_a_folder_may_be_given_in_three_ways(folder: Path, backbone: Backbone, spell: Callable[[Path], Any]) -> None:
    assert load_backbone(spell(folder)).sha256 == backbone.sha256


def test_weights_load_without_their_config_beside_them(folder: Path, backbone: Backbone, tmp_path: Path) -> None:
    alone = shutil.copy(folder / "model.safetensors", tmp_path / "alone.safetensors")
    assert load_backbone(alone).config == backbone.config
    assert load_backbone(str(alone)).sha256 == backbone.sha256
    safetensors.torch.save_file({"weight": torch.zeros(1)}, alone)
    with pytest.raises(WeightsFormatError, match="says nothing of its architecture and normalisation"):
        load_backbone(alone)


def test_a_relative_folder_goes_before_the_hub(
    folder: Path, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent.parent)
    assert load_backbone(f"{folder.parent.name}/{folder.name}").sha256 == backbone.sha256


def test_a_listed_name_is_loaded_and_its_digest_checked() -> None:
    backbone = load_backbone("tafm-compact")
    assert load_backbone("tafm-compact", sha256=backbone.sha256.upper()).sha256 == backbone.sha256
    with pytest.raises(WeightsCorruptError, match="expected 0000"):
        load_backbone("tafm-compact", sha256="0" * 64)
    with pytest.raises(ValueError, match=r"revision= is for a repository on the Hub, and 'tafm-compact' is none"):
        load_backbone("tafm-compact", revision="main")
    with pytest.raises(ValueError, match="module= does not apply"):
        load_backbone("tafm-compact", module=Mine())


def test_a_source_that_is_nothing_says_how_it_was_read() -> None:
    with pytest.raises(WeightsNotFoundError, match=r"did you mean 'tafm-compact'\?.*also takes a folder"):
        load_backbone("tafm-compcat")
    with pytest.raises(WeightsNotFoundError, match=r"no backbone in .*there is no config\.json"):
        load_backbone(Path("not/there"))


@pytest.mark.parametrize("source", ["./nothing", "/nothing/here", "~/nothing-here", ".."])
def test_what_is_spelt_as_a_path_is_never_looked_for_on_the_hub(source: str) -> None:
    with pytest.raises(WeightsError, match="no backbone in"):
        load_backbone(source)


def test_the_digest_that_the_user_gives_is_checked(folder: Path, backbone: Backbone) -> None:
    assert load_backbone(folder, sha256=backbone.sha256.upper()).sha256 == backbone.sha256
    with pytest.raises(WeightsError, match="or another file"):
        load_backbone(folder, sha256="0" * 64)


@pytest.mark.parametrize("sha256", ["", "0" * 63, "sha256:" + "0" * 64, b"0" * 64, 5, True, "g" * 64])
def test_a_digest_that_is_none_is_an_error_of_its_own(folder: Path, sha256: Any) -> None:
    with pytest.raises(ValueError, match="sha256 must be 64 hexadecimal digits"):
        load_backbone(folder, sha256=sha256)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("~nobody-of-this-name/x", "in the home of a user who is not known"),
        ("x" * 5000, r"no backbone is called 'x{80}\.\.\.'"),
        ("nul\0", "no backbone is called"),
        ("out/model.safetensors", r"cannot read the weights .*model\.safetensors"),
        ("x.pth", r"no backbone in x\.pth"),
        ("C:\\missing", "no backbone is called"),
    ],
)
def test_a_source_of_an_odd_spelling_is_not_found(source: str, message: str) -> None:
    with pytest.raises(WeightsNotFoundError, match=message):
        load_backbone(source)


def test_a_file_that_is_no_backbone_says_what_is_expected(folder: Path) -> None:
    with pytest.raises(WeightsFormatError, match=r"config\.json is a file, expected a folder, or a model\.safetensors"):
        load_backbone(folder / "config.json")


@pytest.mark.parametrize("source", [None, b"x", 5])
def test_a_source_of_another_type_is_a_type_error(source: Any) -> None:
    with pytest.raises(TypeError, match=r"source must be text or a path|expected str, bytes or os\.PathLike"):
        load_backbone(source)


def test_options_for_repositories_are_refused_for_names_that_do_not_know_them(tmp_path: Path) -> None:
    for options in ({"token": "hf_x"}, {"cache_dir": tmp_path}, {"local_files_only": True}):
        with pytest.raises(ValueError, match="are for repositories, and 'vgg19' is a name"):
            load_backbone("vgg19", **options)
    assert load_backbone("tafm-compact", local_files_only=True)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_pipe_is_refused_and_not_waited_for(folder: Path, name: str) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(WeightsError, match="it is no regular file"):
        load_backbone(folder)
    if name == "model.safetensors":
        with pytest.raises(WeightsError, match="it is no regular file"):
            load_backbone(folder / name)


# Architectures of the user


def test_weights_of_another_architecture_need_its_module(mine: Backbone, tmp_path: Path, images: Tensor) -> None:
    folder = save_backbone(mine, tmp_path)
    with pytest.raises(WeightsError, match=r"'mine-of-3'.*module=\.\.\."):
        load_backbone(folder)
    module = Mine()
    before = module.conv.weight.clone()
    assert same(load_backbone(folder, module=module), mine, images)
    assert torch.equal(module.conv.weight, before)
    assert load_backbone(folder, layers=["map"], module=module).config == mine.config
    with pytest.raises(ValueError, match="layers must be taps of mine, map, got other"):
        load_backbone(folder, layers="other", module=module)


@pytest.mark.parametrize("module", [5, Mine, "mine"])
def test_a_module_must_be_an_instance(mine: Backbone, tmp_path: Path, module: Any) -> None:
    with pytest.raises(TypeError, match="module must be an instance of your network"):
        load_backbone(save_backbone(mine, tmp_path), module=module)


def test_a_module_that_is_not_in_memory_yet_is_filled(mine: Backbone, tmp_path: Path, images: Tensor) -> None:
    with torch.device("meta"):
        module = Mine()
    assert same(load_backbone(save_backbone(mine, tmp_path), module=module), mine, images)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"taps": {"map": Tap(5, 1)}}, r"\(4, 5\).*the network .*\(4, 4\)"),
        ({"taps": {"other": Tap(4, 1)}}, "other"),
        ({"spatial": False}, r"\(2, 4\)"),
        ({"minimum_size": 2}, "does not take an image of 2 px"),
    ],
)
def test_a_config_that_the_module_belies_is_refused(
    mine: Backbone, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    mine.config = dataclasses.replace(mine.config, **change)
    with pytest.raises(WeightsFormatError, match=f"fits Mine, but .*{message}"):
        load_backbone(save_backbone(mine, tmp_path), module=Mine())


def test_a_smallest_image_that_is_too_small_for_a_listed_network_is_refused(backbone: Backbone, tmp_path: Path) -> None:
    backbone.config = dataclasses.replace(backbone.config, minimum_size=1)
    with pytest.raises(WeightsFormatError, match=r"says that 1 px are enough, but \d+ are needed"):
        load_backbone(save_backbone(backbone, tmp_path))


def test_a_module_that_does_not_fit_is_refused(mine: Backbone, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"does not fit Conv2d: missing: weight, bias; unexpected: conv\.bias"):
        load_backbone(save_backbone(mine, tmp_path), module=nn.Conv2d(3, 4, 3))


# Damage


def test_a_flipped_byte_or_a_cut_is_found(folder: Path) -> None:
    path = folder / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(WeightsError, match="sha256"):
        load_backbone(folder)
    path.write_bytes(data[:-1])
    with pytest.raises(WeightsError, match=f"has {len(data) - 1} bytes, expected {len(data)}"):
        load_backbone(folder)
    path.unlink()
    with pytest.raises(WeightsError, match=r"cannot read the weights .*model\.safetensors"):
        load_backbone(folder)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ((), [], "expected a JSON object, got list"),
        (("format",), "other", "describes no backbone"),
        (("format_version",), 2, "upgrade tafm-loss"),
        (("format_version",), True, "not as save_backbone writes it"),
        (("format_version",), "1", "not as save_backbone writes it"),
        (("weights",), None, "not as save_backbone writes it"),
        (("weights", "file"), "../../elsewhere.safetensors", "not as save_backbone writes it"),
        (("weights", "size"), True, "not as save_backbone writes it"),
        (("weights", "sha256"), 5, "not as save_backbone writes it"),
        (("weights", "sha256"), "0" * 64, "expected 0000"),
        (("backbone", "mean"), [0.0, 0.0, 0.0], "does not describe the weights beside it"),
    ],
)
def test_a_config_that_was_changed_is_refused(folder: Path, path: tuple[str, ...], value: Any, message: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    target = config
    for key in path[:-1]:
        target = target[key]
    if path:
        target[path[-1]] = value
    (folder / "config.json").write_text(json.dumps(config if path else value))
    with pytest.raises(WeightsError, match=message):
        load_backbone(folder)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"{", b"[" * 100_000, b" " * (2**20 + 1), b"9" * 5000])
def test_a_config_that_is_no_json_is_refused(folder: Path, content: bytes) -> None:
    (folder / "config.json").write_bytes(content)
    with pytest.raises(WeightsError, match=r"config\.json is no JSON that can be trusted"):
        load_backbone(folder)


def test_weights_that_are_not_finite_are_neither_saved_nor_loaded(folder: Path, backbone: Backbone) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with torch.no_grad():
        next(backbone.parameters()).view(-1)[0] = torch.nan
    with pytest.raises(WeightsFormatError, match=r"tuned has values that are not finite: in: features\.0\.weight"):
        save_backbone(backbone, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    data = backbone.serialise()
    (folder / "model.safetensors").write_bytes(data)
    config = json.loads((folder / "config.json").read_text())
    config["weights"].update(size=len(data), sha256=hashlib.sha256(data).hexdigest())
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsFormatError, match=r"not finite: in: features\.0\.weight"):
        load_backbone(folder)


def test_what_could_not_be_loaded_again_is_not_saved(backbone: Backbone, tmp_path: Path) -> None:
    backbone.config = dataclasses.replace(backbone.config, measurements={"a": "b" * 2**20})
    with pytest.raises(WeightsFormatError, match="the backbone tuned"):
        save_backbone(backbone, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_digest_is_that_of_the_file_whether_or_not_the_network_is_cut(
    folder: Path, backbone: Backbone, images: Tensor
) -> None:
    cut = load_backbone(folder, layers="relu1")
    assert (list(cut.config.taps), cut.config.units) == (["relu1"], {"l2": {"relu1": 0.5}})
    assert cut.sha256 == backbone.sha256
    assert len(cut.state()) < len(backbone.state())
    assert torch.equal(cut(images)["relu1"], backbone(images)["relu1"])
    saved = load_backbone(save_backbone(cut, folder.parent / "cut"))
    assert saved.sha256 == hashlib.sha256(cut.serialise()).hexdigest() != cut.sha256
    with pytest.raises(ValueError, match="has no tap 'relu7'"):
        load_backbone(folder, layers=["relu7"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_saved_in_float32_and_keeps_its_digest(
    backbone: Backbone, tmp_path: Path, dtype: torch.dtype
) -> None:
    half = backbone.to(dtype)
    loaded = load_backbone(save_backbone(half, tmp_path))
    assert loaded.sha256 == half.sha256
    assert load_backbone(tmp_path, sha256=loaded.sha256)
    for name, tensor in loaded.state().items():
        torch.testing.assert_close(tensor, half.state()[name].float(), rtol=0, atol=0)


def test_a_config_that_lies_about_the_network_is_refused(backbone: Backbone, tmp_path: Path) -> None:
    taps = {"relu1": Tap(64, 2), "fire3": Tap(128, 8)}
    backbone.config = dataclasses.replace(backbone.config, taps=taps)
    with pytest.raises(WeightsError, match=r"says fire3 is .*stride=8.*but the network has .*stride=4"):
        load_backbone(save_backbone(backbone, tmp_path))
    backbone.config = dataclasses.replace(backbone.config, taps={"relu7": Tap(64, 2)})
    with pytest.raises(WeightsError, match="has no tap 'relu7'"):
        load_backbone(save_backbone(backbone, tmp_path))


def test_foreign_safetensors_with_a_config_of_ours_beside_it_are_refused(folder: Path) -> None:
    data = safetensors.torch.save({"weight": torch.zeros(1)})
    (folder / "model.safetensors").write_bytes(data)
    config = json.loads((folder / "config.json").read_text())
    config["weights"].update(size=len(data), sha256=hashlib.sha256(data).hexdigest())
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match="does not describe the weights beside it"):
        load_backbone(folder)
