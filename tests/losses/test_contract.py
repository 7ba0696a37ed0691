"""The contract that every loss keeps. A loss joins by one line in `LOSSES`."""

import copy
import functools
import pickle
import random
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

from tafm_loss.backbones.backbone import Backbone
from tafm_loss.backbones.config import BackboneConfig, Tap
from tafm_loss.backbones.discriminators import PatchDiscriminators, discriminator_backbone
from tafm_loss.backbones.embedding import EmbeddingNetwork
from tafm_loss.losses import TaskAdaptiveFeatureLoss
from tafm_loss.losses.contrastive import ContrastiveFeatureLoss
from tafm_loss.losses.distances import DISTANCES
from tafm_loss.mdf import DiscriminativeFeatureLoss
from tests.losses import toys


class TrapNetwork(nn.Module):
    """Everything that train mode changes: batch statistics and dropout."""

    def __init__(self, spatial: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.dropout = nn.Dropout(0.5)
        self.spatial = spatial

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features = self.dropout(self.norm(self.conv(images)))
        return {"end": features if self.spatial else features.mean((2, 3))}


def trap_backbone(spatial: bool = True) -> Backbone:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = TrapNetwork(spatial)
    config = BackboneConfig(
        "trap", "trap", {"end": Tap(6, 2)}, (0.5,) * 3, (0.25,) * 3, minimum_size=4, spatial=spatial
    )
    return Backbone(network, config)


@functools.cache
def clip_embedding_loss() -> TaskAdaptiveFeatureLoss:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = EmbeddingNetwork(32, block=0)
    config = BackboneConfig("clip", "clip", {"embedding": Tap(1024, 32)}, (0.5,) * 3, (0.25,) * 3, 16, spatial=False)
    return TaskAdaptiveFeatureLoss(Backbone(network, config), distance="l2")


def random_discriminators() -> Backbone:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return discriminator_backbone(PatchDiscriminators([4, 6]), "random")


class AgainstMirrored(ContrastiveFeatureLoss):
    """The contrastive loss as one of two images: the target, mirrored, is the negative."""

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        return super().forward(pred, target, target.flip(-1) if isinstance(target, Tensor) else target)


LOSSES = {
    "default": TaskAdaptiveFeatureLoss,
    **{name: functools.partial(TaskAdaptiveFeatureLoss, distance=name) for name in DISTANCES},
    "compact": functools.partial(TaskAdaptiveFeatureLoss, "tafm-compact"),
    "batch-statistics": lambda: TaskAdaptiveFeatureLoss(trap_backbone()),
    "embedding": lambda: TaskAdaptiveFeatureLoss(trap_backbone(spatial=False), distance="l2"),
    "contrastive": AgainstMirrored,
    "discriminators": lambda: DiscriminativeFeatureLoss(random_discriminators()),
    "clip-embedding": lambda: copy.deepcopy(clip_embedding_loss()),
}


class Parent(nn.Module):
    """A model that holds its loss, as Lightning modules and some trainers do."""

    def __init__(self, loss: nn.Module | None) -> None:
        super().__init__()
        self.net = nn.Conv2d(3, 3, 3, padding=1)
        if loss is not None:
            self.loss = loss

    def forward(self, images: Tensor, target: Tensor) -> Tensor:
        return self.loss(self.net(images), target)


@pytest.fixture(params=LOSSES.values(), ids=LOSSES.keys())
def loss_fn(request: pytest.FixtureRequest) -> nn.Module:
    return request.param()


image_batch = functools.partial(toys.image_batch, height=37, width=46)


def loss_and_gradient(loss_fn: nn.Module, pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    pred = pred.clone().requires_grad_()
    loss = loss_fn(pred, target)
    (gradient,) = torch.autograd.grad(loss, pred)
    return loss.detach(), gradient


# ---- values ----


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", [(37, 46), (64, 16), (33, 71)])
def test_any_shape_and_dtype_gives_a_finite_float32(
    loss_fn: nn.Module, dtype: torch.dtype, size: tuple[int, int]
) -> None:
    pred, target = (toys.image_batch(seed, 2, *size).to(dtype) for seed in (0, 1))
    loss, gradient = loss_and_gradient(loss_fn, pred, target)
    assert loss.dtype == torch.float32
    assert loss.shape == ()
    assert loss > 0
    assert loss.isfinite()
    assert gradient.dtype == dtype
    assert gradient.isfinite().all()
    assert gradient.count_nonzero() > 0


def test_half_precision_input_gives_nearly_the_float32_loss(loss_fn: nn.Module) -> None:
    pred, target = image_batch(0), image_batch(1)
    expected = loss_fn(pred, target)
    torch.testing.assert_close(loss_fn(pred.half(), target.half()), expected, rtol=0.01, atol=0)
    torch.testing.assert_close(loss_fn(pred.bfloat16(), target.bfloat16()), expected, rtol=0.05, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_gives_nearly_the_float32_loss(loss_fn: nn.Module, dtype: torch.dtype) -> None:
    pred, target = image_batch(0), image_batch(1)
    expected = loss_fn(pred, target)
    with torch.autocast("cpu", dtype):
        loss, gradient = loss_and_gradient(loss_fn, pred, target)
    assert loss.dtype == torch.float32
    assert gradient.isfinite().all()
    torch.testing.assert_close(loss, expected, rtol=0.05, atol=0)


@pytest.mark.parametrize("convert", [nn.Module.half, nn.Module.bfloat16, nn.Module.double])
def test_a_converted_parent_still_gives_a_finite_float32(loss_fn: nn.Module, convert) -> None:
    pred, target = image_batch(0), image_batch(1)
    expected = loss_fn(pred, target)
    parent = convert(Parent(loss_fn))
    dtype = parent.net.weight.dtype
    loss, gradient = loss_and_gradient(parent.loss, pred.to(dtype), target.to(dtype))
    assert loss.dtype == torch.float32
    assert gradient.isfinite().all()
    torch.testing.assert_close(loss, expected, rtol=0.05, atol=0)


FLAT_IMAGES = {"black": 0.0, "white": 1.0, "grey": 0.5}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("level", FLAT_IMAGES.values(), ids=FLAT_IMAGES.keys())
def test_flat_images_give_finite_gradients(loss_fn: nn.Module, level: float, dtype: torch.dtype) -> None:
    flat, textured = torch.full_like(image_batch(0), level).to(dtype), image_batch(0).to(dtype)
    for pred, target in [(flat, flat), (flat, textured), (textured, flat)]:
        loss, gradient = loss_and_gradient(loss_fn, pred, target)
        assert loss.isfinite()
        assert gradient.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_equal_images_are_exactly_at_zero_with_zero_gradient(loss_fn: nn.Module, dtype: torch.dtype) -> None:
    images = image_batch(0).to(dtype)
    loss, gradient = loss_and_gradient(loss_fn, images, images.clone())
    assert loss == 0
    assert gradient.count_nonzero() == 0


@pytest.mark.parametrize("scale", [1e-7, 1e-4, 1e-2, 1.0])
def test_never_negative(loss_fn: nn.Module, scale: float) -> None:
    target = image_batch(0)
    for seed in range(1, 6):
        assert loss_fn(target + scale * (image_batch(seed) - 0.5), target) >= 0


# ---- gradient ----


def test_gradient_reaches_pred_and_never_target(loss_fn: nn.Module) -> None:
    pred, target = image_batch(0).requires_grad_(), image_batch(1).requires_grad_()
    loss_fn(pred, target).backward()
    assert pred.grad is not None
    assert pred.grad.count_nonzero() > 0
    assert target.grad is None


def test_gradient_is_the_slope_of_the_loss(loss_fn: nn.Module) -> None:
    pred, target = toys.image_batch(0, 1, 20, 20), toys.image_batch(1, 1, 20, 20)
    _, gradient = loss_and_gradient(loss_fn, pred, target)
    direction = gradient / gradient.norm()
    step = 0.02
    slope = (loss_fn(pred + step * direction, target) - loss_fn(pred - step * direction, target)) / (2 * step)
    torch.testing.assert_close(slope, gradient.norm(), rtol=0.1, atol=0)


# ---- a guest in the caller's model ----


def test_train_mode_never_reaches_the_backbone(loss_fn: nn.Module) -> None:
    before = loss_fn(image_batch(0), image_batch(1))
    parent = Parent(loss_fn).train()
    for module in parent.modules():
        module.train()
    assert not any(module.training for module in loss_fn.modules())
    assert loss_fn.train() is loss_fn
    # Twice: batch statistics would change the second call, dropout either.
    assert torch.equal(parent.loss(image_batch(0), image_batch(1)), before)
    assert torch.equal(parent.loss(image_batch(0), image_batch(1)), before)


def test_what_parents_do_to_their_children_never_reaches_the_backbone(loss_fn: nn.Module) -> None:
    before = loss_fn(image_batch(0), image_batch(1))

    def initialise(module: nn.Module) -> None:
        if isinstance(getattr(module, "weight", None), Tensor):
            nn.init.constant_(module.weight, 0.1)

    parent = nn.SyncBatchNorm.convert_sync_batchnorm(Parent(loss_fn).apply(initialise))
    assert torch.equal(parent.loss(image_batch(0), image_batch(1)), before)


def test_checkpoints_of_a_parent_load_strictly_with_and_without(loss_fn: nn.Module) -> None:
    having, lacking = Parent(loss_fn), Parent(None)
    assert having.state_dict().keys() == lacking.state_dict().keys()
    having.load_state_dict(lacking.state_dict(), strict=True)
    lacking.load_state_dict(having.state_dict(), strict=True)
    assert not loss_fn.state_dict()


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_copies_give_the_same_loss(loss_fn: nn.Module, clone) -> None:
    expected = loss_fn(image_batch(0), image_batch(1))
    twin = clone(loss_fn)
    assert torch.equal(twin(image_batch(0), image_batch(1)), expected)
    assert not list(twin.parameters())
    assert not twin.state_dict()
    assert not any(module.training for module in twin.train().modules())


def test_a_training_step_moves_the_network_alone(loss_fn: nn.Module) -> None:
    parent = Parent(loss_fn).requires_grad_(True).train()
    assert {name for name, _ in parent.named_parameters()} == {"net.weight", "net.bias"}
    before = loss_fn(image_batch(2), image_batch(3))
    weight = parent.net.weight.detach().clone()
    optimizer = torch.optim.SGD(parent.parameters(), lr=1e-3)
    parent(image_batch(0), image_batch(1)).backward()
    optimizer.step()
    assert {name for name, _ in parent.named_parameters()} == {"net.weight", "net.bias"}
    assert not torch.equal(parent.net.weight, weight)
    assert torch.equal(loss_fn(image_batch(2), image_batch(3)), before)


@pytest.fixture
def process_group(tmp_path):
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without torch.distributed")
def test_safe_inside_and_beside_ddp(loss_fn: nn.Module, process_group: None) -> None:
    images, target = image_batch(0), image_batch(1)
    plain = Parent(loss_fn)
    plain(images, target).backward()
    inside = DistributedDataParallel(copy.deepcopy(plain))
    inside.zero_grad()
    # Two passes before one backward: a broadcast between them must not invalidate what the first has saved.
    (inside(images, target) / 2 + inside(images, target) / 2).backward()
    torch.testing.assert_close(inside.module.net.weight.grad, plain.net.weight.grad)
    beside = DistributedDataParallel(copy.deepcopy(plain.net))
    beside.zero_grad()
    loss_fn(beside(images), target).backward()
    torch.testing.assert_close(beside.module.weight.grad, plain.net.weight.grad)


# ---- a good citizen ----


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_traces_as_one_graph(loss_fn: nn.Module, backend: str) -> None:
    torch.compiler.reset()
    expected = loss_and_gradient(loss_fn, image_batch(0), image_batch(1))
    compiled = torch.compile(loss_fn, fullgraph=True, backend=backend)
    actual = loss_and_gradient(compiled, image_batch(0), image_batch(1))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-7)


class NoSynchronisation(TorchDispatchMode):
    """Fail on every operation that makes the host wait for values."""

    WAITING = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "unique")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert name not in self.WAITING, f"{name} waits for the device"
        return func(*args, **(kwargs or {}))


def test_no_host_synchronisation_after_the_first_call(loss_fn: nn.Module) -> None:
    pred, target = image_batch(0).requires_grad_(), image_batch(1)
    loss_fn(pred, target)
    with NoSynchronisation():
        loss_fn(pred, target).backward()


def test_the_synchronisation_guard_sees_one() -> None:
    with pytest.raises(AssertionError, match="waits for the device"), NoSynchronisation():
        float(image_batch(0).amax())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_cuda_it_agrees_with_the_cpu_and_does_not_synchronise(loss_fn: nn.Module) -> None:
    expected = loss_fn(image_batch(0), image_batch(1))
    loss_fn.cuda()
    pred, target = image_batch(0).cuda(), image_batch(1).cuda()
    torch.testing.assert_close(loss_fn(pred, target).cpu(), expected, rtol=1e-2, atol=0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        pred.requires_grad_()
        loss_fn(pred, target).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    with pytest.raises(ValueError, match="cuda"):
        loss_fn(pred, target.cpu())


@pytest.mark.parametrize("factory", LOSSES.values(), ids=LOSSES.keys())
def test_no_print_and_no_global_side_effect(factory, capfd: pytest.CaptureFixture[str]) -> None:
    def world() -> tuple[object, ...]:
        return (
            torch.is_grad_enabled(),
            torch.is_autocast_enabled(),
            torch.get_default_dtype(),
            torch.get_num_threads(),
            torch.are_deterministic_algorithms_enabled(),
            torch.backends.cudnn.benchmark,
            torch.backends.cudnn.deterministic,
            random.getstate(),
        )

    before, torch_state, numpy_state = world(), torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss_fn = factory()
        loss_and_gradient(loss_fn, image_batch(0), image_batch(1))
    assert world() == before
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()  # noqa: NPY002
    assert capfd.readouterr() == ("", "")


def test_calls_are_bit_equal_with_and_without_a_graph(loss_fn: nn.Module) -> None:
    expected, gradient = loss_and_gradient(loss_fn, image_batch(0), image_batch(1))
    again, same = loss_and_gradient(loss_fn, image_batch(0), image_batch(1))
    assert torch.equal(again, expected) and torch.equal(same, gradient)
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            assert torch.equal(loss_fn(image_batch(0), image_batch(1)), expected)


# ---- wrong input ----

GOOD = image_batch(0)
WRONG = {
    "integers": (GOOD.mul(255).byte(), TypeError, r"floating-point.*uint8"),
    "two channels": (GOOD[:, :2], ValueError, r"3 channels, got 2"),
    "four channels": (GOOD.repeat(1, 2, 1, 1)[:, :4], ValueError, r"3 channels, got 4"),
    "no batch axis": (GOOD[0], ValueError, r"shape \(N, C, H, W\)"),
    "too small": (GOOD[..., :2], ValueError, r"at least \d+ px.*37 x 2"),
    "an empty batch": (GOOD[:0], ValueError, r"at least one image"),
    "no tensor": (GOOD.numpy(), TypeError, r"torch\.Tensor, got ndarray"),
    "another device": (GOOD.to("meta"), ValueError, r"meta"),
}


@pytest.mark.parametrize(("images", "error", "message"), WRONG.values(), ids=WRONG.keys())
def test_wrong_images_are_errors_that_say_what_came(loss_fn: nn.Module, images, error, message: str) -> None:
    with pytest.raises(error, match=message) as both:
        loss_fn(images, images)
    assert "pred" in str(both.value)
    with pytest.raises(error, match=message) as one:
        loss_fn(GOOD, images)
    assert "target" in str(one.value)


@pytest.mark.parametrize("other", [image_batch(1, 1), image_batch(1, width=45), image_batch(1, height=36)])
def test_images_of_different_shape_are_an_error(loss_fn: nn.Module, other: Tensor) -> None:
    with pytest.raises(ValueError, match=r"same shape.*\(2, 3, 37, 46\)") as error:
        loss_fn(GOOD, other)
    assert str(tuple(other.shape)) in str(error.value)


def test_overshoots_are_fine(loss_fn: nn.Module) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert loss_fn(GOOD * 1.6 - 0.3, GOOD).isfinite()
