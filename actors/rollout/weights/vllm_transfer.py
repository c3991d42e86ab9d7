"""The "gloo" engine of vLLM's native weight transfer. Imported inside vLLM's process only.

vLLM ships engines for CUDA; this one takes weights off our wire, or out of a folder, by the same
flow: start_weight_update → update_weights → finish_weight_update, with layerwise reload, because
linear layers on CPU are repacked after loading and cannot be written into.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.model_loader.reload import (
    finalize_layerwise_reload,
    initialize_layerwise_reload,
)

from actors.rollout.engines.folders import weights_of
from actors.rollout.weights.wire import Manifest, TransferAddress, WeightPushError, WeightReceiver

BACKEND = "gloo"


@dataclass
class GlooInitInfo(WeightTransferInitInfo):
    """Where to meet the sender, and as which rank."""

    address: TransferAddress
    rank: int


@dataclass
class GlooUpdateInfo(WeightTransferUpdateInfo):
    """One update: out of a folder, or off the wire when None."""

    folder: str | None = None


class GlooTransferEngine(WeightTransferEngine[GlooInitInfo, GlooUpdateInfo]):
    """Receives whole checkpoints; nothing may be missing at the end."""

    init_info_cls = GlooInitInfo
    update_info_cls = GlooUpdateInfo

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.receiver: WeightReceiver | None = None
        self.manifest: Manifest | None = None
        self._expected: set[str] = set()
        self._loaded: set[str] = set()

    def init_transfer_engine(self, init_info: GlooInitInfo) -> None:
        """Meet the sender; blocks until it is there."""
        self.receiver = WeightReceiver(init_info.address, init_info.rank)

    def start_weight_update(self) -> None:
        """Note what must arrive and put the layers into the state of loading."""
        self._expected = {name for name, _ in self.model.named_parameters()}
        self._loaded = set()
        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: GlooUpdateInfo) -> None:
        """Load tensors as they come; raises `WeightPushError` naming the one that does not fit."""
        if update_info.folder is not None:
            self._load(weights_of(Path(update_info.folder)))
            return
        assert self.receiver is not None
        for bucket in self.receiver.buckets():
            self._load(bucket)
        self.manifest = self.receiver.manifest

    def finish_weight_update(self) -> None:
        """Pack what is complete, heads tied to the embedding included, and miss nothing."""
        finalize_layerwise_reload(self.model, self.model_config)
        repack_heads(self.model)
        missing = self._expected - self._loaded
        if missing:
            raise WeightPushError(f"nothing came for {sorted(missing)[:5]} of the engine's model")

    def shutdown(self) -> None:
        """Forget the connection."""
        self.receiver = None

    def _load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        current: list[str] = [""]

        def tracked() -> Iterator[tuple[str, Tensor]]:
            for name, tensor in weights:
                current[0] = f"{name} {list(tensor.shape)}"
                yield name, tensor

        try:
            self._loaded |= set(self.model.load_weights(tracked()))
        except (AssertionError, KeyError, RuntimeError, ValueError) as error:
            if isinstance(error, WeightPushError):
                raise
            raise WeightPushError(
                f"{current[0]} does not fit the engine's model: {error}"
            ) from error


def repack_heads(model: nn.Module) -> None:
    """Pack every output head again from its present weight.

    A head tied to the embedding is never "loaded" by itself, so layerwise reload leaves its
    packed copy as it was: the embedding is new, the logits still come from the old weights.
    """
    for module in model.modules():
        if isinstance(module, ParallelLMHead):
            module.quant_method.process_weights_after_loading(module)


def register() -> None:
    """Make the backend known to vLLM; calling it again does nothing."""
    if BACKEND not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(BACKEND, GlooTransferEngine)
