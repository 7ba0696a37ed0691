"""What is added to L1: a frozen distance, one adapted once, one refreshed on the way, and adversaries."""

import functools
import json
import statistics
import time
import warnings
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch.nn.functional as F
from _photographs import central_square
from quality.data import Pairs, held_out_pairs
from quality.training import BATCH_SIZE, Term, Trainer
from quality.tuned import SETTINGS, Restorations
from torch import Tensor, nn

from refreshing.adapting import AnchoredTriplet, Guard, MaskedObjective, Refresher, Refreshing
from refreshing.adversaries import Adversary
from refreshing.plan import FROZEN, LONGER
from tafm_loss import (
    Backbone,
    TaskAdaptiveFeatureLoss,
    create_backbone,
    finetune_backbone,
    gradient_ratio,
    load_backbone,
)
from tafm_loss.finetune import GradedObjective, Objective, TripletObjective
from tafm_loss.losses import RECOMMENDED_RATIO

BACKBONE = "tafm-lite"
# Photographs of val that neither choose masks nor are tried on, and the side of what the guard looks at.
GUARDED, GUARD_SIZE = range(2, 100, 16), 64
# Batches before a discriminator's term counts, and those on which a weight is found anew.
WARM_UP, RECENT = 50, 2


class Tuning(NamedTuple):
    """How a backbone is adapted once, and then refreshed.

    Args:
        objective: makes the objective of both.
        steps: of adapting.
        rate: of adapting, the highest.
        refreshing: how it goes on.
    """

    objective: Callable[[], Objective]
    steps: int
    rate: float
    refreshing: Refreshing


# A refresh must fit into a fifth of a training step. The graded objectives look at the most images.
OFTEN, HEAVY = Refreshing(every=50, steps=2, scenes=3), Refreshing(every=50, steps=2, scenes=2)
TUNINGS = {
    "triplet": Tuning(TripletObjective, 50, 3e-4, OFTEN),
    "anchored 3": Tuning(lambda: AnchoredTriplet(3.0), 150, 3e-4, OFTEN),
    "anchored 6": Tuning(lambda: AnchoredTriplet(6.0), 150, 3e-4, OFTEN),
    "graded": Tuning(lambda: GradedObjective(geometry=1.0), 30, 1e-4, HEAVY),
    "masked": Tuning(lambda: MaskedObjective(geometry=1.0), 30, 1e-4, HEAVY),
}


class Setting(NamedTuple):
    """What a run gives an arm to begin with.

    Args:
        network: the one that all arms start from.
        pairs: of the run, in their order.
        ratio: of gradients.
        seed: of the run.
        trainer: where things compute.
        photographs: the folder with train and val.
        made: the folder of what is made once for all runs.
        tunings: how backbones are tuned, by name.
    """

    network: nn.Module
    pairs: Pairs
    ratio: float
    seed: int
    trainer: Trainer
    photographs: Path
    made: Path
    tunings: Mapping[str, Tuning]


class Started(Protocol):
    """An arm that has begun: called in every step, it returns its weighted term; what happened, it tells."""

    def __call__(self, restored: Tensor, sharp: Tensor, blurred: Tensor) -> Tensor: ...

    def told(self) -> dict[str, Any]: ...


class Frozen:
    """A distance that stays as it is, by a weight that stays too."""

    def __init__(self, setting: Setting, backbone: Backbone, **about: Any) -> None:
        self.loss = TaskAdaptiveFeatureLoss(backbone).to(setting.trainer.device)
        self.weight = setting.trainer.calibrated(setting.network, _on_pairs(self.loss), setting.pairs, setting.ratio)
        self.about = about

    def __call__(self, restored: Tensor, sharp: Tensor, blurred: Tensor) -> Tensor:
        return self.weight * self.loss(restored, sharp)

    def told(self) -> dict[str, Any]:
        return {"weight": self.weight, **self.about}


