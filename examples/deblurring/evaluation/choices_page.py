"""The page on which people choose: one HTML file that needs no server, keeps the answers, and saves them as JSON."""

from collections.abc import Sequence

from examples.deblurring.evaluation.page import Panel, as_document, as_panels

__all__ = ["render_choices"]

QUESTIONS = {
    2: "Which picture looks better?",
    3: "Which picture is closer to the sharp one in the middle?",
}
# Answers stay in the browser, so that the page can be closed and opened again.
SCRIPT = """
"use strict";
const study = document.getElementById("study");
const trials = [...study.querySelectorAll("section")];
const end = document.getElementById("end");
const place = "forced-choice-" + study.dataset.study;
const person = Math.random().toString(36).slice(2, 12);
let state = {study: study.dataset.study, person: person, answers: trials.map(() => null)};
try { state = JSON.parse(localStorage.getItem(place)) || state; } catch (error) { }
let shown = 0;

function keep() {
  try { localStorage.setItem(place, JSON.stringify(state)); } catch (error) { }
}
function show(index) {
  shown = Math.max(0, Math.min(index, trials.length));
  trials.forEach((trial, number) => { trial.hidden = number !== shown; });
  end.hidden = shown < trials.length;
  const answered = state.answers.filter((answer) => answer !== null).length;
  document.getElementById("progress").textContent = answered + " of " + trials.length + " answered";
}
function choose(side) {
  if (shown === trials.length) return;
  state.answers[shown] = side;
  keep();
  show(shown + 1);
}
function save() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(state)], {type: "application/json"}));
  link.download = "answers-" + state.study + "-" + state.person + ".json";
  link.click();
}
function startAnew() {
  if (!confirm("Remove these answers from the browser, for the next person?")) return;
  try { localStorage.removeItem(place); } catch (error) { }
  location.reload();
}
document.querySelectorAll("[data-side]").forEach((button) => {
  button.addEventListener("click", () => choose(button.dataset.side));
});
document.getElementById("back").addEventListener("click", () => show(shown - 1));
document.getElementById("save").addEventListener("click", save);
document.getElementById("anew").addEventListener("click", startAnew);
document.addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft") choose("left");
  if (event.key === "ArrowRight") choose("right");
});
const open = state.answers.indexOf(null);
show(open < 0 ? trials.length : open);
"""


def render_choices(study: str, trials: Sequence[Sequence[Panel]]) -> str:
    """Return the page.

    Args:
        study: what tells this study from others, in the answers.
        trials: the pictures of each, left to right: two, or three with the sharp one in the middle.
    """
    sections = "\n".join(f"<section hidden>\n{as_panels(panels)}\n</section>" for panels in trials)
    body = f"""<h1>{QUESTIONS[len(trials[0])]}</h1>
<p class="notes">Choose by the buttons or the arrow keys, also where you are not sure. Sit as you usually do, and do not
enlarge the page.</p>
<noscript><p>This page needs JavaScript, which is switched off.</p></noscript>
<main id="study" data-study="{study}">
<p><button data-side="left">&#8592; left</button> <button data-side="right">right &#8594;</button>
<button id="back">back</button> <span id="progress"></span></p>
{sections}
</main>
<div id="end" hidden><p>That was all: thank you. Save the file, and send it to who asked you.</p></div>
<p><button id="save">save the answers</button> <button id="anew">next person</button></p>
<script>{SCRIPT}</script>"""
    return as_document("Which picture?", body)
