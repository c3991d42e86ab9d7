"""After training: export the model, measure it, write down what came out."""

from pathlib import Path

from pretrain_core.convert import export_state
from pretrain_core.model import Transformer
from pretrain_core.parallel import World, full_state
from pretrain_core.runs import Run
from pretrain_core.train.job import Job
from pretrain_core.train.weights import EXPORT


def finish(job: Job, model: Transformer, run: Run | None, world: World) -> Path:
    """Export a Hugging Face folder and evaluate it on the held-out store, on rank 0.

    Returns the folder (on all ranks); `run.manifest["result"]` holds what is worth reporting.
    """
    state = full_state(model)
    folder = world.shared_path(run.path / EXPORT if run else None)
    if run:
        with run.phase("export"):
            export_state(state, job.config, job.tokenizer, folder, job.settings.export)
        result: dict[str, float | int | str] = {"model": str(folder)}
        rows = run.metrics()
        if rows:
            last = rows[-1]
            result |= {
                "steps": int(last["step"]) + 1,
                "tokens": int(last["train/tokens"]),
                "train_loss": sum(r["train/loss"] for r in rows[-10:]) / len(rows[-10:]),
                "tokens_per_second": sorted(r["perf/throughput"] for r in rows)[len(rows) // 2],
            }
        if job.held_out is not None:
            # Imported here: evaluation is built on this package's loss.
            from pretrain_core.evaluate.perplexity import evaluate_loss

            with run.phase("evaluate"):
                length = job.settings.batch.length
                report = evaluate_loss(folder, job.held_out, job.settings.held_out_tokens, length)
            result |= {"held_out_loss": report.loss, "held_out_tokens": report.tokens}
        run.record(result=result)
    world.barrier()
    return folder
