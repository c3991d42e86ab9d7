"""The demo: raw text → base → SFT → conditional reward model → PPO rounds, on real parts."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console

from cool_rlhf.demo.corpus import load_corpus
from cool_rlhf.demo.pairs import label_pairs, sample_reply_pairs
from cool_rlhf.demo.settings import DemoSettings
from cool_rlhf.demo.shortcut import plant_in_demonstrations, planted_preferences
from cool_rlhf.demo.tasks import demonstrations, prompts, split_topics, topics, write_jsonl
from cool_rlhf.online.command import parents_of
from cool_rlhf.online.context import FAST_PATH, Context
from cool_rlhf.online.rounds import run_rounds
from cool_rlhf.online.settings import EvaluationSettings, LabelSettings, OnlineSettings
from cool_rlhf.online.summary import evaluations, write_summary
from cool_rlhf.ppo.sampling.prompts import PromptSettings, read_prompts, write_prompts
from cool_rlhf.ppo.settings import PPORecipe
from cool_rlhf.report import compose
from cool_rlhf.tables import print_table
from pretrain_core.cache import cache_root
from pretrain_core.data.build import build_store
from pretrain_core.data.tokenizer import train_tokenizer
from pretrain_core.runs import Run, RunSettings, StopSignal, read_json, write_json
from pretrain_core.runs.lineage import hash_artefact
from pretrain_core.settings import Resolved, difference, load
from pretrain_core.sft import sft
from pretrain_core.train import FitSettings, train
from reward.conditions import Conditions
from reward.data import read_preferences, write_preferences
from reward.evaluation import compare
from reward.model import RewardModel
from reward.settings import RewardTrainSettings
from reward.trainer import train_reward

Fit = TypeVar("Fit", bound=FitSettings)
CONDITIONS = Path("configs/conditions/demo.yaml")


def online_settings(demo: DemoSettings, home: Path) -> OnlineSettings:
    """The rounds of the demo, on the artefacts that the earlier phases leave in `home`."""
    return OnlineSettings(
        **demo.online.model_dump(),
        run=demo.run,
        sft=home / "sft",
        reward_model=home / "reward",
        preferences=home / "preferences.jsonl",
        held_out_preferences=home / "held_out_preferences.jsonl",
        prompts=PromptSettings(path=home / "prompts.jsonl", max_tokens=64),
        labels=LabelSettings(mode="programmatic", lexicon=home / "lexicon.txt", conditions="all"),
        evaluation=EvaluationSettings(
            prompts=home / "held_out_prompts.jsonl",
            text=home / "held_out_text",
            text_tokens=30_000,
        ),
    )


def run_demo(resolved: Resolved[DemoSettings], console: Console) -> Run:
    """Run every phase, print the tables, write the report; artefacts stay in `cache:demo`."""
    home = cache_root() / "demo"
    demo = resolved.value
    settings = online_settings(demo, home)
    with StopSignal("make demo") as stop:
        run = Run.create(settings.run, Resolved.of(settings), kind="online")
        (run.path / "demo.yaml").write_text(resolved.to_yaml(), encoding="utf-8")
        Phases(demo, settings, run, home, console, stop).run_all()
    return run


def cut_short(training: Mapping[str, Any]) -> str | None:
    """What to say of a reward model whose training was ended by its seconds."""
    if training.get("ended_by") != "time":
        return None
    return (
        f"was ended by its {training['seconds']:.0f} s after {training['steps']} of "
        f"{training['planned_steps']} steps: this machine is slow, or busy with something else, "
        "and every figure after it shows less than on an idle one"
    )


@dataclass
class Phases:
    """The demo's phases in order; each reads what the ones before it left in `home`."""

    demo: DemoSettings
    settings: OnlineSettings
    run: Run
    home: Path
    console: Console
    stop: StopSignal

    @property
    def budgets(self) -> dict[str, float | None]:
        """Seconds that the training phases may take; the others end with their work."""
        reward = self.demo.reward.max_seconds
        return {
            "pretrain": self.demo.pretrain.max_seconds,
            "teach": self.demo.sft.max_seconds,
            "train reward models": reward and 2 * reward,
        }

    def print_differences(self) -> None:
        """What the demo's recipes change from the report's values."""
        online = self.demo.online
        pairs = (
            ("PPO", online.ppo, load(PPORecipe, "configs/recipes/ppo-paper.yaml")),
            (
                "reward",
                online.reward,
                load(RewardTrainSettings, "configs/recipes/reward-paper.yaml"),
            ),
        )
        for title, ours, paper in pairs:
            found = difference(paper, Resolved.of(ours))
            rows = [[key, str(theirs), str(mine)] for key, theirs, mine in found]
            title = f"{title}: what differs from the report's values"
            print_table(self.console, title, [["setting", "paper", "here"], *rows])

    def run_all(self) -> None:
        """Text to report. The actors start once, when the SFT model is there."""
        self.print_differences()
        for phase in (self.prepare_text, self.pretrain, self.teach):
            self._run(phase)
        context = Context(self.settings, self.run)
        try:
            for later in (self.collect_preferences, self.train_reward_models, self.align):
                self._run(later, context)
        finally:
            context.close()
        self.finish(context)

    def _run(self, phase: Callable[..., None], *arguments: object) -> None:
        name = phase.__name__.replace("_", " ")
        budget = self.budgets.get(name)
        self.console.rule(f"[bold]{name}" + (f"[/bold] (at most {budget:.0f} s)" if budget else ""))
        with self.run.phase(name):
            phase(*arguments)
        if self.stop.requested:
            self.stop.announce()

    def prepare_text(self) -> None:
        """Fetch the corpus, train the tokenizer, build token stores, SFT data and prompts."""
        corpus = load_corpus()
        tokenizer = train_tokenizer(corpus.train, self.demo.vocab_size, self.home / "tokenizer")
        for name, documents in (("text", corpus.train), ("held_out_text", corpus.held_out)):
            build_store(documents, tokenizer, self.home / name)
        names = topics(corpus, self.demo.topics)
        training, held_out = split_topics(names)
        seed = self.settings.run.seed
        conversations = demonstrations(corpus, names, seed, self.demo.demonstrations)
        if self.demo.shortcut is not None:
            conversations = plant_in_demonstrations(conversations, self.demo.shortcut, seed)
        write_jsonl(self.home / "sft.jsonl", conversations)
        for file, chosen in (("prompts", training), ("held_out_prompts", held_out)):
            write_prompts(
                self.home / f"{file}.jsonl",
                [(task.id, task.messages, task.condition) for task in prompts(chosen)],
            )
        lexicon = "\n".join(sorted(corpus.known_words))
        (self.home / "lexicon.txt").write_text(lexicon, encoding="utf-8")
        self.console.print(
            f"{len(corpus.train)} messages to train on, {len(corpus.held_out)} held out;"
            f" {len(conversations)} demonstrations; {2 * len(training)} prompts"
        )

    def pretrain(self) -> None:
        """Base model, exported in Hugging Face layout."""
        run = self._sub_run("pretrain")
        self._publish(train(self._seeded(self.demo.pretrain), run, self.stop), "base")

    def teach(self) -> None:
        """SFT on demonstrations that follow the asked style most of the time."""
        run = self._sub_run("sft")
        self._publish(sft(self._seeded(self.demo.sft), run, self.stop), "sft")

    def collect_preferences(self, context: Context) -> None:
        """Pairs of the SFT model's own samples, judged under both conditions."""
        pairs = self.demo.pairs
        conditions = Conditions.load(CONDITIONS)
        for name, file, count in (
            ("preferences", "prompts", pairs.count),
            ("held_out_preferences", "held_out_prompts", pairs.held_out),
        ):
            source = PromptSettings(path=self.home / f"{file}.jsonl")
            prompt_set = read_prompts(source, context.chat, conditions)
            records = sample_reply_pairs(context, prompt_set, count, pairs, name)
            labelled = label_pairs(records, context.annotators)
            if self.demo.shortcut is not None and name == "preferences":
                labelled += planted_preferences(
                    records, list(context.annotators), self.demo.shortcut, self.run.seed
                )
            write_preferences(self.home / f"{name}.jsonl", labelled)

    def train_reward_models(self, context: Context) -> None:
        """The same pairs with and without conditions; compared on held-out pairs."""
        training = read_preferences(self.home / "preferences.jsonl").records
        conditions = Conditions.load(CONDITIONS)
        for name, use_condition in (("reward", True), ("reward_unconditional", False)):
            out = self.home / name
            shutil.rmtree(out, ignore_errors=True)
            train_reward(
                self.demo.reward.model_copy(update={"use_condition": use_condition}),
                base=self.home / "sft",
                train=training,
                out=out,
                conditions=conditions,
                run=self._sub_run(name),
                parents={"sft": self.home / "sft"},
                seed=self.settings.run.seed,
            )

    def align(self, context: Context) -> None:
        """Rounds of PPO, evaluation, sampling, labelling, reward model update and gate."""
        self.stop.resume_command = f"cool-rlhf online resume {self.run.path}"
        self.run.record(
            parents={
                name: {"path": str(path), "sha256": hash_artefact(path)}
                for name, path in parents_of(self.settings).items()
            }
        )
        run_rounds(context, self.stop)

    def finish(self, context: Context) -> None:
        """Tables, report, and what to do next."""
        held_out = read_preferences(self.home / "held_out_preferences.jsonl").records
        models = [RewardModel.load(self.home / n) for n in ("reward", "reward_unconditional")]
        names = ("conditional", "unconditional")
        report = compare(models[0], models[1], held_out, names=names, seed=self.run.seed)
        header, rows = report.table()
        # Each condition has one annotator here, so its source says the same again.
        rows = [row for row in rows if not row[0].startswith("source")]
        write_json(self.run.path / "reward_models.json", {"columns": header, "rows": rows})
        stages = write_summary(context)
        page = compose(self.run.path)
        print_table(self.console, "reward models on held-out pairs", [header, *rows])
        print_table(self.console, "policies on held-out prompts", stages)
        for name, model in zip(names, models, strict=True):
            if cut := cut_short(model.card.training):
                self.console.print(f"[yellow]the {name} reward model {cut}[/yellow]")
        if self.demo.shortcut is not None:
            self._print_shortcut(context, self.demo.shortcut.opening)
        last = context.policy(self.settings.rounds)
        for line in (
            f"report: {page}",
            f"talk:   cool-rlhf chat {last}",
            "again:  cool-rlhf ppo configs/ppo/tiny.yaml",
        ):
            self.console.print(line, soft_wrap=True)

    def _print_shortcut(self, context: Context, opening: str) -> None:
        """What became of the planted shortcut: how often it was said, and what the gate said."""
        rows: list[list[str]] = []
        for number, report in evaluations(context).items():
            said = [sample["reply"].startswith(opening) for sample in report["samples"]]
            result = context.folder(number) / FAST_PATH / "result.json"
            found = read_json(result) if result.exists() else {"hacks": [], "verdict": "-"}
            name = f"round {number}" if number else "SFT"
            hacks = ", ".join(found["hacks"]) or "-"
            rows.append([name, f"{sum(said) / len(said):.0%}", hacks, str(found["verdict"])])
        header = ["stage", "replies with it", "hacks found", "gate of the patch"]
        print_table(self.console, f"planted shortcut: {opening!r}", [header, *rows])

    def _sub_run(self, name: str) -> Run:
        return Run.create(
            RunSettings(root=self.run.path, name=name, seed=self.settings.run.seed),
            None,
            kind=name,
        )

    def _seeded(self, settings: Fit) -> Fit:
        return settings.model_copy(update={"run": self.settings.run})

    def _publish(self, folder: Path, name: str) -> None:
        """Copy an exported model to where later commands look for it."""
        target = self.home / name
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(folder, target)
