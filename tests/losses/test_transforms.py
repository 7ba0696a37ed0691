"""Every loss under torch.compile at several sizes, torch.export and torch.func."""

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from tafm_loss import TaskAdaptiveFeatureLoss
from tests.losses import toys
from tests.losses.test_contract import LOSSES, image_batch, loss_and_gradient

# PyTorch cannot trace antialiased resizing for free sizes, and has no forward mode for attention on a processor.
SIMPLE = {name: make for name, make in LOSSES.items() if name != "clip-embedding"}
SIZES = [(37, 46), (64, 48), (33, 71)]


@pytest.mark.parametrize("factory", SIMPLE.values(), ids=SIMPLE.keys())
def test_one_graph_serves_every_size(factory) -> None:
    torch.compiler.reset()
    loss_fn = factory()
    graphs = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(loss_fn, fullgraph=True, backend=graphs, dynamic=True)
    counts = []
    for size in SIZES:
        images = toys.image_batch(0, 2, *size), toys.image_batch(1, 2, *size)
        expected = loss_and_gradient(loss_fn, *images)
        torch.testing.assert_close(loss_and_gradient(compiled, *images), expected, rtol=1e-4, atol=1e-7)
        counts.append(graphs.frame_count)
    assert len(set(counts)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["default", "l2", "normalized_l2", "structure", "contrastive"])
def test_it_compiles_for_sizes_that_change(name: str) -> None:
    torch.compiler.reset()
    loss_fn = LOSSES[name]()
    compiled = torch.compile(loss_fn, fullgraph=True)
    for size in SIZES[:2]:
        images = toys.image_batch(0, 2, *size), toys.image_batch(1, 2, *size)
        expected = loss_and_gradient(loss_fn, *images)
        torch.testing.assert_close(loss_and_gradient(compiled, *images), expected, rtol=1e-4, atol=1e-7)


def test_it_is_exported_for_any_size() -> None:
    loss_fn = TaskAdaptiveFeatureLoss()
    # From 17 px: the deepest map of 16 px is a single location, which is a graph of its own.
    sides = {2: torch.export.Dim("height", min=17, max=4096), 3: torch.export.Dim("width", min=17, max=4096)}
    images = image_batch(0), image_batch(1)
    program = torch.export.export(loss_fn, images, dynamic_shapes=(sides, sides), strict=True).module()
    for size in SIZES:
        images = toys.image_batch(0, 2, *size), toys.image_batch(1, 2, *size)
        torch.testing.assert_close(program(*images), loss_fn(*images))


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("factory", LOSSES.values(), ids=LOSSES.keys())
def test_function_transforms_agree_with_autograd(factory) -> None:
    loss_fn = factory()
    pred, target = image_batch(0), image_batch(1)
    loss, gradient = loss_and_gradient(loss_fn, pred, target)
    torch.testing.assert_close(torch.func.grad(loss_fn)(pred, target), gradient, rtol=1e-4, atol=1e-8)
    each = torch.func.vmap(lambda one, other: loss_fn(one[None], other[None]))(pred, target)
    torch.testing.assert_close(each.mean(), loss, rtol=1e-4, atol=1e-8)
    of_each = torch.func.vmap(torch.func.grad(lambda one, other: loss_fn(one[None], other[None])))(pred, target)
    torch.testing.assert_close(of_each / len(pred), gradient, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("factory", SIMPLE.values(), ids=SIMPLE.keys())
def test_forward_mode_agrees_with_autograd(factory) -> None:
    loss_fn, pred, target = factory(), image_batch(0), image_batch(1)
    loss, gradient = loss_and_gradient(loss_fn, pred, target)
    value, slope = torch.func.jvp(lambda images: loss_fn(images, target), (pred,), (target,))
    torch.testing.assert_close((value, slope.float()), (loss, (gradient * target).sum()), rtol=1e-3, atol=1e-6)
