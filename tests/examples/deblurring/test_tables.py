"""Tables say which way is better, what is best and what is not finite, and hold any text in any form."""

import json
import math
from collections.abc import Sequence

import pytest
import torch

from examples.deblurring.evaluation.metrics import ECC_FAILED, METRICS, column_of
from examples.deblurring.evaluation.result_tables import difference_table, method_table, result_table, scene_table
from examples.deblurring.evaluation.rows import ImageRows
from examples.deblurring.evaluation.statistics import Summary, adjusted, as_json, paired_difference, summarise
from examples.deblurring.evaluation.tables import (
    Cell,
    Table,
    as_latex,
    as_markdown,
    format_number,
)


def summary(scenes: Sequence[str] = "aabb", **columns: Sequence[float]) -> Summary:
    values = torch.tensor(list(columns.values()), dtype=torch.float64).T
    names = tuple(f"{scene}-{index}" for index, scene in enumerate(scenes))
    return summarise(ImageRows(names, tuple(scenes), tuple(columns), values))


def texts(table: Table) -> list[list[str]]:
    return [[cell.text for cell in row] for row in table.rows]


def best(table: Table) -> list[tuple[int, int]]:
    return [(i, j) for i, row in enumerate(table.rows) for j, cell in enumerate(row) if cell.best]


@pytest.mark.parametrize(
    ("value", "text"),
    [(31.2349, "31.23"), (-0.001, "0.00"), (math.inf, "∞"), (-math.inf, "-∞"), (math.nan, "not a number")],
)
def test_numbers_are_rounded_or_told_in_words(value: float, text: str) -> None:
    assert format_number(value, 2) == text


def test_every_metric_can_be_shown_and_ssim_says_which_one() -> None:
    headings = {name: column_of(name).heading for name in METRICS if name != ECC_FAILED}
    assert len(set(headings.values())) == len(headings)
    assert (
        headings["psnr"] == "PSNR, dB ↑" and headings["gmsd"] == "GMSD ↓" and headings["sharpness_kept"] == "sharpness"
    )
    assert all("(" in heading for heading in headings.values() if heading.startswith("SSIM"))


def test_a_result_has_its_mean_interval_and_mean_of_scenes() -> None:
    table = result_table("mine", summary("abbb", psnr=[30, 20, 21, 22], ssim=[0.9, 0.8, 0.8, 0.8]), ["a note"])
    assert table.head == ["", "PSNR, dB ↑", "SSIM (RGB) ↑"]
    assert texts(table)[0] == ["mine", "23.25", "0.8250"]
    assert texts(table)[1] == ["95% interval", "21.00 to 30.00", "0.8000 to 0.9000"]
    assert texts(table)[2] == ["mean of scenes", "25.50", "0.8500"]
    assert "Mean over 4 images of 2 scenes." in table.notes and "a note" in table.notes
    assert texts(scene_table(summary("abbb", psnr=[30, 20, 21, 22]))) == [["a", "1", "30.00"], ["b", "3", "21.00"]]


def test_what_is_not_finite_is_told_and_not_left_out() -> None:
    found = summary(psnr=[math.inf, math.inf, 1, 2], ssim=[0.1, 0.1, math.nan, 0.1])
    table = result_table("mine", found)
    assert texts(table)[0] == ["mine", "∞", "not a number"] and texts(table)[1] == ["95% interval", "-", "-"]
    assert "mine: PSNR is infinite on 2 images, and so is its mean." in table.notes
    assert "mine: SSIM (RGB) is not a number on 1 image, the first b-2, and so is its mean." in table.notes
    json.dumps(as_json(found), allow_nan=False)


def test_images_that_could_not_be_aligned_are_counted_in_words_not_in_a_column() -> None:
    table = result_table("mine", summary(psnr_ecc=[1, 2, 3, 4], ecc_failed=[0, 1, 1, 0]))
    assert table.head == ["", "PSNR (aligned), dB ↑"]
    assert "mine: ECC did not converge on 2 images, measured unaligned." in table.notes


