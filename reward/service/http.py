"""The HTTP interface: routes, limits on bodies, access, and one shape for all errors."""

import asyncio
import time
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from reward.service.access import Access
from reward.service.errors import ServiceError
from reward.service.gateway import Gateway
from reward.service.metrics import CONTENT_TYPE_LATEST
from reward.service.openrlhf import answer_of, items_of
from reward.service.schemas import (
    ModelStatus,
    OpenRLHFRequest,
    Schema,
    ScoreAnswer,
    ScoreRequest,
    SwapRequest,
    parse,
)
from reward.service.settings import is_loopback

DESCRIPTION = "Scores of replies by a conditional reward model."


def build_app(gateway: Gateway, access: Access) -> FastAPI:
    """The ASGI application of one gateway."""
    app = FastAPI(title="cool-rlhf reward service", version="1", description=DESCRIPTION)
    limits = gateway.settings.limits

    @app.exception_handler(ServiceError)
    async def refuse(request: Request, error: ServiceError) -> JSONResponse:
        gateway.metrics.failure(error.reason)
        return JSONResponse(error.body(), error.status, error.headers())

    @app.middleware("http")
    async def measure(request: Request, call_next: Any) -> Response:
        start = time.monotonic()
        status = 499
        try:
            response: Response = await call_next(request)
            status = response.status_code
        finally:
            # Paths that we do not have stay one label, however many are tried.
            route = request.scope.get("route")
            path = getattr(route, "path", "other")
            gateway.metrics.request(path, status, time.monotonic() - start)
        return response

    def authorise(request: Request, admin: bool = False) -> None:
        access.check(request.headers.get("authorization"), admin=admin)

    @app.post("/v1/score", response_model=ScoreAnswer, openapi_extra=_body_of(ScoreRequest))
    async def score(request: Request) -> Response:
        """Score conversations; each item has a score or the reason why it has none."""
        authorise(request)
        try:
            asked = parse(ScoreRequest, await read_body(request, limits.body_bytes), limits)
            answer = await gateway.score(asked)
        except asyncio.CancelledError:
            gateway.metrics.failure("client_gone")
            raise
        return Response(answer.model_dump_json(exclude_none=True), media_type="application/json")

    @app.get("/v1/models")
    async def models(request: Request) -> ModelStatus:
        """The model that is served, and what each replica holds."""
        authorise(request)
        return gateway.status()

    @app.post("/v1/models", response_model=ModelStatus, openapi_extra=_body_of(SwapRequest))
    async def swap(request: Request) -> ModelStatus:
        """Serve another reward-model folder, without a failed request."""
        authorise(request, admin=True)
        asked = parse(SwapRequest, await read_body(request, limits.body_bytes), limits)
        return await gateway.swap(asked.folder)

    @app.get("/healthz")
    async def health() -> JSONResponse:
        """200 while at least one replica can score."""
        alive = gateway.fleet.size
        body = {"status": "ok" if alive else "no replica", "replicas": alive}
        return JSONResponse(body, 200 if alive else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        """Prometheus text."""
        text = gateway.metrics.text(gateway.fleet.current.version, gateway.fleet.size)
        return Response(text, headers={"Content-Type": CONTENT_TYPE_LATEST})

    if gateway.settings.openrlhf.enabled:
        _add_openrlhf(app, gateway)
    return app


def _add_openrlhf(app: FastAPI, gateway: Gateway) -> None:
    settings, limits = gateway.settings.openrlhf, gateway.settings.limits

    @app.post("/get_reward", openapi_extra=_body_of(OpenRLHFRequest))
    async def get_reward(request: Request) -> dict[str, Any]:
        """OpenRLHF's remote reward model; from this machine only."""
        if request.client is None or not is_loopback(request.client.host):
            raise ServiceError(403, "loopback_only", "this route answers this machine only")
        asked = parse(OpenRLHFRequest, await read_body(request, limits.body_bytes), limits)
        return answer_of(await gateway.score(ScoreRequest(items=items_of(asked, settings))))


def _body_of(schema: type[Schema]) -> dict[str, Any]:
    """OpenAPI of a body that we read ourselves, because limits come before parsing."""
    content = {"application/json": {"schema": schema.model_json_schema()}}
    return {"requestBody": {"required": True, "content": content}}


async def read_body(request: Request, limit: int) -> bytes:
    """The body, read no further than `limit` bytes; ServiceError 413 above it."""
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise ServiceError(413, "body_too_large", f"{declared} bytes, at most {limit}")
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > limit:
            raise ServiceError(413, "body_too_large", f"more than {limit} bytes")
    return bytes(body)
