"""The command line as a user meets it: what it prints, where, and with which exit code."""

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import tafm_loss
from tafm_loss.cli import build_parser, main


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command that must fail as a user's mistake does, and return its one line."""
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("tafm-loss: error: ") and captured.err.count("\n") == 1, captured.err
    return captured.err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.strip() == f"tafm-loss {tafm_loss.__version__}"


def test_help_needs_no_torch() -> None:
    code = (
        "import sys\nfrom tafm_loss.cli import main\n"
        "try: main(['finetune', '--help'])\nexcept SystemExit: pass\n"
        "print(sorted({'torch', 'numpy', 'torchvision'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env={**os.environ})
    assert "--crop-size" in done.stdout and done.stdout.splitlines()[-1] == "[]"


def test_every_option_with_a_default_says_it_once() -> None:
    for command in ("demo", "blur", "finetune", "report"):
        parser = build_parser()._subparsers._group_actions[0].choices[command]  # type: ignore[union-attr,index]
        text = " ".join(parser.format_help().split())
        for action in parser._actions:
            if action.option_strings and action.default not in (None, False, "==SUPPRESS=="):
                part = text.split(f" {action.option_strings[0]} ")[-1].split(" --")[0]
                assert part.count("(default:") == 1, (command, action.dest)


def test_completion_is_a_script_of_a_library_or_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("shtab")
    with pytest.raises(SystemExit) as stop:
        main(["--print-completion", "bash"])
    script = capsys.readouterr().out
    assert stop.value.code == 0 and "--extent-regression" in script and "push" in script
    monkeypatch.setitem(sys.modules, "shtab", None)
    with pytest.raises(SystemExit) as stop:
        main(["--print-completion", "bash"])
    assert stop.value.code == 2 and 'pip install "tafm-loss[completion]"' in capsys.readouterr().err


@pytest.mark.parametrize("name", ["nowhere", "cuda:99", "meta:x"])
def test_a_device_that_is_not_there_is_told_before_any_work(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    for command in (["demo"], ["finetune", "tafm-compact", "generated:4"], ["report", "tafm-compact", "--images", "."]):
        assert f"--device {name} cannot be had here" in fails(capsys, *command, "--out", str(out), "--device", name)
        assert not out.exists()


def test_quiet_says_nothing_and_json_is_all_that_is_said(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["blur", str(photos), str(tmp_path / "out"), "--extents", "4"]
    assert main([*command, "--quiet"]) == 0
    quiet = capsys.readouterr()
    assert quiet.out == "" and "image/s" not in quiet.err
    assert main([*command, "--json", "--quiet"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["written"], said["kept"], list(said["skipped"])) == (0, 2, [str(photos / "c.jpg")])
    assert main(["info", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in listed] == tafm_loss.list_backbones() and listed[0]["parameters"] > 0


@pytest.mark.parametrize("arguments", [[], ["dmeo"], ["demo", "--steps", "many"]])
def test_a_mistyped_command_is_a_usage_error(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_a_mistyped_option_is_told_by_its_command_with_the_option_that_is_near(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["blur", "photos", "out", "--extents", "3", "--quite"])
    said = capsys.readouterr().err
    assert "usage: tafm-loss blur DIR OUT" in said and "--quite; did you mean '--quiet'?" in said


def test_info_lists_every_backbone_with_size_taps_and_licence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in tafm_loss.list_backbones():
        assert [line for line in lines if line.split()[:1] == [name]], name
    squeezenet = next(line for line in lines if line.startswith("squeezenet1_0"))
    # torchvision's features without the classifier: 1 248 424 - 513 000 weights.
    assert "735,424" in squeezenet and "2.9 MB" in squeezenet and "fire9" in squeezenet and "BSD-3" in squeezenet


def test_info_of_the_bundled_backbone_is_the_config_in_its_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "tafm-compact"]) == 0
    shown = json.loads(capsys.readouterr().out)
    backbone = tafm_loss.create_backbone("tafm-compact")
    assert shown.pop("sha256") == backbone.sha256
    assert shown == json.loads(backbone.config.to_json())


def test_info_of_a_listed_network_needs_no_download(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("info must not fetch weights")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    assert main(["info", "vgg16"]) == 0
    config = json.loads(capsys.readouterr().out)
    assert config["taps"]["relu3_3"] == [256, 4] and config["mean"] == [0.485, 0.456, 0.406]


def test_info_of_a_folder_needs_no_code_of_its_architecture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tafm_loss.BackboneConfig("mine", "mine-of-3", {"map": tafm_loss.Tap(4, 1)}, (0.5,) * 3, (0.5,) * 3, 3)
    backbone = tafm_loss.Backbone(torch.nn.Conv2d(3, 4, 3), config)
    folder = tafm_loss.save_backbone(backbone, tmp_path / "mine")
    assert main(["info", str(folder)]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["architecture"], shown["sha256"]) == ("mine-of-3", backbone.sha256)
    assert shown["source"] == str(folder)


def test_info_of_a_mistyped_name_says_what_is_near(capsys: pytest.CaptureFixture[str]) -> None:
    assert "tafm-compact" in fails(capsys, "info", "tafm-compakt")


def test_demo_without_a_folder_of_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = fails(capsys, "demo", "--images", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out"))
    assert "nowhere" in message


def test_demo_with_an_empty_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = fails(capsys, "demo", "--images", str(tmp_path), "--out", str(tmp_path / "out"))
    assert "at least 2 images of 192 x 192 px" in message


def test_demo_with_a_file_that_is_no_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.jpg").write_text("not an image")
    assert "a.jpg cannot be read as an image" in fails(
        capsys, "demo", "--images", str(tmp_path), "--out", str(tmp_path / "out")
    )


def test_demo_into_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").write_text("")
    assert str(tmp_path / "out") in fails(capsys, "demo", "--out", str(tmp_path / "out"))


def test_demo_with_too_few_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "steps must be at least 3, got 2" in fails(capsys, "demo", "--steps", "2", "--out", str(tmp_path))


def test_demo_without_matplotlib_says_what_to_install_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    message = fails(capsys, "demo", "--out", str(tmp_path / "out"))
    assert 'pip install "tafm-loss[demo]"' in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")]
)
def test_a_want_of_memory_is_told_in_one_line(
    error: Exception, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_down() -> None:
        raise error

    monkeypatch.setattr("tafm_loss._commands.describe_backbones", break_down)
    assert "the memory does not suffice: take smaller images" in fails(capsys, "info")


def ascii_console(monkeypatch: pytest.MonkeyPatch) -> io.TextIOWrapper:
    """Put a standard output in place that knows ASCII alone, and refuses everything else."""
    console = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict")
    monkeypatch.setattr(sys, "stdout", console)
    return console


def test_a_console_that_lacks_letters_shows_escapes_and_is_no_reason_to_fail(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    console = ascii_console(monkeypatch)
    assert main(["blur", str(photos), str(tmp_path / "out\u2192"), "--extents", "4"]) == 0
    console.seek(0)
    assert rf"2 pairs in {tmp_path}/out\u2192/input" in console.read()


def test_help_is_shown_by_a_console_that_lacks_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    console = ascii_console(monkeypatch)
    monkeypatch.setattr("tafm_loss.cli.BACKBONE", "a \u2192 b")
    with pytest.raises(SystemExit):
        main(["finetune", "--help"])
    console.seek(0)
    assert r"a \u2192 b" in console.read()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_that_finds_no_room_is_an_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with contextlib.suppress(OSError), open("/dev/full", "w") as full:  # closing it fails again
        monkeypatch.setattr(sys, "stdout", full)
        assert main(["info"]) == 2
    assert "No space left on device" in capsys.readouterr().err


def test_home_is_expanded_where_the_shell_does_not(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert main(["blur", "~/photos", "~/out", "--extents", "4"]) == 0
    assert (tmp_path / "out" / "pairs.csv").exists() and not (tmp_path / "~").exists()
    assert f"2 pairs in {tmp_path / 'out' / 'input'}" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["blur", "~nobody-of-this-name/photos", "out", "--extents", "4"])
    assert "argument DIR: '~nobody-of-this-name/photos' is in the home of a user who" in capsys.readouterr().err


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def break_down() -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("tafm_loss._commands.describe_backbones", break_down)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["info"])


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return a folder of two images and a file that is none."""
    from PIL import Image

    (tmp_path / "photos").mkdir()
    for name in ("a", "b"):
        Image.effect_noise((48, 40), 60).convert("RGB").save(tmp_path / "photos" / f"{name}.png")
    (tmp_path / "photos" / "c.jpg").write_text("not an image")
    return tmp_path / "photos"


def test_blur_makes_pairs_and_names_what_it_skips(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["blur", str(photos), str(out), "--extents", "4", "8", "--kind", "shake=3", "defocus", "--seed", "7"]
    command += ["--transfer", "none", "--extent-jitter", "0.1", "--shot-noise", "1e-4", "--read-noise", "1e-5"]
    assert main(command) == 0
    captured = capsys.readouterr()
    assert captured.out == f"4 pairs in {out / 'input'} and {out / 'target'}; 1 image skipped\n"
    assert f"tafm-loss: skipped {photos / 'c.jpg'}: cannot be read as an image" in captured.err
    assert "UserWarning" not in captured.err
    found = json.loads((out / "settings.json").read_text())
    assert found["extents"] == [4, 8] and found["kinds"] == {"shake": 0.75, "defocus": 0.25} and found["seed"] == 7
    assert found["transfer"] is None and found["extent_jitter"] == 0.1
    assert (found["shot_noise"], found["read_noise"]) == (1e-4, 1e-5)
    assert main(command) == 0
    assert "4 pairs in" in (again := capsys.readouterr().out) and ", 4 of them from before; 1 image" in again


def test_blur_writes_into_the_folders_of_the_layout(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["blur", str(photos), str(out), "--extents", "2.5", "4", "--layout", "blur-sharp"]) == 0
    assert f"4 pairs in {out / 'blur'} and {out / 'sharp'}; " in capsys.readouterr().out
    names = ["a_2p5px.png", "a_4px.png", "b_2p5px.png", "b_4px.png"]
    assert sorted(path.name for path in (out / "blur").iterdir()) == names


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--kind", "zoom"], "unknown kind of blur 'zoom'"),
        (["--kind", "shake=much"], "--kind takes names and NAME=SHARE with a number as share, got shake=much"),
        (["--kind", "shake", "shake=2"], "--kind names shake twice"),
        (["--transfer", "rec709"], "transfer must be"),
        (["--extents", "0", "5"], "extents above 0"),
        (["--extents", "1e6"], "be 0.001 to 1000 px"),
        (["--read-noise", "-1"], "shot and read noise must"),
    ],
)
def test_blur_with_options_that_make_no_sense(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert message in fails(capsys, "blur", str(photos), str(tmp_path / "out"), "--extents", "5", *options)
    assert not (tmp_path / "out").exists()


def test_blur_into_a_folder_of_other_settings(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["blur", str(photos), str(tmp_path / "out"), "--transfer", "2.2", "--extents"]
    assert main([*command, "4"]) == 0
    capsys.readouterr()
    assert "extents is [4.0] there and [5.0] now" in fails(capsys, *command, "5")


def test_blur_leaves_options_that_are_not_given_to_the_synthesizer(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(extents: list[float], **options: object) -> None:
        raise ValueError(f"{sorted(options)}")

    monkeypatch.setattr("tafm_loss._commands.BlurSynthesizer", refuse)
    command = ["blur", str(photos), str(tmp_path / "out"), "--extents", "5"]
    always = ["extent_jitter", "kind", "transfer"]
    assert f"{always}" in fails(capsys, *command)
    assert f"{sorted([*always, 'border', 'highlight_gain', 'roll_deg'])}" in fails(
        capsys, *command, "--border", "valid", "--roll-deg", "1", "--highlight-gain", "2"
    )
