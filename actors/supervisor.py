"""Which workers are dead, asked without disturbing those at work."""

from collections.abc import Sequence

from actors.group import ActorFailed, Group


class Supervisor:
    """Watches groups by one outstanding ping for each worker.

    A ping waits behind a worker's own work, and Ray fails it at once when the process dies. So a
    missing answer means busy and is no failure; that a living worker is stuck is not detected.
    """

    def __init__(self, groups: Sequence[Group]) -> None:
        self._watched = [
            (group, rank, actor) for group in groups for rank, actor in enumerate(group.actors)
        ]
        self._pings = [actor.ping.remote() for _, _, actor in self._watched]

    def dead(self, patience_s: float = 0.0) -> list[ActorFailed]:
        """The workers known to be dead, by group and rank; waits up to `patience_s` for answers."""
        import ray

        for index, (_, _, actor) in enumerate(self._watched):
            if self._answer(index) is True:
                self._pings[index] = actor.ping.remote()
        ray.wait(self._pings, num_returns=len(self._pings), timeout=patience_s)
        answers = [(self._answer(index), *who) for index, who in enumerate(self._watched)]
        return [
            ActorFailed(group.role, rank, answer)
            for answer, group, rank, _ in answers
            if isinstance(answer, BaseException)
        ]

    def _answer(self, index: int) -> bool | BaseException:
        """Whether the ping came back, or the error it came back with."""
        import ray
        from ray.exceptions import RayError

        answered, _ = ray.wait([self._pings[index]], timeout=0)
        try:
            ray.get(answered)
        except RayError as error:
            return error
        return bool(answered)

    def check(self) -> None:
        """Raises ActorFailed for the first worker found dead."""
        failed = self.dead()
        if failed:
            raise failed[0]
