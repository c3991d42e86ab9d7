"""What saved policies are measured on, and with what."""

from typing import Literal

from pydantic import Field

from pretrain_core.cache import InputPath
from pretrain_core.settings import Settings


class EvaluationSettings(Settings):
    """A job for each saved policy, in a process of its own beside the training."""

    prompts: InputPath = Field(description="held-out prompts (JSONL), never trained on")
    gold: str | None = Field(
        None,
        description="second opinion that no policy was trained on, as `hacks detect --gold`; none:"
        " the last policy is kept",
    )
    text: InputPath | None = Field(None, description="held-out token store for the alignment tax")
    text_tokens: int = Field(100_000, gt=0)
    engine: Literal["hf", "vllm"] = Field("hf", description="what samples the replies")
    cpus: float = Field(1.0, gt=0, description="logical CPUs of a job, beside those of the roles")
    gpus: float = Field(0.0, ge=0, description="GPUs of a job")
    threads: int = Field(1, gt=0, description="CPU threads of a job")
