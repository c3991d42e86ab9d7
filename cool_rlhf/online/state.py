"""Where a run of rounds stands: which stages are done, which file it waits for."""

from pathlib import Path

from pretrain_core.runs import read_json, write_json


class WaitingForLabels(Exception):
    """People have to label first; the message says which file is awaited."""


class RoundState:
    """`state.json` of an online run, rewritten atomically after each stage.

    The only thing that a resumed run needs to trust.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "state.json"
        done = read_json(self._path)["done"] if self._path.exists() else []
        self._done: list[tuple[int, str]] = [(number, name) for number, name in done]

    @property
    def done(self) -> tuple[tuple[int, str], ...]:
        """(round, stage) in the order they were finished."""
        return tuple(self._done)

    def is_done(self, number: int, stage: str) -> bool:
        """Whether a stage of a round was finished."""
        return (number, stage) in self._done

    def mark_done(self, number: int, stage: str) -> None:
        """Record a finished stage; survives a kill right after it."""
        self._done.append((number, stage))
        write_json(self._path, {"done": [list(item) for item in self._done]})
