"""What a detection leaves in a folder."""

from pathlib import Path

from cool_rlhf.hacks.detect import Detection
from cool_rlhf.hacks.page import as_json, as_page
from cool_rlhf.hacks.pairs import write_pairs
from cool_rlhf.hacks.settings import HackSettings
from pretrain_core.runs.files import write_json, write_text


def write_detection(out: Path, detection: Detection, settings: HackSettings) -> list[str]:
    """Write hacks.json, report.html and pairs.jsonl; returns what a reader should be told.

    Those are the notes of the detection, and which hacks have too few pairs for a patch.
    """
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "hacks.json", as_json(detection, settings))
    write_text(out / "report.html", as_page(detection, settings, "Reward hacks"))
    few = write_pairs(out / "pairs.jsonl", detection.findings, settings.seed, settings.pairs)
    return [*detection.notes, *few]
