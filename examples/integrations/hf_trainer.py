"""The loss in a Trainer of Hugging Face's transformers.

pip install transformers
python -m examples.integrations.hf_trainer
"""

from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

from examples.integrations.small import BATCH_SIZE, PIXEL_L1, Pairs, Residual
from tafm_loss import BalancedLoss, TaskAdaptiveFeatureLoss


class DeblurringTrainer(Trainer):
    """A Trainer whose loss stands outside of the model, so that the model's checkpoints hold nothing of it."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.loss_fn = BalancedLoss(PIXEL_L1, TaskAdaptiveFeatureLoss()).to(self.args.device)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Tensor], return_outputs: bool = False, **_: Any
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Return the loss of one batch."""
        restored = model(inputs["blurred"])
        loss: Tensor = self.loss_fn(restored, inputs["sharp"])
        if self.loss_fn.just_measured:
            self.log(self.loss_fn.log())
        return (loss, restored) if return_outputs else loss


def collated(pairs: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """Return a batch by name, as the Trainer hands it on."""
    blurred, sharp = (torch.stack(images) for images in zip(*pairs, strict=True))
    return {"blurred": blurred, "sharp": sharp}


def main(steps: int = 4) -> dict[str, float]:
    """Train for some steps, and return the last log of the loss."""
    with TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=steps,
            per_device_train_batch_size=BATCH_SIZE,
            remove_unused_columns=False,  # the names of the batch are ours
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
        )
        trainer = DeblurringTrainer(
            Residual(), arguments, train_dataset=Pairs(steps * BATCH_SIZE), data_collator=collated
        )
        trainer.train()
    return trainer.loss_fn.log()


if __name__ == "__main__":
    print(main())
