"""DeepSpeed's configuration for reward training."""

from typing import Any

from reward.settings import RewardTrainSettings


def deepspeed_config(settings: RewardTrainSettings) -> dict[str, Any]:
    """DeepSpeed with the trainer's own AdamW: fp32 weights, autocast as without DeepSpeed."""
    return {
        "train_micro_batch_size_per_gpu": "auto",  # a batch is a budget of tokens
        "gradient_accumulation_steps": settings.accumulate,
        "gradient_clipping": settings.max_grad_norm,
        "zero_optimization": {"stage": settings.launch.zero_stage},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "torch_autocast": {"enabled": settings.bf16, "dtype": "bfloat16"},
    }
