"""What is particular to the loss: its options, taps, units, cached targets and errors."""

import copy
import dataclasses
import hashlib
import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tafm_loss import ContrastiveFeatureLoss, TaskAdaptiveFeatureLoss, __version__, create_backbone
from tafm_loss.backbones.backbone import Backbone
from tafm_loss.losses.distances import DISTANCES
from tafm_loss.weights.folders import save_backbone
from tests.losses.toys import CONFIG, TwoTaps, embedding, image_batch, two_taps

PRED, TARGET = image_batch(0), image_batch(1)


def tap_distances(backbone: Backbone, name: str, pred: Tensor = PRED, target: Tensor = TARGET) -> dict[str, Tensor]:
    """Each tap's distance per image, from the backbone's features alone."""
    with torch.no_grad():
        ours, theirs = backbone(pred), backbone(target)
    return {tap: DISTANCES[name](ours[tap], theirs[tap]).flatten(1).mean(1) for tap in backbone.config.taps}


# ---- the sum ----


def test_by_default_taps_are_averaged_in_their_units_where_there_are_any() -> None:
    backbone = two_taps()
    distances = tap_distances(backbone, "l2")
    expected = (distances["fine"] / 0.5 + distances["coarse"] / 0.25) / 2
    loss_fn = TaskAdaptiveFeatureLoss(backbone, distance="l2", reduction="none")
    torch.testing.assert_close(loss_fn(PRED, TARGET), expected)
    distances = tap_distances(backbone, "l1")
    expected = (distances["fine"] + distances["coarse"]).mean() / 2
    torch.testing.assert_close(TaskAdaptiveFeatureLoss(backbone, distance="l1")(PRED, TARGET), expected)


def test_layers_choose_and_weigh_the_taps() -> None:
    backbone = two_taps()
    distances = {tap: values.mean() for tap, values in tap_distances(backbone, "l1").items()}

    def loss(layers: object) -> Tensor:
        return TaskAdaptiveFeatureLoss(backbone, layers=layers, distance="l1")(PRED, TARGET)

    torch.testing.assert_close(loss(["coarse"]), distances["coarse"])
    torch.testing.assert_close(loss("coarse"), distances["coarse"])
    torch.testing.assert_close(loss(["coarse", "fine"]), (distances["coarse"] + distances["fine"]) / 2)
    torch.testing.assert_close(loss({"fine": 3.0, "coarse": 0.5}), 3 * distances["fine"] + distances["coarse"] / 2)


@pytest.mark.parametrize("layers", [None, ["fine"], {"fine": 2.0, "coarse": 0.1}])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_terms_add_up_to_the_loss(layers: object, reduction: str) -> None:
    loss_fn = TaskAdaptiveFeatureLoss(two_taps(), layers=layers, distance="l2", reduction=reduction, weight=0.3)
    terms = loss_fn.terms(PRED, TARGET)
    assert list(terms) == list(layers or CONFIG.taps)
    assert torch.equal(sum(terms.values()), loss_fn(PRED, TARGET))


def test_reductions_are_those_of_the_loss_of_each_image() -> None:
    each = [TaskAdaptiveFeatureLoss(two_taps(), reduction="none")(PRED[i][None], TARGET[i][None]) for i in (0, 1)]
    alone = torch.cat(each)
    losses = {r: TaskAdaptiveFeatureLoss(two_taps(), reduction=r)(PRED, TARGET) for r in ("none", "mean", "sum")}
    torch.testing.assert_close(losses["none"], alone)
    torch.testing.assert_close(losses["mean"], alone.mean())
    torch.testing.assert_close(losses["sum"], alone.sum())


def test_weight_multiplies_and_may_change_during_training() -> None:
    loss_fn = TaskAdaptiveFeatureLoss(two_taps())
    plain = loss_fn(PRED, TARGET)
    torch.testing.assert_close(TaskAdaptiveFeatureLoss(two_taps(), weight=0.25)(PRED, TARGET), plain / 4)
    loss_fn.weight = 3.0
    torch.testing.assert_close(loss_fn(PRED, TARGET), plain * 3)


