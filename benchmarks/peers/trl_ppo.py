"""TRL 1.12's PPO on given prompts, timed; runs in that version's own environment.

    python trl_ppo.py PLAN.json

The plan names the folders of policy and reward model, prompts as token ids, and sizes. Writes rows
(seconds of an iteration and of its sampling, tokens with and without padding) to `plan["out"]`.
"""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PrinterCallback,
    TrainerCallback,
)
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer


class Rows(TrainerCallback):
    """What each iteration took."""

    def __init__(self, pad: int) -> None:
        self.pad = pad
        self.rows: list[dict[str, float]] = []
        self.row: dict[str, float] = {}
        self._generate = ppo_trainer.batch_generation
        ppo_trainer.batch_generation = self._timed

    def _timed(self, *arguments: Any) -> Any:
        begun = time.perf_counter()
        replies, logits = self._generate(*arguments)
        self.row = {
            "rollout": time.perf_counter() - begun,
            "padded_tokens": replies.numel(),
            "tokens": int((replies != self.pad).sum()),
            "reply_tokens": float(
                (replies[:, arguments[1].shape[1] :] != self.pad).sum(1).float().mean()
            ),
        }
        return replies, logits

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.begun = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        now = time.perf_counter()
        self.rows.append(self.row | {"iteration": now - self.begun})
        self.begun = now


def train(plan: dict[str, Any], work: str) -> list[dict[str, float]]:
    torch.set_num_threads(plan["threads"])
    tokenizer = AutoTokenizer.from_pretrained(plan["policy"], padding_side="left")
    # Padding must be told from the end of a reply.
    tokenizer.pad_token = plan["pad_token"]
    policy, reference = (
        AutoModelForCausalLM.from_pretrained(plan["policy"], dtype=torch.float32) for _ in range(2)
    )
    reward, value = (
        AutoModelForSequenceClassification.from_pretrained(
            plan["reward_model"], dtype=torch.float32
        )
        for _ in range(2)
    )
    batch = plan["batch"]
    rows = Rows(tokenizer.pad_token_id)
    trainer = PPOTrainer(
        args=PPOConfig(
            output_dir=work,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=1,
            local_rollout_forward_batch_size=batch,
            total_episodes=batch * plan["iterations"],
            num_mini_batches=1,
            num_ppo_epochs=1,
            response_length=plan["max_new_tokens"],
            temperature=1.0,
            stop_token="eos",
            learning_rate=plan["lr"],
            kl_coef=0.01,
            lam=0.99,
            num_sample_generations=0,
            bf16=plan["dtype"] == "bfloat16",
            gradient_checkpointing=False,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            seed=plan["seed"],
        ),
        processing_class=tokenizer,
        model=policy,
        ref_model=reference,
        reward_model=reward,
        value_model=value,
        train_dataset=Dataset.from_dict({"input_ids": plan["prompts"]}),
        eval_dataset=Dataset.from_dict({"input_ids": plan["prompts"][:1]}),
        callbacks=[rows],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return rows.rows


def main() -> None:
    plan = json.loads(Path(sys.argv[1]).read_text())
    with tempfile.TemporaryDirectory() as work:
        Path(plan["out"]).write_text(json.dumps(train(plan, work)))


if __name__ == "__main__":
    main()
