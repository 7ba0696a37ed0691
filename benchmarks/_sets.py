"""The programs of this folder: what each asks, how it is called, and what it needs."""

import string
from dataclasses import dataclass

BSDS_TRAIN, BSDS_VAL, BSDS_TEST = (f"{{datasets}}/bsds500/{split}" for split in ("train", "val", "test"))
SQUEEZENET = "{weights}/squeezenet1_0-imagenet.safetensors"
MDF = "{weights}/mdf/Ds_SISR.pth"


@dataclass(frozen=True)
class Program:
    """A call of a script.

    Args:
        name: what it is asked for by.
        question: what it answers.
        takes: about how long, on one core.
        arguments: of the call that is published. {datasets} and {weights} are folders that the user names, {runs} one
            for what is kept between calls.
        quick: arguments of a call that only tells whether all runs, with {out} for a scratch folder. None if there is
            no such call.
        results: the result files, without `.json`. None for the name.
        script: without `.py`. None for the name.
        plots: whether `--plot` alone draws its plot from the result file.
    """

    name: str
    question: str
    takes: str
    arguments: str = ""
    quick: str | None = None
    results: tuple[str, ...] | None = None
    script: str | None = None
    plots: bool = False

    @property
    def file(self) -> str:
        return f"{self.script or self.name}.py"

    @property
    def result_files(self) -> tuple[str, ...]:
        return (self.name,) if self.results is None else self.results


def places(arguments: str) -> set[str]:
    """Return the names of the folders that arguments ask for."""
    return {field for _, field, _, _ in string.Formatter().parse(arguments) if field}