def test_input_range_is_mapped_to_zero_and_one() -> None:
    expected = TaskAdaptiveFeatureLoss(two_taps())(PRED, TARGET)
    for black, white in [(-1.0, 1.0), (0.0, 255.0), (-3.0, -2.0)]:
        pred, target = (black + (white - black) * images for images in (PRED, TARGET))
        loss = TaskAdaptiveFeatureLoss(two_taps(), input_range=(black, white))(pred, target)
        torch.testing.assert_close(loss, expected, rtol=1e-4, atol=0)


# ---- the recommended form ----


RECOMMENDED = {"recommended_layers": {"coarse": 0.5}, "recommended_distance": "l2"}


@pytest.mark.parametrize(
    ("given", "layers", "distance"),
    [
        ({}, {"coarse": 0.5}, "l2"),
        ({"layers": ["fine"]}, {"fine": 1.0}, "l2"),
        ({"distance": "l1"}, {"coarse": 0.5}, "l1"),
        ({"layers": {"fine": 2.0}, "distance": "cosine"}, {"fine": 2.0}, "cosine"),
    ],
)
def test_what_is_not_given_is_what_the_backbone_recommends(
    given: dict[str, object], layers: dict[str, float], distance: str
) -> None:
    backbone = two_taps(**RECOMMENDED)
    loss_fn = TaskAdaptiveFeatureLoss(backbone, **given)
    assert (loss_fn.layers, loss_fn.distance) == (layers, distance)
    explicit = TaskAdaptiveFeatureLoss(backbone, layers=layers, distance=distance)
    assert torch.equal(loss_fn(PRED, TARGET), explicit(PRED, TARGET)) and loss_fn(PRED, TARGET) > 0


def test_a_backbone_that_recommends_nothing_is_compared_at_all_taps_in_normalized_l2() -> None:
    loss_fn = TaskAdaptiveFeatureLoss(two_taps())
    assert (loss_fn.layers, loss_fn.distance) == ({"fine": 0.5, "coarse": 0.5}, "normalized_l2")


def test_the_default_is_the_form_that_tafm_lite_recommends() -> None:
    images = image_batch(0, 2, 65, 94), image_batch(1, 2, 65, 94)
    backbone = create_backbone("tafm-lite")
    weights = backbone.config.recommended_layers
    assert list(weights) == ["stem", "block1", "block3", "block5"]
    loss = TaskAdaptiveFeatureLoss()(*images)
    assert torch.equal(loss, TaskAdaptiveFeatureLoss(layers=weights, distance="normalized_l2")(*images))
    assert torch.equal(loss, TaskAdaptiveFeatureLoss(backbone)(*images))


def test_tafm_compact_is_compared_in_the_form_that_was_put_to_the_test() -> None:
    images = image_batch(0, 2, 65, 94), image_batch(1, 2, 65, 94)
    loss = TaskAdaptiveFeatureLoss("tafm-compact")
    explicit = TaskAdaptiveFeatureLoss("tafm-compact", layers=["stage1"], distance="structure")
    assert torch.equal(loss(*images), explicit(*images))


def test_a_recommended_distance_that_is_none_is_named_with_its_backbone() -> None:
    with pytest.raises(ValueError, match=r"recommended_distance in the config of two-taps.*did you mean 'cosine'"):
        TaskAdaptiveFeatureLoss(two_taps(recommended_distance="cosin"))


# ---- the backbone ----


def test_the_backbone_that_was_passed_is_left_alone() -> None:
    backbone = two_taps().train()
    before = backbone.sha256
    loss_fn = TaskAdaptiveFeatureLoss(backbone)
    expected = loss_fn(PRED, TARGET)
    assert backbone.training
    assert len(list(backbone.parameters())) == 2
    assert backbone.sha256 == before
    with torch.no_grad():
        backbone.network.mix.weight.zero_()
    assert torch.equal(loss_fn(PRED, TARGET), expected)


