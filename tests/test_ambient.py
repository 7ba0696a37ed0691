"""What the caller has set for the whole process reaches neither what is built, loaded or drawn, nor the loss."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import accelerate
import pytest
import torch
from torch import Tensor, nn

from tafm_loss import Backbone, BlurSynthesizer, TaskAdaptiveFeatureLoss, create_backbone, finetune_backbone
from tafm_loss.distractors import grey, stranger
from tafm_loss.scenes import generate_scenes
from tests.losses import toys
from tests.losses.test_contract import LOSSES, Parent, image_batch, loss_and_gradient
from tests.losses.toys import embedding, two_taps


@contextlib.contextmanager
def default(set_it: Callable[[object], None], value: object, usual: object) -> Iterator[None]:
    set_it(value)
    try:
        yield
    finally:
        set_it(usual)


STATES: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "device": lambda: torch.device("meta"),
    "default device": lambda: default(torch.set_default_device, "meta", None),
    "float64": lambda: default(torch.set_default_dtype, torch.float64, torch.float32),
    "bfloat16": lambda: default(torch.set_default_dtype, torch.bfloat16, torch.float32),
    "inference": torch.inference_mode,
}


@pytest.fixture(params=STATES.values(), ids=STATES.keys())
def state(request: pytest.FixtureRequest) -> Callable[[], AbstractContextManager[object]]:
    return request.param


# A network of the caller's own is made before; of the others all is made inside.
OWN = {"batch-statistics", "embedding", "discriminators", "clip-embedding"}
MADE = {name: make for name, make in LOSSES.items() if name not in OWN}
MADE |= {f"own {b.config.name}": functools.partial(TaskAdaptiveFeatureLoss, b) for b in (two_taps(), embedding())}


@pytest.mark.parametrize("make", MADE.values(), ids=MADE.keys())
def test_a_loss_is_the_same_wherever_it_is_made_and_called(make: Callable[[], nn.Module], state) -> None:
    pred, target = image_batch(0), image_batch(1)
    expected = loss_and_gradient(make(), pred, target)
    with state():
        loss_fn = make()
        assert torch.equal(loss_fn(pred, target), expected[0])
    assert all(map(torch.equal, loss_and_gradient(loss_fn, pred, target), expected))


def tuned() -> Tensor:
    options = {"steps": 1, "batch_size": 2, "crop_size": 48, "progress": False, "validation": None}
    images = generate_scenes(3, 48, generator=torch.Generator().manual_seed(0))
    return torch.cat(
        [t.flatten() for t in finetune_backbone("tafm-compact", images, **options).backbone.state().values()]
    )


IMAGES, LARGE = image_batch(0), toys.image_batch(0, 1, 64, 64)
DRAWN: dict[str, Callable[[], Tensor]] = {
    "scenes": lambda: generate_scenes(2, 32, generator=torch.Generator().manual_seed(0)),
    "blur": lambda: BlurSynthesizer((0, 5))(IMAGES, generator=torch.Generator().manual_seed(0)),
    "varying blur": lambda: BlurSynthesizer((0, 5), roll_deg=1)(LARGE, generator=torch.Generator().manual_seed(0)),
    "random weights": lambda: create_backbone("squeezenet1_0", weights=None).state()["features.0.weight"],
    "grey": lambda: grey(IMAGES),
    "stranger": lambda: stranger(IMAGES),
    "tuned": tuned,
}


@pytest.mark.filterwarnings("ignore:the backbone squeezenet1_0 has random weights")
@pytest.mark.parametrize("draw", DRAWN.values(), ids=DRAWN.keys())
def test_what_is_drawn_depends_on_its_generator_alone(draw: Callable[[], Tensor], state) -> None:
    torch.manual_seed(0)
    expected = draw()
    torch.manual_seed(0)
    with state():
        assert torch.equal(draw(), expected)


def test_the_state_is_given_back_after_an_error() -> None:
    with default(torch.set_default_dtype, torch.float64, torch.float32), pytest.raises(ValueError, match="no tap"):
        create_backbone("tafm-compact", layers=["stage9"])
    with default(torch.set_default_dtype, torch.float64, torch.float32):
        with contextlib.suppress(ValueError):
            create_backbone("tafm-compact", layers=["stage9"])
        assert torch.get_default_dtype() == torch.float64


# ---- weights that are emptied ----


def test_a_parent_that_is_emptied_and_filled_keeps_the_loss() -> None:
    # As sharded training does: a model without weights, to_empty, then a checkpoint.
    pred, target = image_batch(0), image_batch(1)
    expected = TaskAdaptiveFeatureLoss()(pred, target)
    with torch.device("meta"):
        parent = Parent(TaskAdaptiveFeatureLoss())
    parent.to_empty(device="cpu")
    assert parent.net.weight.device.type == "cpu"
    assert torch.equal(parent.loss(pred, target), expected)


def test_weights_that_were_lost_are_an_error_and_no_number() -> None:
    parent = Parent(TaskAdaptiveFeatureLoss()).to("meta")
    for refill in (lambda: parent.to_empty(device="cpu"), lambda: parent.loss.to("cpu")):
        with pytest.raises(RuntimeError, match=r"lost on the device meta; make the loss anew"):
            refill()
    with accelerate.init_empty_weights(), pytest.raises(RuntimeError, match=r"init_empty_weights.*outside of it"):
        TaskAdaptiveFeatureLoss()
    with pytest.raises(RuntimeError, match="no weights: it is on the device meta"):
        TaskAdaptiveFeatureLoss(two_taps().to("meta"))


def test_the_loss_follows_to_types_and_layouts() -> None:
    loss_fn = TaskAdaptiveFeatureLoss(two_taps(), distance="l1")
    expected = loss_fn(image_batch(0), image_batch(1))
    loss_fn.to(torch.float64, memory_format=torch.channels_last)
    weight = loss_fn.backbone.network.mix.weight
    assert weight.dtype == torch.float64 and weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(loss_fn(image_batch(0), image_batch(1)), expected)


def test_a_backbone_normalises_in_the_type_of_its_network() -> None:
    double = Backbone(two_taps().network.double(), two_taps().config)
    assert double(image_batch(0))["fine"].dtype == torch.float64
