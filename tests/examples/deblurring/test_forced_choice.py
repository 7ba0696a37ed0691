"""People choose without knowing between what; the key and the files that come back say what they chose."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from examples.deblurring.data.files import encode_png
from examples.deblurring.evaluation.choices import SHARP, Study, count_choices, make_study
from examples.deblurring.evaluation.page import CROP_SIZE
from examples.deblurring.forced_choice import main
from tests.examples.deblurring.test_page import decoded

# As many as to have sides in halves, and one more.
COUNT = 9
LEVELS = {"plain": 100, "<ours>": 140, SHARP: 180}


def image(level: int, number: int) -> Tensor:
    return torch.full((3, 12, 16), level + number, dtype=torch.uint8)


def images(count: int = COUNT) -> dict[str, dict[str, Tensor]]:
    return {f"photo{n}": {label: image(level, n) for label, level in LEVELS.items()} for n in range(count)}


def shown(study: Study) -> list[list[int]]:
    """Return the level of each picture of the trials."""
    sections = study.page.split("<section")[1:]
    return [[int(pixels[0, 0, 0]) for pixels in decoded(section)] for section in sections]


def answers(study: Study, *, ours: int, person: str = "a", skipped: int = 0) -> dict[str, Any]:
    """Return a file of answers: for our method in the first trials, no answer in the last ones."""
    sides = []
    for number, trial in enumerate(study.key["trials"]):
        wanted = "<ours>" if number < ours else "plain"
        sides.append("left" if trial["left"] == wanted else "right")
    sides[len(sides) - skipped :] = [None] * skipped
    return {"study": study.key["study"], "person": person, "answers": sides}


def cells(study: Study, *files: dict[str, Any]) -> dict[str, list[str]]:
    return {row[0].text: [cell.text for cell in row[1:]] for row in count_choices(study.key, files).rows}


@pytest.mark.parametrize("with_sharp", [True, False])
def test_the_page_shows_what_the_key_says_and_says_nothing_of_it(with_sharp: bool) -> None:
    study = make_study(images(), seed=3, with_sharp=with_sharp)
    trials = study.key["trials"]
    assert len(trials) == COUNT and {trial["image"] for trial in trials} == set(images())
    for trial, levels in zip(trials, shown(study), strict=True):
        number = int(trial["image"].removeprefix("photo"))
        sides = [trial["left"], *([SHARP] if with_sharp else []), trial["right"]]
        assert levels == [LEVELS[side] + number for side in sides]
    assert sorted(trial["left"] for trial in trials).count("plain") in (COUNT // 2, COUNT // 2 + 1)
    assert not re.search(r"plain|ours|photo", study.page)
    question = "closer to the sharp one" if with_sharp else "looks better"
    assert question in study.page


def test_the_seed_decides_order_and_sides_and_the_study_is_told_by_what_it_shows() -> None:
    study = make_study(images(), seed=0)
    assert make_study(images(), seed=0) == study
    other = make_study(images(), seed=1)
    assert [trial["image"] for trial in other.key["trials"]] != [trial["image"] for trial in study.key["trials"]]
    changed = images()
    changed["photo3"]["plain"] = image(101, 3)
    assert len({made.key["study"] for made in (study, other, make_study(changed, seed=0))}) == 3


def test_crops_are_where_the_two_differ_most() -> None:
    sharp = torch.zeros(3, 400, 500, dtype=torch.uint8)
    ours = sharp.clone()
    ours[:, 200:360, 320:480] = 9
    study = make_study({"x": {"plain": sharp, "ours": ours, SHARP: sharp}}, seed=0)
    assert [(each.shape[1:], int(each.amin())) for each in decoded(study.page)] in (
        [((CROP_SIZE, CROP_SIZE), level) for level in levels] for levels in ((0, 0, 9), (9, 0, 0))
    )


class Markup(HTMLParser):
    """Collects identities, and what each script asks the page for."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attributes if name in {"id", "data-side"}]
        if tag not in {"img", "meta"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_its_script_finds_all_it_asks_for() -> None:
    page = make_study(images(), seed=0).page
    markup = Markup(page)
    assert not markup.open
    asked = set(re.findall(r'getElementById\("(\w+)"\)', page))
    assert asked == {"study", "end", "progress", "back", "save", "anew"}
    assert sorted(markup.found) == sorted([*asked, "left", "right"])
    assert not re.search(r'src="(?!data:)|https?:', page)


def test_the_share_of_a_person_has_an_exact_interval_and_test() -> None:
    study = make_study(images(), seed=0)
    found = cells(study, answers(study, ours=8, skipped=0))
    # By Clopper and Pearson's formula; 2 (1 + 9) / 2^9.
    assert found == {"all answers": ["9", "8", "0.889", "0.518 to 0.997", "0.0391"]}
    table = count_choices(study.key, [answers(study, ours=7, skipped=2)])
    assert table.rows[0][1].text == "7" and "2 of 9 questions were not answered." in table.notes


def test_several_people_are_counted_each_and_images_by_their_majority() -> None:
    study = make_study(images(), seed=0)
    files = [answers(study, ours=9, person="a"), answers(study, ours=5, person="b"), answers(study, ours=2, person="c")]
    found = cells(study, *files)
    assert {name: row[:2] for name, row in found.items()} == {
        "all answers": ["27", "16"],
        "images, by majority": ["9", "5"],
        "person 1": ["9", "9"],
        "person 2": ["9", "5"],
        "person 3": ["9", "2"],
    }
    # Of two people, those images on which they differ are left out.
    assert cells(study, *files[::2])["images, by majority"][:2] == ["2", "2"]
    assert cells(study, files[0], answers(study, ours=0, person="d"))["images, by majority"] == ["0", *["-"] * 4]


def test_answers_that_do_not_belong_are_refused() -> None:
    study = make_study(images(), seed=0)
    good = answers(study, ours=3)
    for wrong, message in (
        ([good, good], "answers 2 are of a person whose answers are there already"),
        ([{**good, "study": "x"}], "answers 1 are of the study x"),
        ([{**good, "answers": ["left"]}], "left, right or null for each of 9"),
        ([{**good, "answers": ["middle"] * COUNT}], "left, right or null"),
        ([{"study": "x"}], "a file that the page has saved"),
        ([answers(study, ours=3, skipped=COUNT)], "no answer yet"),
    ):
        with pytest.raises(ValueError, match=message):
            count_choices(study.key, wrong)
    with pytest.raises(ValueError, match="the key must be the file"):
        count_choices(good, [good])
    with pytest.raises(ValueError, match="between two methods, got 1: plain"):
        make_study({"x": {"plain": image(0, 0), SHARP: image(0, 0)}}, seed=0)


# ---- the commands ----


@pytest.fixture
def folders(tmp_path: Path) -> list[str]:
    """Write the images, and return the arguments that name them."""
    for name, versions in images(3).items():
        for label, pixels in versions.items():
            path = tmp_path / label / f"{name}.png"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(encode_png(pixels))
    methods = [f"{label}={tmp_path / label}" for label in LEVELS if label != SHARP]
    return ["--sharp", str(tmp_path / SHARP), "--methods", *methods]


def test_a_page_is_made_answered_and_counted(
    folders: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, key = tmp_path / "page.html", tmp_path / "key.json"
    make = ["make", *folders, "--out", str(page), "--key", str(key)]
    assert main(make) == 0
    study = make_study(images(3), seed=0)
    assert page.read_text() == study.page and json.loads(key.read_text()) == study.key
    (tmp_path / "answers.json").write_text(json.dumps(answers(study, ours=2)))
    capsys.readouterr()
    assert main(["count", str(key), str(tmp_path / "answers.json")]) == 0
    assert re.search(r"all answers +3 +2 +0\.667", capsys.readouterr().out)
    assert main(make) == 0 and main([*make, "--seed", "1"]) == 2
    assert "is the key of another study" in capsys.readouterr().err
    assert main(["count", str(page), str(key)]) == 2
    assert "is not JSON" in capsys.readouterr().err


def test_crops_of_all_methods_come_with_their_names(folders: list[str], tmp_path: Path) -> None:
    assert main(["crops", *folders, "--out", str(tmp_path / "crops.html"), "--limit", "2"]) == 0
    page = (tmp_path / "crops.html").read_text()
    assert [int(pixels[0, 0, 0]) for pixels in decoded(page)] == [100, 140, 180, 101, 141, 181]
    assert "photo1" in page and "&lt;ours&gt;" in page and "photo2" not in page


def test_folders_that_do_not_match_are_refused(
    folders: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "crops.html")]
    assert main(["crops", *folders[:3], "plain", *out]) == 2
    assert "--methods takes LABEL=DIR" in capsys.readouterr().err
    (tmp_path / "plain/photo1.png").write_bytes(encode_png(torch.zeros(3, 9, 9, dtype=torch.uint8)))
    assert main(["crops", *folders, *out]) == 2
    assert "the versions of photo1 differ in size" in capsys.readouterr().err
    (tmp_path / "plain/photo1.png").unlink()
    assert main(["crops", *folders, *out]) == 2
    assert re.search(r"only one of .* holds photo1", capsys.readouterr().err)
    assert not (tmp_path / "crops.html").exists()