def test_it_follows_the_loss_to_another_dtype_and_device() -> None:
    parent = nn.ModuleDict({"loss": TaskAdaptiveFeatureLoss(two_taps())})
    parent.double()
    assert parent["loss"].features(PRED).maps["fine"].dtype == torch.float64
    parent.to("meta")
    assert parent["loss"].backbone.mean.device.type == "meta"


@pytest.mark.parametrize("layers", [None, ["stage1"]])
def test_a_name_loads_no_more_than_the_layers_need(layers: list[str] | None) -> None:
    backbone = create_backbone("tafm-compact")
    whole = TaskAdaptiveFeatureLoss(backbone, layers=list(backbone.config.taps))
    cut = TaskAdaptiveFeatureLoss("tafm-compact", layers=layers)
    assert set(cut.backbone.state()) < set(whole.backbone.state())
    pred, target = image_batch(0, 1, 64, 64), image_batch(1, 1, 64, 64)
    torch.testing.assert_close(cut(pred, target), whole.terms(pred, target)["stage1"] * 4)


def cut_losses(folder: Path, source: Backbone) -> dict[str, tuple[TaskAdaptiveFeatureLoss, set[str]]]:
    """Return losses that read `source` in several ways, and the names of the weights that each should hold."""
    save_backbone(source, folder)
    sha256 = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    first, three = (
        {name for name in source.state() if name.startswith(parts)}
        for parts in (("stem",), ("stem", "stages.0", "stages.1"))
    )
    load = TaskAdaptiveFeatureLoss.from_pretrained
    return {
        "an object": (TaskAdaptiveFeatureLoss(source), first),
        "an object, with layers": (TaskAdaptiveFeatureLoss(source, layers=["stage3"]), three),
        "an object, all": (ContrastiveFeatureLoss(source), set(source.state())),
        "a digest": (load(folder, sha256=sha256), first),
        "a digest, with layers": (load(folder, sha256=sha256, layers={"stage3": 1.0}), three),
        "a digest, all": (ContrastiveFeatureLoss.from_pretrained(folder, sha256=sha256), set(source.state())),
    }


def test_every_way_to_name_a_backbone_loads_no_more_than_is_read(tmp_path: Path) -> None:
    source = create_backbone("tafm-compact")
    source.config = dataclasses.replace(source.config, name="mine")
    for way, (loss_fn, expected) in cut_losses(tmp_path, source).items():
        assert set(loss_fn.backbone.state()) == expected, way
        assert loss_fn.sha256 == source.sha256, way
    whole = TaskAdaptiveFeatureLoss(source, layers=list(source.config.taps))
    images = image_batch(0, 1, 64, 64), image_batch(1, 1, 64, 64)
    torch.testing.assert_close(TaskAdaptiveFeatureLoss(source)(*images), 4 * whole.terms(*images)["stage1"])
    assert TaskAdaptiveFeatureLoss(source)(images[0], whole.features(images[1])) > 0


def test_a_cut_copy_keeps_the_type_of_the_numbers_and_another_network_is_not_cut() -> None:
    source = create_backbone("tafm-compact").double()
    assert TaskAdaptiveFeatureLoss(source).backbone.network.stem.fine.dtype == torch.float64
    other = two_taps(architecture="tafm-compact", recommended_layers={"fine": 1.0})
    assert TaskAdaptiveFeatureLoss(other)(PRED, TARGET) > 0


def test_a_saved_backbone_loads_from_its_folder(tmp_path: Path) -> None:
    whole = TaskAdaptiveFeatureLoss()
    save_backbone(whole.backbone, tmp_path)
    sha256 = hashlib.sha256((tmp_path / "model.safetensors").read_bytes()).hexdigest()
    images = image_batch(0, 1, 64, 64), image_batch(1, 1, 64, 64)
    for loss_fn in (
        TaskAdaptiveFeatureLoss(tmp_path),
        TaskAdaptiveFeatureLoss(str(tmp_path)),
        TaskAdaptiveFeatureLoss.from_pretrained(tmp_path, weight=1.0),
    ):
        assert loss_fn.sha256 == sha256
        assert torch.equal(loss_fn(*images), whole(*images))


