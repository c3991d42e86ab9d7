"""Stands where rollout engines stand when all samples come from a log."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from actors.rollout.requests import Finished, Request, RolloutError, SamplingSettings


class NoEngine:
    """Has no weights and samples nothing."""

    engine = "log"
    group = None

    def load(self, model: Path, version: int) -> None:
        """Nothing to load."""

    def generate(
        self,
        requests: Sequence[Request],
        sampling: SamplingSettings,
        stop_token_ids: Sequence[int],
    ) -> Iterator[Finished]:
        """Raises RolloutError where a sample is asked for: the log has not got it."""
        if requests:
            raise RolloutError(
                f"{len(requests)} samples are not in the log, such as {requests[0].id!r}, and there"
                " are no engines: the settings are not those that the log was made with"
            )
        return iter(())

    def restart(self) -> None:
        """Nothing to start."""

    def close(self) -> None:
        """Nothing to end."""
