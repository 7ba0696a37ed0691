"""Does the latent comparison make a network robust: trained on one family of blur, tested on others.

BDIRNet (examples/deblurring) with its modules and the latent losses, with either, and with neither: the same scenes,
batches, steps and passes, and the same first weights where layers are shared. Every scene is blurred twice, and every
arm restores both images, since the latent losses need both passes. Writes results/latent_comparison.json after every
run, skips those that are there, and draws docs/latent_comparison.png from it; minutes a run on one core:

    python benchmarks/latent_comparison.py [--images DIR] [--family shake | linear] [--steps 2000] [--seeds 3]
"""

import argparse
import io
import json
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from _common import RESULTS, ROOT, metadata, write_result
from _probes import rank_correlation, ridge_prediction
from torch import Tensor, nn
from tqdm import tqdm

from examples._common import write_atomically
from examples.deblurring.evaluation.similarity import gmsd, psnr
from tafm_loss import BlurSynthesizer
from tafm_loss.demo import (
    NOISE,
    Pairs,
    batches_of,
    cosine_schedule,
    generated_pairs,
    photograph_pairs,
    restore,
)
from tafm_loss.losses import LatentComparisonLoss

sys.path.insert(0, str(ROOT / "examples" / "deblurring" / "models"))
from bdirnet import BDIRNet

WIDTH, BLOCKS = 8, 1
# Found on other generated scenes: from 0.005 on the structure keeps too little of what restoring needs.
LATENT_WEIGHT = 0.001
# 2 to 8 px, in training as in testing.
EXTENT, EXTENT_JITTER = 5.0, 0.6
FAMILIES = ("shake", "linear")
UNSEEN_FAMILIES = ("defocus", "gaussian")
PROBE_EXTENTS = (2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0)
PROBE_SCENES = 48
SCORES = {"PSNR, dB": (psnr, 2), "GMSD": (gmsd, 4)}
INPUT, NEITHER = "blurred input", "neither"


class Arm(NamedTuple):
    """What an arm has: BDIRNet's SAID and SAIR, and the latent losses."""

    modules: bool
    losses: bool


ARMS = {
    NEITHER: Arm(modules=False, losses=False),
    "modules": Arm(modules=True, losses=False),
    "latent losses": Arm(modules=False, losses=True),
    "modules + latent losses": Arm(modules=True, losses=True),
}


