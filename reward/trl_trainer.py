"""The subclass of `trl.RewardTrainer`: our inputs, batches, loss and metrics in its loop.

Imports TRL, so it is itself imported only where training starts.
"""

import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler
from transformers import (
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from trl import RewardConfig, RewardTrainer
from trl.trainer.utils import disable_dropout_in_model

from pretrain_core.precision import warn_of_slow_bf16
from pretrain_core.runs import Progress, Run, StopSignal, read_json, write_json
from reward.deepspeed import deepspeed_config
from reward.errors import RewardTrainingError
from reward.lora import add_adapters
from reward.losses import RewardLoss, reward_loss, with_targets
from reward.meter import Meter, batch_sums
from reward.model import RewardModel
from reward.network import ENSEMBLE
from reward.pairs import Pair
from reward.settings import RewardTrainSettings
from reward.states import COMPLETE

Plan = Callable[[int, int], list[list[int]]]
Batch = dict[str, Any]


class PlannedBatches(Sampler[list[int]]):
    """This rank's share of the planned batches; every rank has the same number of them.

    Every epoch repeats the first one's. transformers looks for a `set_epoch` behind a wrapper of
    accelerate alone, so it would change resumed epochs, and no others.
    """

    def __init__(self, plan: Plan, rank: int, ranks: int) -> None:
        self._rank, self._ranks = rank, ranks
        self._batches = plan(0, ranks)

    def __len__(self) -> int:
        return len(self._batches) // self._ranks

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self._batches[self._rank :: self._ranks])


