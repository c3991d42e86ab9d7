"""Fixtures of every tier: one tiny tokenizer and one tiny Hugging Face model per session."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Two workers share two cores, and models this small gain nothing from a second thread.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("RAY_AUTH_MODE", "token")

from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics
from typing import TYPE_CHECKING

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from pretrain_core.data.tokenizer import train_tokenizer
from tests.support import randomise

if TYPE_CHECKING:
    from actors.placement import RaySession
    from tests.hacked import Hacked

# Their tests start Ray and fill every core: one after another, beside all the others.
CROWDED = (
    "actors",
    "cool_rlhf/online",
    "cool_rlhf/ppo",
    "cool_rlhf/test_ray_job.py",
    "reward/service",
)


def group(place: str) -> str:
    """What one worker runs in a row: all crowded tests, or those of a folder; `tests/…/file.py`."""
    inside = Path(place).relative_to("tests")
    crowded = any(inside.is_relative_to(name) for name in CROWDED)
    return "crowded" if crowded else str(inside.parent)


class ByGroup(LoadScopeScheduling):
    """Groups in the order of their first tests."""

    def _split_scope(self, nodeid: str) -> str:
        return group(nodeid.partition("::")[0])


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByGroup:
    """pytest-xdist asks for it."""
    return ByGroup(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The crowded tests take longest, so they begin first."""
    items.sort(key=lambda item: group(item.nodeid.partition("::")[0]) != "crowded")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Models this small gain nothing from threads, and lose much where cores are busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level BPE tokenizer of 512 tokens, trained on the standard library's prose."""
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(list(topics.values())[:40], 512, folder)
    return folder


@pytest.fixture(scope="session")
def tokenizer(tokenizer_folder: Path) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast.from_pretrained(tokenizer_folder)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory, tokenizer_folder: Path) -> Path:
    """A Llama folder (hidden 64, 2 layers, untied) whose logits are far from flat."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tokenizer_folder)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
        rms_norm_eps=1e-5,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.convert_tokens_to_ids("<|im_end|>"),
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config)
    randomise(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def ray_session() -> "Iterator[RaySession]":
    """A local Ray with room for all roles, the only one that this process starts."""
    from actors.placement import RaySettings, start_ray

    with start_ray(RaySettings(logical_cpus=24)) as session:
        yield session
    assert session.folder is not None
    assert not Path(session.folder).exists()


@pytest.fixture(scope="session")
def hacked(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> "Hacked":
    """A small reward model with a hack, and the pairs that belong to it."""
    from tests.hacked import train_hacked

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found = train_hacked(model_folder, tmp_path_factory.mktemp("hacked") / "rm")
    torch.set_num_threads(threads)
    return found
