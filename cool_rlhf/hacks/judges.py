"""Who scores samples: the reward model under suspicion, and the gold signal beside it."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from cool_rlhf.hacks.samples import Sample, SampleError
from pretrain_core.chat import Message
from pretrain_core.errors import InputError

if TYPE_CHECKING:
    from reward.model import RewardModel
    from reward.verifiers import Verdict

Array = npt.NDArray[np.float64]
TOKEN_ENV = "COOL_RLHF_REWARD_TOKEN"
DEADLINE_S = 600.0


class UnreadableSample(InputError):
    """A sample that a reward model cannot take, such as one that is too long; names it."""

    def __init__(self, sample: Sample, reason: str) -> None:
        super().__init__(f"a reply to prompt {sample.id!r} ({sample.asked[:60]!r}): {reason}")
        self.sample = sample


class Judge(Protocol):
    """Scores of samples [n], higher is better.

    A reward model gives a finite number to each; a gold signal gives NaN where it cannot judge.
    """

    def __call__(self, samples: Sequence[Sample]) -> Array: ...


@contextmanager
def reward_judge(reference: str) -> Iterator[Judge]:
    """The reward model of a folder, `cache:NAME`, `registry:NAME` or the URL of a service.

    Raises InputError for a service without a token in the environment.
    """
    if reference.startswith(("http://", "https://")):
        yield from _service(reference)
    else:
        from reward.model import RewardModel
        from reward.registry import resolve_model

        yield model_judge(RewardModel.load(resolve_model(reference)))


@contextmanager
def gold_judge(reference: str) -> Iterator[Judge]:
    """A gold signal: verifiers (a YAML file, or a kind), labels (JSONL), or a second model.

    Labels judge natural replies only: {"id", "reply", "gold"} per line.
    """
    path = Path(reference)
    if _is_verifiers(reference):
        yield from _verifiers(reference)
    elif path.suffix == ".jsonl":
        yield labels(path)
    else:
        with reward_judge(reference) as judge:
            yield judge


def check_gold(reference: str) -> None:
    """Raise InputError for a gold signal that cannot be opened; a model is not loaded for it."""
    from reward.card import read_card
    from reward.registry import resolve_model

    if reference.startswith(("http://", "https://")):
        _token(reference)
    elif _is_verifiers(reference) or reference.endswith(".jsonl"):
        with gold_judge(reference):
            pass
    else:
        read_card(resolve_model(reference))


def model_judge(model: "RewardModel") -> Judge:
    """A reward model in this process; raises UnreadableSample."""
    from reward.conditions import UnknownCondition
    from reward.inputs import RewardInputError

    def judge(samples: Sequence[Sample]) -> Array:
        inputs = []
        for sample in samples:
            try:
                inputs.append(model.input(_conversation(sample), sample.condition))
            except (RewardInputError, UnknownCondition) as error:
                raise UnreadableSample(sample, str(error)) from error
        return model.score(inputs).double().numpy()

    return judge


def labels(path: Path) -> Judge:
    """People's numbers for replies; raises SampleError naming a line without one."""
    from pretrain_core.runs.files import read_lines

    if not path.is_file():
        raise SampleError(f"{path}: no such file")
    known: dict[tuple[str, str], list[float]] = {}
    for number, row in enumerate(read_lines(path), start=1):
        value = row.get("gold")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise SampleError(f"{path}:{number}: 'gold' is {value!r}; expected a number")
        if not isinstance(row.get("reply"), str) or row.get("id") is None:
            raise SampleError(f"{path}:{number}: a label names the prompt's 'id' and the 'reply'")
        known.setdefault((str(row["id"]), row["reply"]), []).append(float(value))
    if not known:
        raise SampleError(f"{path}: no labels")

    def judge(samples: Sequence[Sample]) -> Array:
        return np.array([np.mean(known.get((s.id, s.reply), [np.nan])) for s in samples])

    return judge


def _service(url: str) -> Iterator[Judge]:
    from reward.service.blocking import BlockingRewardClient

    with BlockingRewardClient(url, _token(url)) as client:

        def judge(samples: Sequence[Sample]) -> Array:
            items = [
                {"messages": _conversation(sample), "condition": sample.condition}
                for sample in samples
            ]
            return np.array(client.score(items, DEADLINE_S).values)

        yield judge


def _token(url: str) -> str:
    token = os.environ.get(TOKEN_ENV, "").strip()
    if not token:
        raise InputError(f"the service at {url} asks for a token: put it into {TOKEN_ENV}")
    return token


def _is_verifiers(reference: str) -> bool:
    from reward.verifiers.registry import KINDS

    return Path(reference).suffix in (".yaml", ".yml") or reference in KINDS


def _verifiers(reference: str) -> Iterator[Judge]:
    """The mean score of the verifiers that can judge."""
    from pretrain_core.settings import load
    from reward.commands.verify import VerifyCommandSettings
    from reward.conditions import DEFAULT
    from reward.verifiers import sample as verifiers
    from reward.verifiers.registry import KINDS, build_verifier

    kind = reference in KINDS
    settings = load(
        VerifyCommandSettings,
        None if kind else Path(reference),
        [f"verifiers.{reference}.kind={reference}"] if kind else [],
    ).value
    if not settings.verifiers:
        raise InputError(f"{reference}: no `verifiers` in it")
    built = [build_verifier(verifier) for verifier in settings.verifiers.values()]

    def judge(samples: Sequence[Sample]) -> Array:
        asked = [
            verifiers.Sample(s.prompt, s.reply, s.condition or DEFAULT, s.reference)
            for s in samples
        ]
        found = [verifiers.judged(verifier, asked, settings.workers) for verifier in built]
        return np.array([mean(verdicts) for verdicts in zip(*found, strict=True)])

    def mean(verdicts: "Sequence[Verdict]") -> float:
        scores = [verdict.score for verdict in verdicts if verdict.score is not None]
        return float(np.mean(scores)) if scores else float("nan")

    try:
        yield judge
    finally:
        for verifier in built:
            verifier.close()


def _conversation(sample: Sample) -> list[Message]:
    return [*sample.prompt, Message(role="assistant", content=sample.reply)]