class ConditionalRewardTrainer(RewardTrainer):
    """TRL's loop over pairs that are already in the reward model's input format."""

    # compute_loss divides by the pairs' weights of the whole step itself.
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model: RewardModel,
        pairs: Sequence[Pair],
        settings: RewardTrainSettings,
        plan: Plan,
        args: RewardConfig,
    ) -> None:
        self.reward_model = model
        self.settings = settings
        self.plan = plan
        self.meter = Meter()
        self.last_metrics: dict[str, float] = {}
        self.out_of_time = False
        self.was_stopped = False
        self.condition_names = sorted({pair.condition for pair in pairs})
        self.step_pairs: list[str] = []
        disable_dropout_in_model(model.network)  # adapters come after: their dropout is a setting
        lora = settings.lora
        # With columns of these names TRL takes the data as tokenised and leaves it alone.
        columns = {f.name: [getattr(p, f.name) for p in pairs] for f in fields(Pair)}
        super().__init__(
            model=model.network if lora is None else add_adapters(model, lora, args.seed),
            args=args,
            data_collator=lambda rows: {"pairs": [Pair(**row) for row in rows]},
            train_dataset=Dataset.from_dict(columns),
            processing_class=model.tokenizer,
        )
        self.remove_callback(PrinterCallback)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Planned token-budget batches of whole pairs instead of a fixed number of samples."""
        sampler = PlannedBatches(
            self.plan, self.accelerator.process_index, self.accelerator.num_processes
        )
        return DataLoader(self.train_dataset, batch_sampler=sampler, collate_fn=self.data_collator)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], Tensor]:
        """The batches of one step, and the sum of its pairs' weights over all ranks."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        weights = sum(pair.weight for batch in batches for pair in batch["pairs"])
        total = torch.tensor(float(weights), device=device)
        return batches, self.accelerator.reduce(total, reduction="sum")

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Tensor:
        """Weighted sum over this batch's pairs, over the weights of the step on all ranks."""
        pairs: list[Pair] = inputs["pairs"]
        sides = [pair.chosen_ids for pair in pairs] + [pair.rejected_ids for pair in pairs]
        self.step_pairs += [pair.name for pair in pairs]
        # A rank without a batch in the last step takes part with an input that counts for nothing.
        inputs_or_one = sides or [[self.reward_model.score_id]]
        scores = self.reward_model.forward_heads(inputs_or_one, model)[: len(sides)]
        chosen, rejected = scores[: len(pairs)], scores[len(pairs) :]
        weight = scores.new_tensor([pair.weight for pair in pairs])
        loss = self._loss(pairs, chosen, rejected, 0)
        self._measure(pairs, scores[:, 0], loss)
        total = (loss.per_pair * weight).sum()
        if scores.shape[1] > 1:
            counts = scores.new_tensor([pair.bootstrap for pair in pairs])
            more = self._loss(pairs, chosen, rejected, slice(1, None))
            total = total + (more.per_pair * weight[:, None] * counts.view_as(more.per_pair)).sum()
        over = weight.sum() if num_items_in_batch is None else num_items_in_batch
        # Data-parallel wrappers average gradients over ranks; the division is already global.
        return total * self.accelerator.num_processes / over

    def _loss(
        self, pairs: Sequence[Pair], chosen: Tensor, rejected: Tensor, heads: int | slice
    ) -> RewardLoss:
        """Of one head [pairs] or several [pairs, heads]; pairs with targets are held at them."""
        ones, others = chosen[:, heads], rejected[:, heads]
        margin = chosen.new_tensor([pair.margin for pair in pairs])
        margin = margin.view(-1, *[1] * (ones.dim() - 1))
        loss = reward_loss(ones, others, self.settings.loss, margin)
        if not any(pair.targets for pair in pairs):
            return loss
        none = [[math.nan] * chosen.shape[1]] * 2
        targets = chosen.new_tensor([pair.targets or none for pair in pairs])[:, :, heads]
        return with_targets(
            loss,
            ones,
            others,
            targets.transpose(0, 1),
            self.settings.distil_weight,
            self.settings.distil_margin,
        )

    def _clip_grad_norm(self, model: nn.Module) -> Tensor:
        """Further heads are clipped by themselves: they leave the step of the others as it is."""
        if self.reward_model.card.heads == 1 or self.is_deepspeed_enabled:
            return super()._clip_grad_norm(model)
        named = list(model.named_parameters())
        groups = [[p for name, p in named if (ENSEMBLE in name) == more] for more in (True, False)]
        norms = [self.accelerator.clip_grad_norm_(g, self.args.max_grad_norm) for g in groups]
        return norms[-1]

    def _measure(self, pairs: Sequence[Pair], scores: Tensor, loss: RewardLoss) -> None:
        rows = batch_sums(pairs, scores, loss, self.condition_names, self.settings.loss.bound)
        # Summed over ranks before the check, so that a NaN on one ends them all.
        table = torch.tensor(list(rows.values()), dtype=torch.float64)
        totals = self.accelerator.reduce(table.to(scores.device), reduction="sum").tolist()
        if not math.isfinite(totals[0][0]):
            bad = (~torch.isfinite(loss.per_pair)).nonzero().flatten().tolist()
            self.fail("the loss", [pairs[i].name for i in bad])
        for name, (total, count) in zip(rows, totals, strict=True):
            self.meter.add(name, total, count)

    def fail(self, what: str, names: Sequence[str] = ()) -> NoReturn:
        """Raise RewardTrainingError naming the step and its records (`names`: those at fault)."""
        names = names or self.step_pairs
        shown = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
        raise RewardTrainingError(
            f"step {self.state.global_step + 1}: {what} is no number; records: {shown}. "
            "Look at these records, lower learning_rate, or train with bf16=false"
        )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Merge our means, exact over ranks and batch sizes, into the trainer's log line."""
        super().log(logs | self.meter.drain(), start_time)

    def floating_point_ops(self, inputs: Batch) -> int:
        """Not counted here."""
        return 0

    def _send_telemetry(self) -> None:
        """TRL would report model type and trainer to a server; we send nothing anywhere."""


