"""The example of other tasks: its damages are what it says, and it runs to its table."""

import sys

import pytest
import torch

from examples import task_adaptive as example
from tests.seeds import seeded


@pytest.mark.parametrize("task", ["blur", "noise", "jpeg"])
def test_versions_begin_with_the_image_and_rise_in_the_task_alone(task: str) -> None:
    images = torch.rand(3, 3, 40, 48, generator=seeded())
    levels, strengths = example.Graded(task)(images, generator=seeded())
    assert levels.shape == (4, 3, 3, 40, 48) and torch.equal(levels[0], images)
    assert strengths.T.tolist() == [list(example.STRENGTHS[task])] * 3
    assert not torch.equal(levels[1], levels[2]) and levels.min() >= 0 and levels.max() <= 1
    again, _ = example.Graded(task)(images, generator=seeded())
    assert torch.equal(again, levels)


def test_noise_has_the_standard_deviation_of_its_strength(monkeypatch: pytest.MonkeyPatch) -> None:
    for other in ("blur", "jpeg"):
        monkeypatch.setitem(example.STRENGTHS, other, (0.0,))
    levels, strengths = example.Graded("noise")(torch.full((2, 3, 64, 64), 0.5), generator=seeded())
    torch.testing.assert_close(255 * levels.flatten(2).std(-1), strengths, rtol=0.03, atol=1e-3)


def test_jpeg_leaves_quality_100_alone_and_loses_more_with_its_strength(monkeypatch: pytest.MonkeyPatch) -> None:
    for other in ("blur", "noise"):
        monkeypatch.setitem(example.STRENGTHS, other, (0.0,))
    images = torch.rand(2, 3, 64, 64, generator=seeded())
    levels, _ = example.Graded("jpeg")(images, generator=seeded())
    errors = (levels - images).square().flatten(2).mean(-1)
    assert (errors[0] == 0).all() and (errors.diff(dim=0) > 0).all()


def test_it_prints_what_each_backbone_goes_by(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(example, "UNSEEN_SCENES", 4)
    monkeypatch.setattr(sys, "argv", ["task_adaptive.py", "--steps", "2", "--scenes", "8"])
    example.main()
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["ordered", "by", "blur", "noise", "jpeg"]
    assert [row.rsplit(maxsplit=3)[0] for row in rows] == ["bundled", "adapted to noise", "adapted to jpeg"]
    assert all(0 <= int(cell.rstrip("%")) <= 100 for row in rows for cell in row.split()[-3:])
