"""The sidecar's routes: probes, metrics, and replication on request.

The only rooms that know a web framework are this one, `api_models` (bodies and answers), `api_server` (the
socket) and `ui.routes` (the status page); `app` imports them only when the sidecar is asked for. `api_guard` decides
who may use `/v1/*` and see `/ui`.
"""

from __future__ import annotations

import logging
import math
from typing import Any, NoReturn

from fastapi import APIRouter, FastAPI, Request, Response, Security
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException

from consumer import api_docs as docs
from consumer.api_guard import Guard, HeadAsGet
from consumer.api_models import (
    BatchAnswer,
    BatchRequest,
    CurrentConfig,
    Healthy,
    NotReady,
    Ready,
    ReplicateAnswer,
    ReplicateRequest,
    Stalled,
    Welcome,
    answer_to,
    key_result,
    plain_errors,
    replicate_answer,
)
from consumer.api_port import ApiConfig, Busy, Service
from consumer.api_server import ListenError, Sidecar
from consumer.model import ObjectRef, UnexpectedError
from consumer.ports import Observer
from consumer.ui.routes import StatusPage, page_routes

__all__ = ["ApiConfig", "Busy", "ListenError", "Service", "Sidecar", "build_api"]

_log = logging.getLogger(__name__)


def build_api(
    service: Service,
    *,
    config: ApiConfig,
    observer: Observer | None = None,
    page: StatusPage | None = None,
) -> FastAPI:
    """The ASGI application. Every error is `{"detail": …}`, and none shows an exception's text.

    An exception that no rule foresees is told to `observer` as `UnexpectedError`, or logged without one. `page` is what
    is shown at `/ui`.
    """
    api = FastAPI(
        title="Cross-Cloud Replicator",
        summary="Replicates objects between S3 and Google Cloud Storage.",
        description=docs.DESCRIPTION,
        version=config.version,
        openapi_tags=docs.TAGS,
        redoc_url=None,
        # A redirect would be built from the Host header, which the client chooses.
        redirect_slashes=False,
        exception_handlers={RequestValidationError: _invalid_body, HTTPException: _refused},
    )
    api.include_router(_status_routes(service, config))
    api.include_router(_replication_routes(service, config))
    if page is not None:
        api.include_router(page_routes(page))

    def unexpected(error: Exception) -> None:
        if observer is not None:
            observer.emit(UnexpectedError("api", error))
        else:
            _log.error("unexpected error in the API", exc_info=error)

    api.add_middleware(HeadAsGet)
    api.add_middleware(Guard, config=config, on_error=unexpected)
    return api


def _status_routes(service: Service, config: ApiConfig) -> APIRouter:
    routes = APIRouter()

    @routes.get("/", tags=["status"], summary="What this is and where it copies to", responses=docs.WELCOME)
    async def welcome() -> Welcome:
        return Welcome(current_config=CurrentConfig(s3_target=config.s3_target, gcs_target=config.gcs_target))

    @routes.get(
        "/healthz",
        tags=["status"],
        summary="Liveness: does the program make progress?",
        response_model=Healthy,
        responses=docs.HEALTHZ,
    )
    async def healthz() -> Response:
        if service.is_alive():
            return _json(200, Healthy())
        return _json(503, Stalled(detail="the poll loop makes no progress; the program should be restarted"))

    @routes.get(
        "/readyz",
        tags=["status"],
        summary="Readiness: is work being taken?",
        response_model=Ready,
        responses=docs.READYZ,
    )
    async def readyz() -> Response:
        reason = service.not_ready_reason()
        if reason is None:
            return _json(200, Ready())
        return _json(503, NotReady(reason=reason, detail=f"not ready: {reason}"))

    @routes.get(
        "/metrics",
        tags=["status"],
        summary="Prometheus metrics",
        response_class=PlainTextResponse,
        responses=docs.METRICS,
    )
    async def metrics() -> Response:
        body, content_type = service.metrics()
        return Response(body, headers={"content-type": content_type})

    return routes


