"""Held-out loss equals what transformers computes on the same windows."""

from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from pretrain_core.data import StoreError, build_store, write_store
from pretrain_core.evaluate import evaluate_loss


def test_loss_equals_transformers(
    tmp_path: Path, model_folder: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    texts = ["The first text of all. " * 20, "Short.", "Another one, a little longer. " * 9]
    store = build_store(texts, tokenizer, tmp_path / "s")
    model = LlamaForCausalLM.from_pretrained(model_folder)
    total, count = 0.0, 0
    for index in range(store.documents):
        ids = store.document(index)
        for start in range(0, len(ids), 50):
            window = torch.tensor(ids[start : start + 50])
            target = torch.tensor(ids[start + 1 : start + 51])
            with torch.no_grad():
                logits = model(window[None]).logits[0, : len(target)]
            total += float(torch.nn.functional.cross_entropy(logits, target, reduction="sum"))
            count += len(target)
    report = evaluate_loss(model_folder, store, store.size, length=50)
    assert report.tokens == count
    assert report.loss == pytest.approx(total / count, rel=1e-5)
    assert report.perplexity == pytest.approx(torch.tensor(report.loss).exp().item(), rel=1e-4)
    part = evaluate_loss(model_folder, store, 60, length=50)
    assert part.tokens == 60


def test_a_store_of_another_tokenizer_or_without_targets_is_refused(
    tmp_path: Path, model_folder: Path
) -> None:
    foreign = write_store(tmp_path / "a", [[1, 2, 3]], 4096)
    with pytest.raises(StoreError, match="made with 4096 tokens"):
        evaluate_loss(model_folder, foreign, 100)
    lonely = write_store(tmp_path / "b", [[1], [2]], 512)
    with pytest.raises(StoreError, match="no target"):
        evaluate_loss(model_folder, lonely, 100)