def noisy(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return images with the noise of the demo."""
    return (images + NOISE * torch.randn(images.shape, generator=generator)).clamp(0, 1)


def blurred(sharp: Tensor, family: str, seed: int) -> Tensor:
    """Return scenes (N, 3, H, W) under 2 to 8 px of one family of blur, with noise."""
    generator = torch.Generator().manual_seed(seed)
    blur = BlurSynthesizer((EXTENT,), kind=family, extent_jitter=EXTENT_JITTER)
    return noisy(torch.cat([blur(scenes, generator=generator)[0] for scenes in sharp.split(32)]), generator)


def blurred_twice(sharp: Tensor, family: str, seed: int) -> Pairs:
    """Return scenes and themselves under two blurs, drawn apart, as 6 channels: what crops one crops the other."""
    return Pairs(torch.cat([blurred(sharp, family, 2 * seed + side) for side in (0, 1)], 1), sharp)


def untrained(arm: Arm, seed: int) -> BDIRNet:
    """Return a network whose weights follow from the seed, the same in all arms that have the layer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        state = BDIRNet(WIDTH, BLOCKS).state_dict()
        network = BDIRNet(WIDTH, BLOCKS, said=arm.modules, sair=arm.modules)
    network.load_state_dict({name: state[name] for name in network.state_dict()})
    return network.to(memory_format=torch.channels_last)


def train(arm: Arm, training: Pairs, steps: int, *, seed: int, label: str) -> BDIRNet:
    """Return a network that has learned to restore both images of each pair, with `losses` also to compare them."""
    network = untrained(arm, seed)
    compare = LatentComparisonLoss(weight=LATENT_WEIGHT)
    optimiser = torch.optim.Adam(network.parameters())
    noise = torch.Generator().manual_seed(seed)
    rate = cosine_schedule(steps)
    for step, batch in enumerate(tqdm(batches_of(training, steps, seed + 1), desc=label, total=steps)):
        for group in optimiser.param_groups:
            group["lr"] = rate(step)
        pair = batch.blurred.split(3, 1)
        one, other = (network.distill(images) for images in pair)
        restored = [network.reconstruct(images, each, noise) for images, each in zip(pair, (one, other), strict=True)]
        loss = sum(F.l1_loss(images, batch.sharp) for images in restored) / 2
        if arm.losses:
            loss = loss + compare(one.structure, other.structure, one.statistics, other.statistics)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
    return network.eval()


def scores(restored: Tensor, sharp: Tensor) -> dict[str, float]:
    """Return the means over the scenes."""
    return {name: float(metric(restored, sharp).mean()) for name, (metric, _) in SCORES.items()}


@torch.inference_mode()
def _angle(a: Tensor, b: Tensor) -> Tensor:
    """Return the squared distance of features scaled to unit length, at every place."""
    return (F.normalize(a, dim=1) - F.normalize(b, dim=1)).square().sum(1, keepdim=True)


def mechanism(network: BDIRNet, known: Tensor, unseen: Tensor, family: str) -> dict[str, Any]:
    """Return what extents do to the structure of unseen scenes, and how well the distilled can be read for them.

    "change": for every extent the distance of the structure of the blurred scenes from that of the sharp ones, divided
    by the mean distance of two sharp scenes. "probes": ridge regression of the extent, trained on `known` scenes, from
    the structure and from the statistics, if there are any.
    """
    seen, learned = (distilled_levels(network, scenes, family) for scenes in (unseen, known))
    sharp, *levels = seen["structure"]
    others = torch.stack([_angle(sharp, sharp.roll(shift, 0)).mean() for shift in range(1, len(sharp))])
    changes = torch.stack([_angle(level, sharp).mean() for level in levels])
    return {
        "change": (changes / others.mean()).tolist(),
        "probes": {name: probe(pooled(learned[name]), pooled(found)) for name, found in seen.items()},
    }


def distilled_levels(network: BDIRNet, scenes: Tensor, family: str) -> dict[str, Tensor]:
    """Return the structure (L, N, C, H, W), and statistics (L, N, K) if there are any, of scenes at rising extents.

    All levels have noise, the sharp one too, so that extent alone tells them apart.
    """
    generator = torch.Generator().manual_seed(3)
    levels = noisy(BlurSynthesizer((0.0, *PROBE_EXTENTS), kind=family)(scenes, generator=generator), generator)
    distilled = [network.distill(images) for images in levels]
    found = {"structure": torch.stack([level.structure for level in distilled])}
    if distilled[0].statistics is not None:
        found["statistics"] = torch.stack([level.statistics for level in distilled])
    return found


def pooled(levels: Tensor) -> Tensor:
    """Return the blurred levels as features (N, L, F): of maps their mean and deviation over the locations."""
    blurred_levels = levels[1:]
    if levels.dim() == 5:
        blurred_levels = torch.cat([blurred_levels.mean((3, 4)), blurred_levels.std((3, 4))], 2)
    return blurred_levels.transpose(0, 1)


def probe(known: Tensor, unseen: Tensor) -> dict[str, Any]:
    """Return how well the extents can be read from features (N, L, F), in log1p of px; and what is read, in px."""
    extents = torch.tensor(PROBE_EXTENTS).log1p().double()
    guesses = ridge_prediction(known, extents.expand(known.shape[:2]), unseen)
    truth = extents.expand(guesses.shape)
    share = 1 - (guesses - truth).square().sum() / (truth - truth.mean()).square().sum()
    order = rank_correlation(guesses.flatten(), truth.flatten())
    return {"r2": float(share), "rank": float(order), "predicted": guesses.expm1().T.tolist()}


def summary(run: Mapping[str, Any], family: str) -> list[float]:
    """Return for every score its value in family, its mean out of family, and the difference."""
    values = []
    for score in SCORES:
        inside = run["families"][family][score]
        outside = statistics.fmean(run["families"][name][score] for name in UNSEEN_FAMILIES)
        values += [inside, outside, inside - outside]
    return values


def table(runs: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row an arm: means over the seeds, in brackets the range of the difference from neither."""
    family = settings["family"]
    summaries = {name: {} for name in (INPUT, *ARMS)}
    for run in runs.values():
        summaries[run["arm"]][run["seed"]] = summary(run, family)
    digits = [places for _, places in SCORES.values() for _ in range(3)]
    rows = []
    for name, own in summaries.items():
        cells = []
        for column, places in enumerate(digits if own else []):
            text = f"{statistics.fmean(values[column] for values in own.values()):.{places}f}"
            base = summaries[NEITHER]
            gaps = [values[column] - base[seed][column] for seed, values in own.items() if seed in base]
            if name not in (INPUT, NEITHER) and gaps:
                text += f" ({min(gaps):+.{places}f} to {max(gaps):+.{places}f})"
            cells.append(text)
        if cells:
            rows.append([f"{name} ({len(own)})", *cells])
    unseen = " and ".join(UNSEEN_FAMILIES)
    places = (family, f"mean of {unseen}", f"{family} - others")
    return {
        "columns": ["arm (seeds)", *(f"{score}, {place}" for score in SCORES for place in places)],
        "rows": rows,
        "caption": f"BDIRNet of width {WIDTH}, {settings['steps']} steps on {settings['scenes']} under {family} blur, "
        f"tested on others under {family} blur, and under {unseen} blur, which no arm was trained on: all of 2 to 8 "
        "px, with noise. Means over seeds; in brackets the least and largest difference from neither at the same "
        "seed.",
    }


def draw(runs: Mapping[str, Any], family: str, path: Path) -> None:
    """Draw how extent changes the structure in every arm, and what can be read of it where it was kept or removed."""
    from matplotlib.figure import Figure
    from PIL import Image

    figure = Figure(figsize=(10, 4.8), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, colour in zip(ARMS, ("tab:gray", "tab:blue", "tab:orange", "tab:green"), strict=True):
        curves = torch.tensor([run["mechanism"]["change"] for run in runs.values() if run["arm"] == name])
        if len(curves):
            left.plot(PROBE_EXTENTS, curves.mean(0).tolist(), color=colour, marker="o", label=name)
            left.fill_between(PROBE_EXTENTS, curves.amin(0).tolist(), curves.amax(0).tolist(), color=colour, alpha=0.2)
    left.set(
        xlabel=f"extent of {family} blur, px",
        ylabel="distance from the sharp scene's / of two scenes'",
        title="What blur changes in the structure latents",
        yscale="log",
    )
    shown = (
        (NEITHER, "structure", "tab:gray"),
        ("modules", "statistics", "tab:blue"),
        ("modules + latent losses", "structure", "tab:olive"),
        ("modules + latent losses", "statistics", "tab:green"),
    )
    for index, (name, source, colour) in enumerate(shown):
        probes = [run["mechanism"]["probes"][source] for run in runs.values() if run["arm"] == name]
        if probes:
            predicted = torch.tensor([each["predicted"] for each in probes]).transpose(0, 1).flatten(1)
            share = statistics.fmean(each["r2"] for each in probes)
            label = f"{name}: {source}, R2 {share:.2f}"
            # Side by side, so that no bar hides another.
            places = [extent + 0.12 * (index - 1.5) for extent in PROBE_EXTENTS]
            right.errorbar(places, predicted.mean(1), predicted.std(1), color=colour, marker="o", label=label)
    right.axline((2, 2), slope=1, color="black", linewidth=0.8, linestyle=":")
    right.set(
        xlabel="extent, px",
        ylabel="extent read by ridge regression, px",
        title="The extent, read from latents and statistics",
    )
    for axis in (left, right):
        axis.legend(frameon=False, fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)
    drawn, encoded = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png")
    Image.open(drawn).convert("RGB").quantize(128).save(encoded, "PNG", optimize=True)
    write_atomically(path, encoded.getvalue())


def kept_runs(path: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the runs that are there; those of other settings are an error."""
    if not path.exists():
        return {}
    result = json.loads(path.read_text())
    if result["settings"] != settings:
        raise SystemExit(
            f"{path} holds runs of {result['settings']}, not of {settings}; remove it or take another --out"
        )
    runs: dict[str, Any] = result["runs"]
    return runs


def main() -> None:
    """Train and measure the runs that are not there yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, help="a folder of photographs (default: generated scenes)")
    parser.add_argument("--family", choices=FAMILIES, default=FAMILIES[0], help="to train on (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=2000, help="of every run (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS / "latent_comparison.json")
    parser.add_argument("--figure", type=Path, default=ROOT / "docs" / "latent_comparison.png")
    parser.add_argument("--plot", action="store_true", help="measure nothing; draw the result file again")
    options = parser.parse_args()
    if options.plot:
        result = json.loads(options.out.read_text())
        draw(result["runs"], result["settings"]["family"], options.figure)
        return
    torch.set_num_threads(options.threads)
    settings = {
        "scenes": f"photographs of {options.images.name}" if options.images else "generated scenes",
        "family": options.family,
        "steps": options.steps,
    }
    runs = kept_runs(options.out, settings)
    images = f" --images {options.images.name}" if options.images else ""
    facts = metadata(
        f"python benchmarks/latent_comparison.py{images} --family {options.family} --steps {options.steps} "
        f"--seeds {options.seeds}"
    )
    generator = torch.Generator().manual_seed(0)
    # Of the demo's pairs the sharp images: they are blurred anew.
    split = photograph_pairs(options.images, generator) if options.images else generated_pairs(generator)
    known, unseen = (pairs.sharp for pairs in split)
    tests = {family: blurred(unseen, family, 1) for family in (options.family, *UNSEEN_FAMILIES)}

    def keep(name: str, seed: int, restored: Mapping[str, Tensor], found: dict[str, Any]) -> None:
        families = {family: scores(images, unseen) for family, images in restored.items()}
        runs[f"{name}, seed {seed}"] = {"arm": name, "seed": seed, "families": families, **found}
        result = {"table": table(runs, settings), "metadata": facts, "settings": settings, "runs": runs}
        write_result(options.out, result)

    keep(INPUT, 0, tests, {})
    # As large as the scenes that the probe learns from: statistics over an image depend on its size.
    side = known.shape[-1]
    probed = unseen[..., :side, :side]
    for seed in range(options.seeds):
        # Other kernels for every seed, the same for all arms of one.
        training = blurred_twice(known, options.family, 100 + seed)
        for name, arm in ARMS.items():
            label = f"{name}, seed {seed}"
            if label in runs:
                continue
            network = train(arm, training, options.steps, seed=seed, label=label)
            found = {"mechanism": mechanism(network, known[:PROBE_SCENES], probed, options.family)}
            keep(name, seed, {family: restore(network, images) for family, images in tests.items()}, found)
    draw(runs, options.family, options.figure)


if __name__ == "__main__":
    main()
