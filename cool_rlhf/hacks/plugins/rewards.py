"""Our conditional reward model as the reward function of TRL, verl and OpenRLHF."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from cool_rlhf.hacks.evidence import finite
from cool_rlhf.hacks.judges import Array, Judge, reward_judge
from cool_rlhf.hacks.plugins.exchange import ExchangeError, read_exchange
from cool_rlhf.hacks.samples import Sample, prompt_name
from pretrain_core.errors import InputError
from reward.conditions.router import Router, choose
from reward.conditions.routing import RoutingError


class ConditionalReward:
    """A reward function for trainers of others: a finite score for every reply, or an error.

    model: folder, `cache:NAME`, `registry:NAME`, URL of a service, or a judge of samples. It is
    loaded at the first call, so that a process that only imports it stays light.

    Each prompt has exactly one condition: what the data name in `field` (a column of TRL's data
    set; a key of verl's `extra_info`, or `data_source`; `label` for OpenRLHF's labels), else
    `condition`, else what a `router` (folder) chooses.

    empty: the score of a reply without text; None: an error.

    `listeners` are called with the samples of every call that have a text, once they are scored.
    """

    def __init__(
        self,
        model: str | Path | Judge,
        *,
        condition: str | None = None,
        field: str = "condition",
        router: str | Path | None = None,
        empty: float | None = None,
    ) -> None:
        if condition is not None and router is not None:
            raise InputError("condition serves every prompt that names none: leave router out")
        self.model = model
        self.condition, self.field, self.router, self.empty = condition, field, router, empty
        self.listeners: list[Callable[[Sequence[Sample]], None]] = []
        self._stack = ExitStack()
        self._judge: Judge | None = None if isinstance(model, str | Path) else model
        self._routes = Router.load(Path(router)) if router is not None else None
        self._opening = Lock()
        # One forward at a time; a service takes as many requests as threads send.
        self._turn = nullcontext() if str(model).startswith(("http://", "https://")) else Lock()

    def __reduce__(self) -> tuple[Callable[..., "ConditionalReward"], tuple[Any, ...]]:
        # Ray sends functions with what they refer to: a worker loads the model itself.
        return _again, (self.model, self.condition, self.field, self.router, self.empty)

    def __call__(
        self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any
    ) -> list[float]:
        """TRL's reward function (trl/trainer/grpo_trainer.py, `_calculate_rewards`).

        Prompts and completions are messages, or text; text under no known template is what the
        user said. `columns` are those of the data set, one value per prompt.
        """
        records = [
            {self.field: value, "reference": reference}
            for value, reference in zip(
                columns.get(self.field) or [None] * len(prompts),
                columns.get("reference") or [None] * len(prompts),
                strict=True,
            )
        ]
        samples = self._samples(prompts, completions, records, plain=True)
        if log := columns.get("log_extra"):
            log("condition", [sample.condition for sample in samples])
        return self._score(samples).tolist()

    def verl(
        self,
        data_source: str,
        solution_str: str,
        ground_truth: Any,
        extra_info: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> dict[str, Any]:
        """verl's `compute_score` (verl/experimental/reward_loop/reward_manager/naive.py).

        verl does not hand over prompts: `extra_info` must hold it as `prompt` (messages, or text
        under the chat template). What is returned beside the score goes into its dumps.
        """
        return self.verl_batch([data_source], [solution_str], [ground_truth], [extra_info])[0]

    def verl_batch(
        self,
        data_sources: Sequence[str],
        solution_strs: Sequence[str],
        ground_truths: Sequence[Any],
        extra_infos: Sequence[Mapping[str, Any] | None],
        **_: Any,
    ) -> list[dict[str, Any]]:
        """The same for verl's `batch` reward manager (verl/workers/reward_manager/batch.py)."""
        records = [
            {"data_source": source, "reference": truth, **(extra or {})}
            for source, truth, extra in zip(data_sources, ground_truths, extra_infos, strict=True)
        ]
        for index, record in enumerate(records):
            if record.get("prompt") is None:
                raise InputError(
                    f"sample {index}: extra_info has no 'prompt': verl hands over no prompts, so "
                    "copy the column into extra_info when the data set is made"
                )
        prompts = [record["prompt"] for record in records]
        samples = self._samples(prompts, list(solution_strs), records)
        scores = self._score(samples).tolist()
        return [
            {"score": score, "condition": sample.condition, "prompt": _as_json(sample)}
            for score, sample in zip(scores, samples, strict=True)
        ]

    def openrlhf(
        self, queries: Sequence[str], prompts: Sequence[str], labels: Sequence[Any], **_: Any
    ) -> dict[str, Any]:
        """OpenRLHF's `reward_func` of `--remote_rm_url FILE.py` (openrlhf/utils/agent.py).

        A query is its prompt with the reply, both under the policy's chat template.
        """
        import torch

        for index, (query, prompt) in enumerate(zip(queries, prompts, strict=True)):
            if not query.startswith(prompt):
                raise InputError(f"sample {index}: the query does not begin with its prompt")
        replies = [q[len(p) :] for q, p in zip(queries, prompts, strict=True)]
        records = [{"label": label or None} for label in labels]
        scores = torch.from_numpy(self._score(self._samples(prompts, replies, records))).float()
        return {"rewards": scores, "scores": scores, "extra_logs": {}}

    def judge(self, samples: Sequence[Sample]) -> Array:
        """Scores [n] of samples; raises JudgeError or InputError naming one without a number."""
        with self._opening:
            judge = self._judge = self._judge or self._open()
        with self._turn:
            return finite(judge)(samples)

    def close(self) -> None:
        """Let go of the model, or of the connections to the service."""
        self._stack.close()
        if isinstance(self.model, str | Path):
            self._judge = None

    def _open(self) -> Judge:
        return self._stack.enter_context(reward_judge(str(self.model)))

    def _score(self, samples: Sequence[Sample]) -> Array:
        """Scores [n] of samples; a reply without text has the score that was asked for."""
        said = [index for index, sample in enumerate(samples) if sample.reply.strip()]
        scores = np.full(len(samples), np.nan if self.empty is None else self.empty)
        if self.empty is None and len(said) < len(samples):
            index = min(set(range(len(samples))) - set(said))
            raise InputError(
                f"sample {index}: the reply is empty: give such replies a score of their own by "
                "`empty`"
            )
        if said:
            scores[said] = self.judge([samples[index] for index in said])
        for listener in self.listeners:
            listener([samples[index] for index in said])
        return scores

    def _samples(
        self,
        prompts: Sequence[Any],
        replies: Sequence[Any],
        records: Sequence[Mapping[str, Any]],
        plain: bool = False,
    ) -> list[Sample]:
        rows = zip(prompts, replies, records, strict=True)
        return [self._sample(index, *row, plain) for index, row in enumerate(rows)]

    def _sample(
        self, index: int, prompt: object, reply: object, record: Mapping[str, Any], plain: bool
    ) -> Sample:
        try:
            read = read_exchange(prompt, reply, plain)
            before = (*read.prompt, *read.reply[:-1])
            asked = {
                "condition": record.get(self.field),
                "prompt": [message.as_dict() for message in before],
            }
            condition = choose(asked, self.condition, self._routes).condition
            said = read.said
        except RoutingError as error:
            raise InputError(
                f"sample {index}: {error} in field {self.field!r}: let the data name one there, or "
                "give condition or router"
            ) from error
        except ExchangeError as error:
            raise InputError(f"sample {index}: {error}") from error
        reference = record.get("reference")
        if reference is not None and not isinstance(reference, str):
            reference = json.dumps(reference, ensure_ascii=False, default=str)
        return Sample(prompt_name(before, condition), before, said, condition, reference)


def _again(
    model: str | Path | Judge,
    condition: str | None,
    field: str,
    router: str | Path | None,
    empty: float | None,
) -> ConditionalReward:
    return ConditionalReward(model, condition=condition, field=field, router=router, empty=empty)


def _as_json(sample: Sample) -> str:
    """The prompt as text: verl averages every number that a reward function returns."""
    return json.dumps([message.as_dict() for message in sample.prompt], ensure_ascii=False)
