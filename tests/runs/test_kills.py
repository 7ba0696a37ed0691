"""A hundred kills at random moments, and signals: every run that goes on ends bit for bit where an unbroken one does.

pytest -m slow tests/runs/test_kills.py
"""

import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from torchvision.utils import save_image

from examples.deblurring.data.trees import make_tree
from tafm_loss.scenes import generate_scenes
from tests.runs.programs import ROOT, Program, finish, kill, output, results

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name != "posix", reason="kills by POSIX signals")]

SMALL_RUN = str(ROOT / "tests" / "finetune" / "small_run.py")
KILLS_IN_A_ROW = 3
EXPERIMENT = """
network: {name: residual-unet, options: {width: 4}}
data: {dataset: flat, root: tree, crop_size: 32}
objective: [{loss: l1, weight: 1}, {loss: edge, gradient_ratio: 0.5}]
optimizer: {learning_rate: 1e-2}
training: {steps: 60, batch_size: 2, checkpoint_every: 4, log_every: 4, samples_every: 20, workers: 1, ema: 0.9}
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for split in ("train", "test"):
        make_tree("flat", folder / "tree", split, scenes=3, frames=4)
    (folder / "experiment.yaml").write_text(EXPERIMENT)
    (folder / "photographs").mkdir()
    for number, scene in enumerate(generate_scenes(40, 96, generator=torch.Generator().manual_seed(0))):
        save_image(scene, folder / "photographs" / f"{number}.png")
    return folder


def program(name: str, data: Path) -> Program:
    if name == "finetune":
        return Program([SMALL_RUN, "OUT", "48"], ["resume"])
    if name == "train":
        place = ["--datasets", str(data), "--out", "OUT"]
        command = ["-m", "examples.deblurring.train", str(data / "experiment.yaml"), *place]
        return Program(command, ["--resume"], lambda out: (out / "settings.json").exists())
    if name == "blur":
        main = "import sys; from tafm_loss.cli import main; sys.exit(main())"
        return Program(["-c", main, "blur", str(data / "photographs"), "OUT", "--extents", "4", "9", "--quiet"])
    place = ["--root", str(data / "tree"), "--out", "OUT", "--metrics", "psnr,ssim,gmsd", "--device", "cpu"]
    return Program(["-m", "examples.deblurring.evaluate", "input", "--dataset", "flat", "--save-images", *place])


@pytest.mark.parametrize(
    ("name", "processes", "kills"),
    [
        ("finetune", 1, 25),
        ("finetune", 2, 15),
        ("train", 1, 20),
        ("train", 2, 15),
        ("blur", 1, 15),
        ("evaluate", 1, 10),
    ],
)
def test_a_run_that_is_killed_anywhere_ends_where_an_unbroken_one_does(
    tmp_path: Path, data: Path, name: str, processes: int, kills: int
) -> None:
    run = program(name, data) if processes == 1 else program(name, data).twice()
    work_time, expected = unbroken(run, tmp_path / "whole" / "out")
    draws, cut_short, chain = random.Random(name), 0, 0
    while cut_short < kills:
        chain += 1
        assert chain < 3 * kills, "the kills come too late to tell anything"
        out = tmp_path / str(chain) / "out"  # of one name: tables hold it
        for _ in range(KILLS_IN_A_ROW):
            process = run.start(out)
            wait_for(out, process)
            time.sleep(draws.uniform(0, work_time))
            cut_short += kill(process)
        finish(run.start(out))
        assert results(out) == expected, f"chain {chain}, after {cut_short} kills"


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("name", ["finetune", "train"])
def test_a_signal_leaves_a_checkpoint_to_go_on_from_however_often_it_comes(
    tmp_path: Path, data: Path, name: str, processes: int, sent: signal.Signals
) -> None:
    run = program(name, data)
    # No other checkpoint than that of the signal.
    rarely = ["rarely"] if name == "finetune" else ["--set", "training.checkpoint_every=100000"]
    run = run._replace(command=[*run.command, *rarely])
    run = run if processes == 1 else run.twice()
    _, expected = unbroken(run, tmp_path / "whole" / "out")
    out = tmp_path / "cut" / "out"
    process = run.start(out)
    while not ((out / "history.jsonl").exists() and (out / "history.jsonl").stat().st_size):
        assert process.poll() is None, output(process)
        time.sleep(0.01)
    time.sleep(random.Random(f"{name} {processes} {sent}").uniform(0, 0.3))
    for _ in range(3):
        # A terminal sends it to all processes, a scheduler to the first.
        os.killpg(process.pid, sent) if sent == signal.SIGINT else process.send_signal(sent)
        time.sleep(0.02)
    assert process.wait(120) is not None and (out / "checkpoint.pt").exists(), output(process)
    assert results(out) != expected
    finish(run.start(out))
    assert results(out) == expected


def unbroken(run: Program, out: Path) -> tuple[float, dict[str, bytes]]:
    """Return how long a run works, s, once its folder is there, and what it ends in."""
    process = run.start(out)
    wait_for(out, process)
    start = time.monotonic()
    finish(process)
    return time.monotonic() - start, results(out)


def wait_for(out: Path, process: "object") -> None:
    while not out.exists() and process.poll() is None:  # type: ignore[attr-defined]
        time.sleep(0.01)
