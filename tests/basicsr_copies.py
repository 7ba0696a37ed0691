"""What a training script finds when it imports basicsr: the package, or the copy of NAFNet or HINet, in memory."""

import copy
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from torch import Tensor, nn

from tafm_loss.basicsr import negative_psnr

Options = dict[str, Any]


class Registry:
    """Behaves as BasicSR 1.4.2's: a name twice is an assertion, an unknown one a KeyError and a line of output."""

    def __init__(self) -> None:
        self.objects: dict[str, Any] = {}

    def register(self, obj: Any = None, suffix: str | None = None) -> Any:
        assert obj is not None and suffix is None, "the stand-in is not for decorators"
        assert obj.__name__ not in self.objects, f"{obj.__name__} was already registered"
        self.objects[obj.__name__] = obj

    def get(self, name: str, suffix: str = "basicsr") -> Any:
        if name not in self.objects:
            print(f"{name} is not found, trying {name}_{suffix}")
            raise KeyError(name)
        return self.objects[name]

    def __contains__(self, name: str) -> bool:
        return name in self.objects


class L1Loss(nn.Module):
    """The pixel loss that BasicSR comes with, as far as option files ask for it."""

    def __init__(self, loss_weight: float = 1.0, reduction: str = "mean") -> None:
        super().__init__()
        assert reduction == "mean"
        self.loss_weight = loss_weight

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        return self.loss_weight * nn.functional.l1_loss(pred, target)


class PSNRLoss(L1Loss):
    """Likewise of NAFNet and HINet."""

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        return self.loss_weight * negative_psnr(pred, target)


def install_basicsr(monkeypatch: pytest.MonkeyPatch) -> Callable[[Options], nn.Module]:
    """Put the package in place, and return what builds a loss from its part of an option file."""
    registry = Registry()
    registry.register(L1Loss)
    _install(monkeypatch, {"basicsr.utils.registry": {"LOSS_REGISTRY": registry}})

    def build_loss(options: Options) -> nn.Module:
        options = copy.deepcopy(options)
        return registry.get(options.pop("type"))(**options)

    return build_loss


def install_nafnet(monkeypatch: pytest.MonkeyPatch) -> Callable[[Options], nn.Module]:
    """Likewise NAFNet's copy, which has a registry and does not use it."""
    losses = {"L1Loss": L1Loss, "PSNRLoss": PSNRLoss}
    places = {"basicsr.utils.registry": {"LOSS_REGISTRY": Registry()}, "basicsr.models.losses": losses}
    return _build_by_name(_install(monkeypatch, places)["basicsr.models.losses"])


def install_hinet(monkeypatch: pytest.MonkeyPatch) -> Callable[[Options], nn.Module]:
    """Likewise HINet's copy, which has no registry."""
    places = {"basicsr.models.losses": {"L1Loss": L1Loss, "PSNRLoss": PSNRLoss}}
    return _build_by_name(_install(monkeypatch, places)["basicsr.models.losses"])


def _build_by_name(losses: ModuleType) -> Callable[[Options], nn.Module]:
    def build(options: Options) -> nn.Module:
        loss = getattr(losses, options.pop("type"))
        return loss(**options)

    return build


def _install(monkeypatch: pytest.MonkeyPatch, contents: dict[str, dict[str, Any]]) -> dict[str, ModuleType]:
    for name in [name for name in sys.modules if name.split(".")[0] == "basicsr"]:
        monkeypatch.delitem(sys.modules, name)
    modules: dict[str, ModuleType] = {}
    for name in contents:
        parts = name.split(".")
        for depth in range(1, len(parts) + 1):
            package = ".".join(parts[:depth])
            modules.setdefault(package, ModuleType(package)).__path__ = []  # what is not here is not found
    for name, module in modules.items():
        vars(module).update(contents.get(name, {}))
        monkeypatch.setitem(sys.modules, name, module)
    return modules
