"""A small run in a process of its own: `python small_run.py OUT STEPS [resume] [rarely]`; the latter: no checkpoint."""

import sys
import warnings
from pathlib import Path

import torch

import tafm_loss.finetune.loop
from tafm_loss import create_backbone
from tafm_loss.blur import BlurSynthesizer
from tafm_loss.finetune import finetune_backbone
from tafm_loss.scenes import generate_scenes


def main() -> None:
    torch.set_num_threads(1)
    tafm_loss.finetune.loop.CHECKPOINT_EVERY = 10_000 if "rarely" in sys.argv else 2
    tafm_loss.finetune.loop.HISTORY_EVERY = 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        start = create_backbone("tafm-compact", weights=None, layers=["stage1", "stage2"])
    finetune_backbone(
        start,
        generate_scenes(8, 64, generator=torch.Generator().manual_seed(0)),
        synthesizer=BlurSynthesizer((0.0, 2.0, 8.0)),
        steps=int(sys.argv[2]),
        batch_size=4,
        crop_size=40,
        out_dir=Path(sys.argv[1]),
        resume="resume" in sys.argv,
        progress=False,
    )


if __name__ == "__main__":
    main()