def test_repr_says_what_a_paper_would_cite() -> None:
    backbone = two_taps()
    text = repr(TaskAdaptiveFeatureLoss(backbone, layers={"coarse": 0.5}, distance="l2", weight=0.1))
    for part in ("two-taps", backbone.sha256[:8], "'coarse': 0.5", "distance='l2'", "weight=0.1", __version__):
        assert part in text
    assert "fine" not in text
    assert "\n" not in text


# ---- cached targets ----


def test_features_stand_for_their_images_and_are_not_computed_again() -> None:
    loss_fn = TaskAdaptiveFeatureLoss(two_taps())
    features = loss_fn.features(TARGET)
    network = loss_fn.backbone.network
    before = network.calls
    loss = loss_fn(PRED, features)
    assert network.calls == before + 1 and torch.equal(loss, loss_fn(PRED, TARGET))
    assert torch.equal(loss_fn.distance_map(PRED, features), loss_fn.distance_map(PRED, TARGET))
    assert features.image_shape == tuple(TARGET.shape)


def test_features_are_reusable_by_a_loss_of_fewer_taps_and_other_options() -> None:
    features = TaskAdaptiveFeatureLoss(two_taps()).features(TARGET)
    other = TaskAdaptiveFeatureLoss(two_taps(), layers=["coarse"], distance="l1", reduction="none")
    assert torch.equal(other(PRED, features), other(PRED, TARGET))


def test_gradient_does_not_reach_images_behind_cached_features_that_may_be_of_inference_mode() -> None:
    loss_fn = TaskAdaptiveFeatureLoss(two_taps())
    target, pred = TARGET.clone().requires_grad_(), PRED.clone().requires_grad_()
    features = loss_fn.features(target)
    assert features.maps["fine"].requires_grad
    loss_fn(pred, features).backward()
    assert pred.grad is not None
    assert target.grad is None
    with torch.inference_mode():
        features = loss_fn.features(TARGET)
    pred.grad = None
    loss_fn(pred, features).backward()
    assert pred.grad is not None


def test_features_move_and_pickle() -> None:
    loss_fn = TaskAdaptiveFeatureLoss(two_taps())
    features = loss_fn.features(TARGET)
    assert all(tensor.device.type == "meta" for tensor in features.to("meta").maps.values())
    for twin in (pickle.loads(pickle.dumps(features)), copy.deepcopy(features), features.to("cpu")):
        assert torch.equal(loss_fn(PRED, twin), loss_fn(PRED, TARGET))