class Watch(TrainerCallback):
    """Progress, metrics, time budget, Ctrl-C, saved states, and the check of every gradient."""

    def __init__(
        self, trainer: ConditionalRewardTrainer, run: Run | None, stop: StopSignal | None = None
    ) -> None:
        self.trainer, self.run, self.stop = trainer, run, stop
        self.progress: Progress | None = None
        self.started = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Start the clock; a continued training takes its metrics up where they were saved."""
        self.started = time.monotonic()
        saved = Path(args.output_dir) / f"checkpoint-{state.global_step}" / COMPLETE
        if state.global_step and saved.exists():
            kept = read_json(saved)
            self.trainer.last_metrics = kept["last_metrics"]
            for name, (total, count) in kept["meter"].items():
                self.trainer.meter.add(name, total, count)
            if self.run is not None and state.is_world_process_zero:
                self.run.truncate_metrics(state.global_step)
        if state.is_world_process_zero:
            limit = self.trainer.settings.max_seconds
            self.progress = Progress(state.max_steps, "reward model", max_seconds=limit)

    def on_pre_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module,
        **_: Any,
    ) -> None:
        """Refuse a gradient that is no number (a finite loss can have one)."""
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if not math.isfinite(float(norm)):
            self.trainer.fail("the gradient")
        self.trainer.step_pairs.clear()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """Stop when the time is spent or someone asked."""
        limit = self.trainer.settings.max_seconds
        spent = time.monotonic() - self.started
        more = state.global_step < state.max_steps
        if more and limit is not None and self._anywhere(spent > limit):
            self.trainer.out_of_time = control.should_training_stop = True
        if more and self.stop is not None and self._anywhere(self.stop.requested):
            self.trainer.was_stopped = control.should_training_stop = control.should_save = True
        return control

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Mark a checkpoint that every rank has written as complete, then drop the older ones."""
        self.trainer.accelerator.wait_for_everyone()
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        trainer = self.trainer
        kept = {"meter": trainer.meter.state(), "last_metrics": trainer.last_metrics}
        write_json(folder / COMPLETE, kept)
        for other in folder.parent.glob("checkpoint-*"):
            if other != folder:
                shutil.rmtree(other)

    def _anywhere(self, mine: bool) -> bool:
        flag = torch.tensor(float(mine), device=self.trainer.accelerator.device)
        return float(self.trainer.accelerator.reduce(flag, reduction="sum")) > 0

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float],
        **_: Any,
    ) -> None:
        """Metrics to the run, two of them to the progress line."""
        if "rewards/accuracies" not in logs or not state.is_world_process_zero:
            return
        names = ("grad_norm", "learning_rate", "epoch")
        kept = {k: float(v) for k, v in logs.items() if "/" in k or k in names}
        self.trainer.last_metrics = kept
        if self.run is not None:
            self.run.log(state.global_step, kept)
        if self.progress is not None:
            self.progress.update(
                state.global_step - 1,
                accuracy=kept["rewards/accuracies"],
                loss=kept["loss/reward"],
            )

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """End the progress line."""
        if self.progress is not None:
            self.progress.close()


def make_trainer(
    model: RewardModel,
    pairs: Sequence[Pair],
    settings: RewardTrainSettings,
    seed: int,
    run: Run | None,
    plan: Plan,
    folder: Path,
    stop: StopSignal | None = None,
) -> ConditionalRewardTrainer:
    """A trainer that prints and uploads nothing, and writes only the states it can resume from."""
    deepspeed = settings.launch.engine == "deepspeed"
    if settings.bf16:
        warn_of_slow_bf16(model.network.device)
    arguments = RewardConfig(
        output_dir=str(folder),
        seed=seed % 2**32,
        num_train_epochs=settings.epochs,
        gradient_accumulation_steps=settings.accumulate,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": settings.final_learning_rate / settings.learning_rate},
        warmup_steps=settings.warmup_steps,
        weight_decay=settings.weight_decay,
        adam_beta1=settings.adam_betas[0],
        adam_beta2=settings.adam_betas[1],
        max_grad_norm=settings.max_grad_norm,
        bf16=settings.bf16
        and not deepspeed,  # DeepSpeed's configuration has an autocast of its own
        deepspeed=deepspeed_config(settings) if deepspeed else None,
        accelerator_config={"use_configured_state": deepspeed},
        disable_dropout=False,
        ddp_find_unused_parameters=False,  # also a rank without a batch uses them all
        gradient_checkpointing=settings.gradient_checkpointing,
        logging_steps=settings.log_every,
        logging_nan_inf_filter=False,
        max_length=None,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        save_strategy="no" if settings.save_every is None else "steps",
        save_steps=settings.save_every or 500,
        report_to="none",
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available() and not deepspeed,
    )
    trainer = ConditionalRewardTrainer(model, pairs, settings, plan, arguments)
    trainer.add_callback(Watch(trainer, run, stop))
    return trainer