def test_the_best_is_marked_by_direction_and_by_what_is_shown() -> None:
    table = method_table(
        {
            "a": summary(psnr=[30.001] * 4, gmsd=[0.2] * 4, sharpness_kept=[1.0] * 4),
            "b": summary(psnr=[30.002] * 4, gmsd=[0.1] * 4, sharpness_kept=[2.0] * 4),
            "c": summary(psnr=[math.nan] * 4, lpips=[0.3] * 4),
        }
    )
    assert table.head == ["", "PSNR, dB ↑", "GMSD ↓", "sharpness", "LPIPS ↓"]
    # Both have 30.00; neither way is better for sharpness; LPIPS has no rival.
    assert best(table) == [(0, 1), (1, 1), (1, 2)]
    assert texts(table)[2] == ["c", "not a number", "-", "-", "0.3000"]


def test_differences_have_intervals_and_adjusted_p() -> None:
    base, near, far = (
        summary("abcd", psnr=values, psnr_gain=values) for values in ([0] * 4, [1, 1, 1, -1], [1, 2, 3, 4])
    )
    found = adjusted({"near": paired_difference(base.rows, near.rows), "far": paired_difference(base.rows, far.rows)})
    table = difference_table("base", found)
    assert [row[:3] + row[4:] for row in texts(table)] == [
        ["near", "PSNR, dB ↑", "+0.500", "0.6250", "0.6250", "3 of 4"],
        ["far", "PSNR, dB ↑", "+2.500", "0.1250", "0.2500", "4 of 4"],
    ]
    assert texts(table)[1][3] == "+1.500 to +3.500"
    assert "Mean over images of the method's value less that of base." in table.notes


ODD = Table(
    r"50% of a_b & c\d",
    ["", "PSNR ↑", "<GMSD> ↓"],
    [[Cell("[x] a_b|c*d"), Cell("∞", best=True), Cell("~^{$}#")]],
    ["two\nlines % of `it` & <b>"],
)


def test_latex_is_escaped_and_has_the_rules_of_booktabs() -> None:
    text = as_latex(ODD)
    lines = text.splitlines()
    assert lines[0] == r"% 50% of a_b & c\d" and lines[1] == "% two lines % of `it` & <b>"
    assert lines[2:4] == [r"\begin{tabular}{lrr}", r"\toprule"]
    assert lines[4] == r" & PSNR $\uparrow$ & \textless{}GMSD\textgreater{} $\downarrow$ \\"
    assert lines[6] == (r"{[}x] a\_b|c*d & \textbf{$\infty$} & \textasciitilde{}\textasciicircum{}\{\$\}\# \\")
    assert lines[-2:] == [r"\bottomrule", r"\end{tabular}"]
    assert r"50\% \& a\_b \textbackslash{}x" in as_latex(Table("", ["", r"50% & a_b \x"], []))
    cells = [Cell("hinet-tafm"), Cell("-0.10 to -0.05"), Cell("-∞"), Cell("-"), Cell("2-3", best=True)]
    numbers = r"hinet-tafm & $-$0.10 to $-$0.05 & $-$$\infty$ & - & \textbf{2-3} \\"
    assert numbers in as_latex(Table("", [""] * 5, [cells]))


def test_markdown_is_escaped_and_rows_have_as_many_cells_as_the_head() -> None:
    lines = as_markdown(ODD).splitlines()
    assert lines[2] == r"|  | PSNR ↑ | \<GMSD> ↓ |" and lines[3] == "| --- | ---: | ---: |"
    assert lines[4] == r"| [x] a_b\|c\*d | **∞** | ~^{$}# |"
    assert r"\`it\` & \<b>" in lines[6]
    assert r"\_a b\_c_d\_" not in as_markdown(ODD) and r"\_x_y\_" in as_markdown(Table("_x_y_", [""], []))
