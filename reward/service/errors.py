"""What the service answers when it cannot give scores: one status, one reason, one sentence."""

from typing import Any


class ServiceError(Exception):
    """A request that ends without scores; `reason` is one word that programs can rely on."""

    def __init__(
        self,
        status: int,
        reason: str,
        message: str,
        *,
        item: int | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message
        self.item = item
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[Any, ...]:
        # Errors cross process boundaries; the default would lose the keyword arguments.
        return _rebuild, (self.status, self.reason, self.message, self.item, self.retry_after_s)

    def body(self) -> dict[str, Any]:
        """JSON of the answer."""
        error: dict[str, Any] = {"reason": self.reason, "message": self.message}
        if self.item is not None:
            error["item"] = self.item
        return {"error": error}

    def headers(self) -> dict[str, str]:
        """Headers of the answer."""
        headers = {}
        if self.retry_after_s is not None:
            headers["Retry-After"] = str(self.retry_after_s)
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return headers


def _rebuild(
    status: int, reason: str, message: str, item: int | None, retry_after_s: int | None
) -> ServiceError:
    return ServiceError(status, reason, message, item=item, retry_after_s=retry_after_s)
