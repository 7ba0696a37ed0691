"""What tests of fine-tuning share: few scenes, a small backbone, and runs without the report, which takes longest."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tafm_loss import Backbone, BlurSynthesizer, create_backbone
from tafm_loss.scenes import generate_scenes

SMALL = {"batch_size": 2, "crop_size": 40, "progress": False}


@pytest.fixture(scope="session")
def scenes() -> Tensor:
    return generate_scenes(6, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def blur() -> BlurSynthesizer:
    return BlurSynthesizer((0.0, 2.0, 8.0, 20.0))


@pytest.fixture
def backbone() -> Backbone:
    with torch.random.fork_rng(devices=[]), pytest.warns(UserWarning):
        torch.manual_seed(0)
        return create_backbone("tafm-compact", weights=None, layers=["stage1", "stage2"])


@pytest.fixture
def quick_report(monkeypatch: pytest.MonkeyPatch) -> None:
    def report(judged: Backbone, images: Tensor, **options: Any) -> dict[str, Any]:
        return {"images": len(images), "name": judged.config.name}

    def write(reports: dict[str, Any], folder: Path) -> None:
        (folder / "report.json").write_text(json.dumps(reports))

    monkeypatch.setattr("tafm_loss.finetune.trainer.report", report)
    monkeypatch.setattr("tafm_loss.finetune.trainer.write_reports", write)


def weights(backbone: Backbone) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in backbone.state().values()])