def _replication_routes(service: Service, config: ApiConfig) -> APIRouter:
    # The scheme is here to be shown in the OpenAPI UI; the guard checks the token before a route is reached.
    bearer = HTTPBearer(auto_error=False, description=docs.BEARER)
    needed = [Security(bearer)] if config.token else []
    routes = APIRouter(prefix="/v1", tags=["replication"], dependencies=needed)

    def refuse_early(bucket: str) -> None:
        if not service.bucket_allowed(bucket):
            raise HTTPException(
                403,
                f"bucket {bucket} is not allowed; add it to SOURCE_BUCKETS or ROUTES [reason: bucket_not_allowed]",
            )
        if not service.accepting():
            reason = service.not_ready_reason() or "not accepting work"
            _unavailable(f"no work is taken now: {reason}", config.retry_after_seconds)

    @routes.post(
        "/replicate",
        summary="Replicate one object now",
        description=docs.REPLICATE_DESCRIPTION,
        response_model=ReplicateAnswer,
        responses=docs.REPLICATE,
    )
    async def replicate(wanted: ReplicateRequest) -> ReplicateAnswer:
        refuse_early(wanted.s3_bucket)
        ref = ObjectRef(wanted.s3_bucket, wanted.s3_key)
        try:
            outcome = await service.replicate(ref, config.slot_wait_seconds)
        except Busy as busy:
            _unavailable(str(busy), busy.retry_after)
        answer = answer_to(outcome)
        if answer.http_status == 503:
            _unavailable(answer.text, answer.retry_after or config.retry_after_seconds)
        if answer.http_status != 200:
            raise HTTPException(answer.http_status, answer.text)
        return replicate_answer(outcome, answer)

    @routes.post(
        "/replicate/batch",
        summary="Replicate up to 1000 objects of one bucket now",
        description=docs.BATCH_DESCRIPTION,
        response_model=BatchAnswer,
        response_model_exclude_none=True,
        responses=docs.BATCH,
    )
    async def replicate_batch(wanted: BatchRequest) -> BatchAnswer:
        refuse_early(wanted.s3_bucket)
        refs = [ObjectRef(wanted.s3_bucket, key) for key in wanted.s3_keys]
        try:
            outcomes = await service.replicate_many(refs, config.slot_wait_seconds)
        except Busy as busy:
            _unavailable(str(busy), busy.retry_after)
        if [outcome.event.ref for outcome in outcomes] != refs:
            raise RuntimeError("the outcomes are not those of the keys asked for")
        return BatchAnswer(results=[key_result(outcome) for outcome in outcomes])

    return routes


def _json(status: int, body: Healthy | Stalled | Ready | NotReady) -> JSONResponse:
    return JSONResponse(body.model_dump(), status_code=status)


def _unavailable(detail: str, retry_after: float) -> NoReturn:
    seconds = min(3600, math.ceil(retry_after)) if math.isfinite(retry_after) else 3600
    raise HTTPException(503, detail, headers={"Retry-After": str(max(1, seconds))})


async def _invalid_body(_request: Request, error: Exception) -> Response:
    found: list[Any] = list(error.errors()) if isinstance(error, RequestValidationError) else []
    return JSONResponse({"detail": plain_errors(found)}, status_code=422)


async def _refused(_request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    if error.status_code == 400:
        # FastAPI says this for a body that json.loads fails on in an unusual way: not UTF-8, nested too deep,
        # a number of thousands of digits. To the client it is one thing: the body is not JSON.
        unreadable = {"type": "json_invalid", "loc": ["body"], "msg": "the body cannot be read as JSON"}
        return JSONResponse({"detail": [unreadable]}, status_code=422)
    return JSONResponse({"detail": error.detail}, status_code=error.status_code, headers=error.headers)
