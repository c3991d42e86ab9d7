"""Settings of training: what pre-training and SFT share, and pre-training's own."""

from typing import Literal, Self

from pydantic import Field, ValidationError, model_validator

from pretrain_core.cache import InputPath
from pretrain_core.model import ModelConfig, preset
from pretrain_core.precision import Dtype
from pretrain_core.runs import RunSettings
from pretrain_core.settings import Settings, SettingsError


class ModelSettings(Settings):
    """A preset and what differs from it; the vocabulary is the tokenizer's unless given."""

    preset: str = "tiny"
    vocab_size: int | None = Field(default=None, gt=0)
    hidden: int | None = Field(default=None, gt=0)
    layers: int | None = Field(default=None, gt=0)
    heads: int | None = Field(default=None, gt=0)
    kv_heads: int | None = Field(default=None, gt=0)
    ffn: int | None = Field(default=None, gt=0)
    rope_base: float | None = Field(default=None, gt=1.0)
    tied: bool | None = None
    max_positions: int | None = Field(default=None, gt=0)

    def resolve(self, vocabulary: int) -> ModelConfig:
        """The shape; raises SettingsError for an unknown preset or a shape that cannot be."""
        given = self.model_dump(exclude={"preset"}, exclude_none=True)
        base = preset(self.preset).model_dump()
        try:
            return ModelConfig.model_validate({**base, "vocab_size": vocabulary, **given})
        except ValidationError as error:
            raise SettingsError(f"model: {error.errors()[0]['msg']}") from error


class BatchSettings(Settings):
    """A step is `sequences` rows of at most `length` tokens, over all ranks together."""

    sequences: int = Field(default=32, gt=0)
    length: int = Field(default=256, gt=1)
    micro_sequences: int | None = Field(default=None, gt=0)
    """Rows per forward pass on one rank; None takes the rank's whole share at once."""
    block_documents: int = Field(default=1024, gt=0)
    """Documents that are packed and shuffled together."""


class OptimiserSettings(Settings):
    """AdamW, clipping, and a rate that follows progress (0 to 1): warm-up, cosine, final share."""

    lr: float = Field(default=3e-4, gt=0.0)
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = Field(default=1e-8, gt=0.0)
    weight_decay: float = Field(default=0.1, ge=0.0)
    clip: float = Field(default=1.0, gt=0.0)
    warmup: float = Field(default=0.01, ge=0.0, lt=1.0)
    """Share of the run over which the rate rises."""
    final: float = Field(default=0.1, ge=0.0, le=1.0)
    """Share of the peak rate at the end."""


class CheckpointSettings(Settings):
    """When the training state is saved, beside the end of the run."""

    interval: int = Field(default=100, gt=0)
    """Steps between two checkpoints."""
    keep: int = Field(default=1, gt=0)
    """Newest checkpoints that stay."""


class FitSettings(Settings):
    """What every run of the training loop needs; `length_key` names what limits it."""

    run: RunSettings = RunSettings()
    batch: BatchSettings = BatchSettings()
    optimiser: OptimiserSettings = OptimiserSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()
    steps: int | None = Field(default=None, gt=0)
    tokens: int | None = Field(default=None, gt=0)
    epochs: float | None = Field(default=None, gt=0.0)
    max_seconds: float | None = Field(default=None, gt=0.0)
    """Time budget of the loop: the schedule ends with it, whichever limit comes first."""
    dtype: Dtype = "auto"
    """Of matrix products; weights, optimiser, sums and softmax stay fp32."""
    peak_tflops: float | None = Field(default=None, gt=0.0)
    """Peak of one device for the MFU; None measures a matrix product at the start."""
    export: Literal["llama", "internlm2"] = "llama"
    held_out_tokens: int = Field(default=65_536, gt=0)
    """Tokens of the held-out store on which the final model is evaluated."""

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        given = [key for key in ("steps", "tokens", "epochs") if getattr(self, key) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none"
            raise ValueError(f"give exactly one of steps, tokens, epochs (found: {found})")
        return self


class DataSettings(Settings):
    """Either a finished token store, or text files (.jsonl, .txt, .md, .rst) to make one of."""

    store: InputPath | None = None
    held_out: InputPath | None = None
    """Store for the final loss; with `sources` one is split off instead."""
    sources: tuple[InputPath, ...] = ()
    text_key: str = "text"
    held_out_share: float = Field(default=0.01, ge=0.0, lt=1.0)

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.store is None) == (not self.sources):
            raise ValueError("give either data.store or data.sources")
        if self.sources and self.held_out is not None:
            raise ValueError("data.held_out goes with data.store; sources use held_out_share")
        return self


class TokenizerSettings(Settings):
    """A tokenizer folder, or the size of the one to train on the sources."""

    folder: InputPath | None = None
    vocab_size: int = Field(default=4096, gt=0)


class TrainSettings(FitSettings):
    """Pre-training: text or tokens in, Hugging Face folder out."""

    model: ModelSettings = ModelSettings()
    init: InputPath | None = None
    """Weights to start from (a Hugging Face folder); None draws them from the seed."""
    tokenizer: TokenizerSettings = TokenizerSettings()
    data: DataSettings

    @model_validator(mode="after")
    def _tokenizer_is_known(self) -> Self:
        if self.data.store is not None and self.tokenizer.folder is None and self.init is None:
            raise ValueError("data.store needs tokenizer.folder: the one it was made with")
        return self
