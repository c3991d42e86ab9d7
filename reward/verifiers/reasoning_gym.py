"""Tasks of reasoning-gym: made from a seed, scored by the library's own functions."""

import json
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import regex
from pydantic import Field

from pretrain_core.chat import Message
from pretrain_core.errors import InputError
from pretrain_core.sandbox import ForkServerPool, Limits
from pretrain_core.settings import Settings
from reward.verifiers.verdict import Verdict, unjudged, wrong

_JUDGE = Path(__file__).parent / "judges" / "reasoning_gym.py"
_TAGGED = regex.compile(r"<answer>(.*?)</answer>", regex.DOTALL)

CONSOLATION = 0.05
"""Some tasks give 0.01 or 0.05 to any answer that can be read: no sign of being right."""


class ReasoningGymSettings(Settings):
    """The reference is the task's entry as JSON, as `reasoning_gym_prompts` makes it."""

    kind: Literal["reasoning_gym"] = "reasoning_gym"
    partial: bool = Field(
        False,
        description="keep the library's partial scores; they also pay for naming many answers",
    )
    seconds: float = Field(5.0, gt=0, le=60, description="for one answer")
    memory_mib: int = Field(1024, ge=256, description="of one process")
    servers: int = Field(1, ge=1, description="processes at the same time")


class ReasoningGymVerifier:
    """Scores inside a fork server: some of the library's functions evaluate the answer."""

    def __init__(self, settings: ReasoningGymSettings) -> None:
        _installed()
        self.settings = settings
        limits = Limits(memory_mib=settings.memory_mib)
        self._judges = ForkServerPool(_JUDGE, settings.servers, limits)

    def verify(self, prompt: Sequence[Message], reply: str, reference: str | None) -> Verdict:
        """Judge what stands in the last <answer> tag, else the whole reply.

        Passed means the library's full score. Unjudged without an entry as reference.
        """
        entry = _entry(reference)
        if isinstance(entry, str):
            return unjudged(entry)
        tagged = _TAGGED.findall(reply)
        given = (tagged[-1] if tagged else reply).strip()
        answer = self._judges.call({"answer": given, "entry": entry}, self.settings.seconds)
        if answer.problem:
            oracle = {"answer": entry["answer"], "entry": entry}
            alone = self._judges.call(oracle, self.settings.seconds)
            if alone.problem:
                return unjudged(f"the task cannot be scored: {alone.reason}")
            return wrong(f"the answer cannot be scored: {answer.reason}")
        raw = min(1.0, max(0.0, answer.value))
        passed = raw == 1.0
        kept = raw if passed or (self.settings.partial and raw > CONSOLATION) else 0.0
        return Verdict(kept, passed, f"reasoning-gym's score {raw:g} for {given[:60]!r}")

    def close(self) -> None:
        """End the fork servers."""
        self._judges.close()


def reasoning_gym_prompts(task: str, count: int, seed: int, **options: Any) -> list[dict[str, Any]]:
    """Prompt records (`prompt`, `reference`, `id`) of a task; the same for the same arguments.

    Raises InputError for an unknown task, wrong options, or an entry whose own answer no longer
    gets the full score after its way through JSON.
    """
    _installed()
    import reasoning_gym
    from reasoning_gym.factory import DATASETS

    if task not in DATASETS:
        raise InputError(
            f"reasoning-gym has no task {task!r}; it has {', '.join(sorted(DATASETS))}"
        )
    try:
        dataset = reasoning_gym.create_dataset(task, size=count, seed=seed, **options)
    except (AssertionError, TypeError) as error:
        raise InputError(f"reasoning-gym task {task!r}: {error}") from error
    ask = "\nEnd with the answer alone, inside <answer> and </answer>."
    records = []
    for number, entry in enumerate(dataset):
        reference = _stored(task, entry, dataset.score_answer)
        prompt = [{"role": "user", "content": entry["question"] + ask}]
        name = f"{task}-{seed}-{number}"
        records.append({"prompt": prompt, "reference": reference, "id": name})
    return records


def _stored(
    task: str, entry: Mapping[str, Any], score: Callable[[str, Mapping[str, Any]], float]
) -> str:
    try:
        stored = json.dumps(entry)
        full = score(entry["answer"], json.loads(stored)) == 1.0
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise InputError(f"reasoning-gym task {task!r} cannot be stored: {error}") from error
    if not full:
        raise InputError(f"reasoning-gym task {task!r}: its own answer fails once it was stored")
    return stored


def _entry(reference: str | None) -> dict[str, Any] | str:
    """The entry, or the reason why there is none."""
    if reference is None:
        return "no task entry as reference"
    try:
        entry = json.loads(reference)
    except json.JSONDecodeError as error:
        return f"the reference is no task entry: {error.msg}"
    named = isinstance(entry, dict) and isinstance(entry.get("metadata"), dict)
    if not named or "source_dataset" not in entry["metadata"] or "answer" not in entry:
        return "the reference is no task entry: it lacks answer or metadata.source_dataset"
    return dict(entry)


def _installed() -> None:
    if find_spec("reasoning_gym") is None:
        raise InputError(
            "the verifier reasoning_gym needs its library: pip install 'cool-rlhf[verifiers]'"
        )
