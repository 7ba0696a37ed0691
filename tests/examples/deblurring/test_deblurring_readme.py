"""The README of the deblurring examples: its commands are understood, and every config has its row."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from examples.deblurring import compare, evaluate, fetch, forced_choice, precrop, restore, train
from examples.deblurring.data.opening import list_datasets
from examples.deblurring.evaluation.metrics import GROUPS, METRICS
from tafm_loss import cli

HERE = Path(__file__).resolve().parents[3] / "examples" / "deblurring"
README = (HERE / "README.md").read_text()
PROGRAMS = {
    "train": train,
    "evaluate": evaluate,
    "compare": compare,
    "restore": restore,
    "fetch": fetch,
    "forced_choice": forced_choice,
    "precrop": precrop,
}


def commands() -> list[str]:
    code = "\n".join(re.findall(r"```sh\n(.*?)```", README, re.DOTALL)).replace("\\\n", " ")
    inline = re.findall(r"`((?:python|accelerate launch) -m examples[^`]*)`", README)
    shell = [re.sub(r"^\s+", "", line) for line in code.splitlines()]
    return [line for line in [*shell, *inline] if re.search(r"examples\.deblurring\.\w+|^tafm-loss ", line)]


@pytest.mark.parametrize("command", commands())
def test_every_command_is_understood(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As far as the parser, which ends what it does not understand; --help comes after it is understood."""
    words = shlex.split(command.replace("$arm", "pixel").replace("...", "x").replace("NAME", "hinet_gopro"))
    main: Callable[[list[str]], int]
    if words[0] == "tafm-loss":
        main, arguments = cli.main, words[1:]
    else:
        place = words.index("-m") + 1
        main, arguments = PROGRAMS[words[place].rsplit(".", 1)[1]].main, words[place + 1 :]
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--help"])
    assert ended.value.code == 0
    options = {word for word in arguments if word.startswith("--")}
    told = capsys.readouterr().out
    assert all(re.search(rf"{option}\b", told) for option in options)


def test_every_config_has_its_row_and_every_row_its_config() -> None:
    configs = {path.stem for path in (HERE / "configs").glob("*.yaml")}
    for config in configs:
        name, _, arm = config.partition("_finetune_")
        assert f"`{config}`" in README or f"`finetune_{arm}`" in README or name == "unet_synthetic", config
    for name in re.findall(r"^\| `(\w+_(?:gopro|realblur_j))`", README, re.MULTILINE):
        assert name in configs
    for arm in re.findall(r"^\| `(finetune_\w+)`", README, re.MULTILINE):
        assert {f"hinet_gopro_{arm}", f"mprnet_gopro_{arm}"} <= configs


def test_every_metric_and_data_set_it_names_exists() -> None:
    for named in re.findall(r"--metrics ([\w,]+)", README):
        assert set(named.split(",")) <= {*METRICS, *GROUPS}
    assert {"flat", "synthetic"} <= set(list_datasets())
