"""The loss in option files of BasicSR: its own model, trained by what basicsr.yml says.

pip install basicsr
python -m examples.integrations.basicsr_models
"""

import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
import yaml
from torchvision.transforms import functional

# BasicSR 1.4.2 imports this module of torchvision by a name that it no longer has.
sys.modules.setdefault("torchvision.transforms.functional_tensor", functional)

from basicsr.models.sr_model import SRModel  # noqa: E402

import tafm_loss.basicsr  # noqa: E402
from examples.integrations.small import loader  # noqa: E402

OPTIONS: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("basicsr.yml").read_text())

SMALL = {"num_feat": 8, "num_block": 1, "num_grow_ch": 4}


def options(slot: str) -> dict[str, Any]:
    """Return the options of a small run with the losses of one slot of basicsr.yml."""
    return {
        "is_train": True,
        "dist": False,
        "num_gpu": torch.cuda.device_count(),
        "path": {},
        "network_g": {"type": "RRDBNet", "num_in_ch": 3, "num_out_ch": 3, "scale": 1, **SMALL},
        "train": {
            **OPTIONS[slot],
            "optim_g": {"type": "Adam", "lr": 1e-3},
            "scheduler": {"type": "MultiStepLR", "milestones": [1000], "gamma": 0.5},
        },
    }


def main(steps: int = 4, slot: str = "pixel_slot") -> dict[str, float]:
    """Train for some steps, and return BasicSR's log of the last one."""
    tafm_loss.basicsr.register()
    model = SRModel(options(slot))
    for step, (blurred, sharp) in enumerate(loader(steps), 1):
        model.feed_data({"lq": blurred, "gt": sharp})
        model.optimize_parameters(step)
    log: OrderedDict[str, float] = model.get_current_log()
    return dict(log)


if __name__ == "__main__":
    for name in OPTIONS:
        print(name, main(slot=name))