# In an order in which each finds what others have made.
PROGRAMS = [
    Program(
        "balance",
        "How does the balance of the loss and a pixel loss drift over training, and which calibration keeps it?",
        "half an hour",
        "--datasets {datasets}",
        "--quick --datasets {datasets} --out {out}/balance.json --picture {out}/balance.png",
        plots=True,
    ),
    Program(
        "balance_weights",
        "Which weight gives the recommended ratio of gradients beside L1, Charbonnier and PSNRLoss?",
        "10 minutes",
        "--datasets {datasets} --weights",
        "--quick --datasets {datasets} --weights --out {out}/balance_weights.json --picture {out}/balance.png",
        script="balance",
    ),
    Program(
        "blur_gallery",
        "What do kinds of blur and streaks of lamps look like? Pictures only.",
        "a minute",
        quick="--out {out}",
        results=(),
    ),
    Program(
        "blur_meter",
        "Can the extent of blur be read from one image alone, by a regression on features?",
        "a quarter of an hour",
        "--datasets {datasets} --weights {weights}",
        "--quick --datasets {datasets} --weights {weights} --out {out}/blur_meter.json --picture {out}/blur_meter.png",
        results=("blur_meter", "blur_meter_ranks", "blur_meter_errors"),
        plots=True,
    ),
    Program(
        "blur_throughput",
        "How fast is BlurSynthesizer, beside other packages and as images and kernels grow?",
        "10 minutes",
        quick="--quick --out {out}/blur_throughput.json --picture {out}/blur_throughput.png",
        plots=True,
    ),
    Program(
        "deblurring_example",
        "What do a small network on photographs and its fine-tunes reach in an hour?",
        "2 hours",
        "--datasets {datasets} --runs {runs} --mixed-precision bf16 --threads 1",
    ),
    Program(
        "blur_awareness",
        "Does a judge tell blur from changes of the same size that are not blur, also in what a network leaves?",
        "half an hour",
        f"--photographs {{datasets}}/bsds500 --squeezenet {SQUEEZENET} --backbones {{runs}}/backbones "
        f"--restorer {{runs}}/unet_synthetic --mdf {MDF}",
        results=("blur_awareness", "blur_awareness_residuals"),
        plots=True,
    ),
    Program(
        "deblurring_quality",
        "Does a feature loss deblur better than pixels alone, what others use, and an unsharp mask?",
        "a night",
        "--datasets {datasets} --weights {weights} --runs {runs}",
        "--quick --datasets {datasets} --weights {weights} --runs {out} --out {out} "
        "--picture {out}/deblurring_quality.png",
        results=("deblurring_trials", "deblurring_quality", "deblurring_gains", "deblurring_contrasts"),
        plots=True,
    ),
    Program(
        "deblurring_pictures",
        "What do arms of deblurring_quality look like at one PSNR? Pictures only.",
        "a minute",
        "--datasets {datasets} --runs {runs}",
        results=(),
    ),
    Program("demo", "What does the demo of the README give?", "5 minutes", "--trunks {weights}/metrics"),
    Program(
        "discriminators",
        "What do discriminators learn that are trained on one photograph and its blur?",
        "half an hour",
        f"{{runs}}/discriminators --official {MDF} --squeezenet {SQUEEZENET}",
    ),
    Program(
        "finetuning",
        "What does each objective make of an ImageNet SqueezeNet?",
        "2 hours",
        f"squeezenet {{runs}}/squeezenet --train {BSDS_TRAIN} --test {BSDS_TEST} --weights {SQUEEZENET}",
        plots=True,
    ),
    Program(
        "finetuning_compact",
        "What does the objective make of the bundled network, from nothing?",
        "an hour",
        f"compact {{runs}}/compact --train {BSDS_TRAIN} --test {BSDS_TEST} --validation {BSDS_VAL}",
        script="finetuning",
    ),
    Program(
        "integration_cost",
        "What does the loss cost in each trainer, beside that trainer's own VGG term?",
        "10 minutes",
        quick="--quick --out {out}/integration_cost.json",
    ),
    Program(
        "latent_comparison",
        "Does the latent comparison make BDIRNet robust to blur of other families?",
        "an hour",
        "--steps 1000 --seeds 2",
        "--steps 10 --seeds 1 --out {out}/latent_comparison.json --figure {out}/latent_comparison.png",
        plots=True,
    ),
    Program(
        "loss_cost",
        "What does a training step with the loss cost, in time and memory?",
        "half an hour",
        "--datasets {datasets} --weights {weights}",
        "--quick --datasets {datasets} --weights {weights} --out {out}/loss_cost.json --picture {out}/loss_cost.png",
        plots=True,
    ),
    Program(
        "default_cost",
        "What does the default loss cost, beside lpips, VGG19 and a step of NAFNet?",
        "two minutes",
        quick="--quick --out {out}/default_cost.json",
    ),
    Program(
        "misaligned",
        "Which loss bears training pairs that do not line up?",
        "two hours",
        "--datasets {datasets} --weights {weights} --runs {runs}",
        "--quick --seeds 0 1 --datasets {datasets} --weights {weights} --runs {out} --out {out} "
        "--picture {out}/misaligned.png",
        results=("misaligned", "misaligned_lpips", "misaligned_dists", "misaligned_gains", "misaligned_from_nothing"),
        plots=True,
    ),
    Program(
        "negatives_gallery",
        "What do the two kinds of progressive negatives look like? Pictures only.",
        "a minute",
        quick="--out {out}",
        results=(),
    ),
    Program(
        "refresh",
        "Should a distance follow the network that it trains?",
        "an hour",
        "--datasets {datasets} --weights {weights} --runs {runs}",
        "--quick --datasets {datasets} --weights {weights} --runs {out} --out {out} --picture {out}/refresh.png",
        results=("refresh", "refresh_trials"),
        plots=True,
    ),
    Program(
        "sister_losses",
        "What do the sister losses do as training terms?",
        "half an hour",
        "--discriminators {runs}/discriminators",
    ),
    Program(
        "training_cost",
        "What does a step of fine-tuning cost, and do the images keep up?",
        "10 minutes",
        f"--train {BSDS_TRAIN} --weights {SQUEEZENET}",
    ),
    Program(
        "tuned_losses",
        "What do tuned backbones do as losses?",
        "an hour",
        f"{{runs}}/squeezenet {{runs}}/compact --train {BSDS_TRAIN} --test {BSDS_TEST} --weights {SQUEEZENET}",
    ),
    Program(
        "weights_loading",
        "What does it cost to verify weights when they are loaded?",
        "2 minutes",
        quick="--out {out}/weights_loading.json",
    ),
]