def test_cached_targets_trace_as_one_graph() -> None:
    torch.compiler.reset()
    loss_fn = TaskAdaptiveFeatureLoss(two_taps())
    features = loss_fn.features(TARGET)
    compiled = torch.compile(loss_fn, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(PRED, features), loss_fn(PRED, TARGET))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TaskAdaptiveFeatureLoss(two_taps(seed=1)).features(TARGET), "another backbone"),
        (lambda: TaskAdaptiveFeatureLoss(two_taps(), layers=["fine"]).features(TARGET), "no features of coarse, only"),
        (lambda: TaskAdaptiveFeatureLoss(two_taps()).features(TARGET[:1]), r"\(1, 3, 12, 16\).*\(2, 3, 12, 16\)"),
        (lambda: TaskAdaptiveFeatureLoss(two_taps()).features(TARGET[..., 1:]), r"\(2, 3, 12, 15\)"),
        (lambda: TaskAdaptiveFeatureLoss(two_taps()).features(TARGET).to("meta"), r"meta.*target\.to"),
    ],
)
def test_features_that_do_not_fit_are_errors(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TaskAdaptiveFeatureLoss(two_taps())(PRED, make())


def test_features_check_their_images() -> None:
    loss_fn = TaskAdaptiveFeatureLoss(two_taps())
    with pytest.raises(TypeError, match=r"images must be a floating"):
        loss_fn.features((TARGET * 255).byte())
    with pytest.raises(ValueError, match="images must be at least 8 px"):
        loss_fn.features(TARGET[..., :7])
    with pytest.warns(UserWarning, match="input_range"):
        loss_fn.features(TARGET * 255)


# ---- the map ----


@pytest.mark.parametrize("name", DISTANCES)
def test_the_mean_of_the_map_is_the_loss(name: str) -> None:
    loss_fn = TaskAdaptiveFeatureLoss(two_taps(), distance=name, reduction="none", weight=0.7)
    distance_map = loss_fn.distance_map(PRED, TARGET)
    assert distance_map.shape == (2, 1, 12, 16)
    assert distance_map.dtype == torch.float32
    torch.testing.assert_close(distance_map.mean((1, 2, 3)), loss_fn(PRED, TARGET), rtol=0.02, atol=0)


def test_the_map_of_the_default_has_the_size_of_the_image() -> None:
    loss_fn = TaskAdaptiveFeatureLoss(layers=["stem", "block5"])
    pred, target = image_batch(0, 1, 65, 94), image_batch(1, 1, 65, 94)
    distance_map = loss_fn.distance_map(pred, target)
    assert distance_map.shape == (1, 1, 65, 94)
    torch.testing.assert_close(distance_map.mean(), loss_fn(pred, target), rtol=0.1, atol=0)


def test_the_map_is_bright_where_the_images_differ() -> None:
    pred = TARGET.clone()
    pred[:, :, :4, :4] = 1 - pred[:, :, :4, :4]
    distance_map = TaskAdaptiveFeatureLoss(two_taps()).distance_map(pred, TARGET)
    assert distance_map[..., :4, :4].mean() > 0
    # Beyond the patch by more than the interpolation of the coarse tap reaches.
    assert distance_map[..., 6:, :].abs().max() == 0
    assert distance_map[..., :, 6:].abs().max() == 0


def test_an_embedding_has_a_loss_but_no_map() -> None:
    loss_fn = TaskAdaptiveFeatureLoss(embedding(), distance="l2", reduction="none")
    backbone = embedding()
    with torch.no_grad():
        expected = (backbone(PRED)["end"] - backbone(TARGET)["end"]).square().mean(1)
    torch.testing.assert_close(loss_fn(PRED, TARGET), expected)
    with pytest.raises(ValueError, match="ends in an embedding"):
        loss_fn.distance_map(PRED, TARGET)


# ---- wrong options ----


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"distance": "normalised_l2"}, r"distance must be one of .*did you mean 'normalized_l2'"),
        ({"distance": "l3"}, r"distance must be one of .*got 'l3'"),
        ({"reduction": "means"}, r"reduction must be one of .*did you mean 'mean'"),
        ({"layers": ["coarce"]}, r"layers must be one of 'fine', 'coarse'.*did you mean 'coarse'"),
        ({"layers": {"fien": 1.0}}, r"did you mean 'fine'"),
        ({"layers": "corse"}, r"did you mean 'coarse'"),
        ({"layers": []}, r"at least one tap of fine, coarse"),
        ({"layers": {}}, r"at least one tap"),
        ({"layers": ["fine", "fine"]}, r"each tap once"),
        ({"layers": {"fine": -1.0}}, r"weight of layer fine must be finite and not negative, got -1\.0"),
        ({"layers": {"fine": float("inf")}}, r"weight of layer fine"),
        ({"weight": -0.1}, r"weight must be finite and not negative, got -0\.1"),
        ({"weight": float("nan")}, r"weight must be finite.*nan"),
        ({"input_range": (1.0, 0.0)}, r"black < white"),
        ({"input_range": (0.5, 0.5)}, r"black < white"),
        ({"input_range": (0.0, float("inf"))}, r"two finite numbers"),
        ({"input_range": (0.0, 0.5, 1.0)}, r"two finite numbers"),
    ],
)
def test_wrong_options_are_errors(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TaskAdaptiveFeatureLoss(two_taps(), **options)


def test_a_backbone_of_another_type_or_name_is_an_error() -> None:
    with pytest.raises(TypeError, match="a Backbone, got TwoTaps"):
        TaskAdaptiveFeatureLoss(TwoTaps())
    with pytest.raises(Exception, match="tafm-compact"):
        TaskAdaptiveFeatureLoss("tafm-compct")