class Refreshed(Frozen):
    """A distance that is tuned on the network's output every so many steps; its gradient stays as long as it was."""

    def __init__(self, setting: Setting, backbone: Backbone, name: str, **about: Any) -> None:
        super().__init__(setting, backbone, **about)
        guard, tuning = Guard(_guarded(setting.photographs)), setting.tunings[name]
        self.plan = tuning.refreshing
        anchor = create_backbone(BACKBONE)
        self.refresher = Refresher(backbone, tuning.objective(), anchor, self.plan, guard, setting.seed)
        self.recent: deque[tuple[Tensor, Tensor]] = deque(maxlen=RECENT)
        self.weights = [self.weight]
        self.steps = 0

    def __call__(self, restored: Tensor, sharp: Tensor, blurred: Tensor) -> Tensor:
        self.recent.append((restored.detach(), sharp))
        if self.steps and self.steps % self.plan.every == 0 and self.refresher(restored, sharp, blurred):
            before, self.loss = self.loss, self.refresher.loss()
            self.weight = self._new_weight(before)
            self.weights.append(self.weight)
        self.steps += 1
        return super().__call__(restored, sharp, blurred)

    def _new_weight(self, before: TaskAdaptiveFeatureLoss) -> float:
        """Return the weight at which the gradient is as long as it was before the refresh."""
        ratios = ([gradient_ratio(loss, F.l1_loss, *batch) for batch in self.recent] for loss in (before, self.loss))
        return self.weight * statistics.fmean(old / new for old, new in zip(*ratios, strict=True))

    def told(self) -> dict[str, Any]:
        happened = {"refreshes": self.refresher.told, "weights": self.weights, "stopped": self.refresher.stopped}
        return super().told() | happened


class Against:
    """A discriminator's term, alone or beside the frozen default at its recommended ratio."""

    def __init__(self, setting: Setting, *, matching: bool, beside: bool) -> None:
        trainer = setting.trainer
        self.adversary = Adversary(matching=matching, seed=setting.seed, device=trainer.device)
        self._warm_up(setting)
        self.weight = trainer.calibrated(setting.network, _on_pairs(self.adversary.term), setting.pairs, setting.ratio)
        frozen = setting._replace(ratio=RECOMMENDED_RATIO)
        self.frozen = Frozen(frozen, create_backbone(BACKBONE)) if beside else None

    def _warm_up(self, setting: Setting) -> None:
        device = setting.trainer.device
        for start in range(0, min(WARM_UP * BATCH_SIZE, len(setting.pairs.sharp)), BATCH_SIZE):
            some = Pairs(*(images[start : start + BATCH_SIZE] for images in setting.pairs))
            restored = setting.trainer.restore(setting.network, some).clone()
            self.adversary.learn(restored, some.batch(slice(None), device).sharp)

    def __call__(self, restored: Tensor, sharp: Tensor, blurred: Tensor) -> Tensor:
        self.adversary.learn(restored, sharp)
        term = self.weight * self.adversary.term(restored, sharp)
        return term if self.frozen is None else term + self.frozen(restored, sharp, blurred)

    def told(self) -> dict[str, Any]:
        return {"weight": self.weight, "discriminator": self.adversary.told[::25]}


ARMS: dict[str, Callable[[Setting], Started]] = {
    **dict.fromkeys((FROZEN, LONGER), lambda setting: Frozen(setting, create_backbone(BACKBONE))),
    **{f"adapted once, {name}": lambda setting, name=name: _once(setting, name) for name in TUNINGS},
    **{f"refreshed, {name}": lambda setting, name=name: _anew(setting, name) for name in TUNINGS},
    "patch features": lambda setting: Against(setting, matching=True, beside=False),
    "tafm-lite, patch features": lambda setting: Against(setting, matching=True, beside=True),
    "tafm-lite, RaGAN": lambda setting: Against(setting, matching=False, beside=True),
}


def adapted(setting: Setting, name: str) -> tuple[Backbone, float]:
    """Return the default backbone adapted to the start network, and how long that took in s; it is kept, by seed."""
    tuning = setting.tunings[name]
    out = setting.made / f"{name.replace(' ', '-')}-{setting.seed}"
    took = out.with_suffix(".json")
    if not took.exists():
        began = time.perf_counter()
        finetune_backbone(
            create_backbone(BACKBONE),
            setting.photographs / "train",
            synthesizer=Restorations(setting.network),
            objective=tuning.objective(),
            steps=tuning.steps,
            out_dir=out,
            resume=True,
            seed=setting.seed,
            progress=False,
            **(SETTINGS | {"learning_rate": tuning.rate}),
        )
        took.write_text(json.dumps(time.perf_counter() - began))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_backbone(out), json.loads(took.read_text())


def _once(setting: Setting, name: str) -> Started:
    backbone, seconds = adapted(setting, name)
    return Frozen(setting, backbone, adapting=seconds)


def _anew(setting: Setting, name: str) -> Started:
    backbone, seconds = adapted(setting, name)
    return Refreshed(setting, backbone, name, adapting=seconds)


@functools.cache
def _guarded(photographs: Path) -> Tensor:
    sharp = held_out_pairs(photographs / "val", "shake", list(GUARDED)).sharp.float() / 255
    return central_square(sharp, GUARD_SIZE)


def _on_pairs(loss: Callable[[Tensor, Tensor], Tensor]) -> Term:
    return lambda restored, sharp, blurred: loss(restored, sharp)
