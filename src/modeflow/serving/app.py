"""The answers of `Served` over HTTP, by FastAPI. One thread has the model, and takes requests in turn."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.exceptions import HTTPException

from modeflow._version import __version__
from modeflow.data.json_text import json_text
from modeflow.errors import ConfigError, ModeflowError
from modeflow.serving.arrow import ARROW_STREAM, stream_of_frame
from modeflow.serving.bodies import JSON, MEDIA, columns_of_body, json_value
from modeflow.serving.guard import LOOPBACK, Guard, Refused, read_body
from modeflow.serving.model import Answer, Served, recorded

__all__ = ["Service", "build_app", "json_bytes"]

_SILENT: Any = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}

Seed = Annotated[int | None, Query(ge=0, lt=2**32, description="of the drawing; a new one by default")]


class SampleRequest(BaseModel):
    """What `/sample` is asked for."""

    model_config = ConfigDict(extra="forbid", strict=True)

    n: int | None = Field(None, description="how many rows (100)")
    given: dict[str, bool | int | float | str] | None = Field(
        None, description="cells that rows have, by column"
    )
    state: int | None = Field(None, ge=0, description="only from this state of a discrete latent")
    temperature: float = Field(1.0, description="of the noise: less gives likelier rows")
    prior_temperature: float = Field(1.0, description="the same for the latent")
    states: bool = Field(False, description="add the state of each row")
    seed: int | None = Field(None, ge=0, lt=2**32, description="a new one by default")


class Service:
    """A served model and the one thread that asks it.

    Arguments:
        served: the model.
    """

    def __init__(self, served: Served) -> None:
        self.served = served
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="modeflow-model")

    async def ask(self, function: Callable[[], Any]) -> Any:
        """What a function finds in the model's thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)

    def close(self) -> None:
        """Let the thread end; what waits is not begun."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def rows(self, request: Request, answer: Callable[[dict[str, Any]], Answer]) -> Response:
        """The answer to rows that come as JSON or Arrow, as JSON or, where that is accepted, Arrow."""
        limits, media = self.served.limits, media_of(request)
        if media not in MEDIA:
            raise Refused(415, f"Content-Type must be {' or '.join(MEDIA)}, received '{media[:80]}'")
        body = await read_body(request.receive, limits)

        def found() -> Response:
            columns = columns_of_body(body, media, limits.rows, self.served.most_columns)
            return _response(request, recorded(lambda: answer(columns)))

        response: Response = await self.ask(found)
        return response


def build_app(
    served: Served,
    *,
    token: str | None = None,
    hosts: Collection[str] | None = LOOPBACK,
    more: Callable[[FastAPI, Service], str | None] | None = None,
) -> Guard:
    """The ASGI application of a model.

    Arguments:
        served: the model. token: that requests must send; none if None. hosts: names that are answered to;
            any if None. more: adds routes, and says what their pages may load (`Guard`'s policy).
    """
    service = Service(served)

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    # The pages of FastAPI about an API load their scripts from elsewhere, and it may send measurements there.
    app = FastAPI(
        title="modeflow", version=__version__, docs_url=None, redoc_url=None, lifespan=life,
        redirect_slashes=False, telemetry=_SILENT,
    )  # fmt: skip
    _errors(app)
    _routes(app, service)
    policy = None if more is None else more(app, service)
    return Guard(app, served.limits, token, hosts, policy)


def _routes(app: FastAPI, service: Service) -> None:
    served = service.served
    described = json_bytes(served.describe())

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Whether the server runs."""
        return {"status": "ok"}

    @app.get("/version")
    async def version() -> dict[str, str]:
        """Which version of modeflow."""
        return {"modeflow": __version__}

    @app.get("/model")
    async def model() -> Response:
        """The columns of the model, what its scores are, and the limits of a request."""
        return Response(described, media_type=JSON)

    @app.post("/score", openapi_extra=_ROWS)
    async def score(request: Request) -> Response:
        """Log-density of every row, nats."""
        return await service.rows(request, served.score)

    @app.post("/assign", openapi_extra=_ROWS)
    async def assign(request: Request) -> Response:
        """State of every row (or codes, or the place on a continuous latent)."""
        return await service.rows(request, served.assign)

    @app.post("/reasons", openapi_extra=_ROWS)
    async def reasons(request: Request) -> Response:
        """Log-density, p-value and reasons of every row."""
        return await service.rows(request, served.reasons)

    @app.post("/impute", openapi_extra=_ROWS)
    async def impute(
        request: Request,
        m: Annotated[int, Query(ge=1, description="so many tables")] = 1,
        mean: Annotated[bool, Query(description="means and likeliest levels, in place of draws")] = False,
        unseen: Annotated[Literal["error", "missing"], Query(description="a cell that cannot be")] = "error",
        seed: Seed = None,
    ) -> Response:
        """Rows with their missing cells filled."""
        filled = functools.partial(served.impute, m=m, mean=mean, unseen=unseen, seed=seed)
        return await service.rows(request, filled)

    @app.post("/sample", openapi_extra={"requestBody": _json_body(SampleRequest.model_json_schema())})
    async def sample(request: Request) -> Response:
        """New rows, or rows that have the cells given."""
        if media_of(request) != JSON:
            raise Refused(415, f"Content-Type must be {JSON}, received '{media_of(request)[:80]}'")
        body = await read_body(request.receive, served.limits)

        def drawn() -> Response:
            asked = SampleRequest.model_validate(json_value(body) if body.strip() else {})
            return _response(request, recorded(lambda: served.sample(**dict(asked))))

        response: Response = await service.ask(drawn)
        return response


def media_of(request: Request) -> str:
    """The media type of a request's body."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _response(request: Request, answer: Answer) -> Response:
    accepted = request.headers.get("accept", "")
    if ARROW_STREAM in accepted:
        told = {f"modeflow-{name}": str(v) for name, v in answer.told.items() if isinstance(v, (int, str))}
        return Response(stream_of_frame(answer.frame), media_type=ARROW_STREAM, headers=told)
    return Response(json_bytes({**answer.told, **answer.listed}), media_type=JSON)


def json_bytes(value: Any) -> bytes:
    """JSON text; numbers that are not finite are null."""
    return json_text(value).encode()


def _errors(app: FastAPI) -> None:
    """Every error is JSON with one line, `detail`."""

    def said(status: int, detail: str) -> Response:
        return Response(json_bytes({"detail": " ".join(detail.split())}), status, media_type=JSON)

    async def of_modeflow(_: Request, error: Exception) -> Response:
        return said(400 if isinstance(error, ConfigError) else 422, str(error))

    async def of_request(_: Request, error: Exception) -> Response:
        return said(422, "; ".join(_fault(each) for each in error.errors()[:5]))  # type: ignore[attr-defined]

    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, Refused)
        return said(error.status, error.detail)

    async def of_http(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return said(error.status_code, str(error.detail))

    async def of_memory(_: Request, error: Exception) -> Response:
        return said(503, "out of memory: ask for fewer rows")

    async def others(_: Request, error: Exception) -> Response:  # raised again, for the server's log
        return said(500, "an error of the server's own, which its log tells")

    app.add_exception_handler(ModeflowError, of_modeflow)
    app.add_exception_handler(RequestValidationError, of_request)
    app.add_exception_handler(ValidationError, of_request)
    app.add_exception_handler(Refused, refused)
    app.add_exception_handler(HTTPException, of_http)
    app.add_exception_handler(MemoryError, of_memory)
    app.add_exception_handler(Exception, others)


def _fault(error: dict[str, Any]) -> str:
    where = ".".join(str(part) for part in error.get("loc", ()) if part not in ("body", "query"))
    return f"{where or 'the body'}: {error['msg']}"


def _json_body(schema: dict[str, Any]) -> dict[str, Any]:
    return {"content": {JSON: {"schema": schema}}}


_CELL = {"type": ["number", "string", "boolean", "null"]}
_ROWS: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            JSON: {
                "schema": {
                    "type": "object",
                    "required": ["rows"],
                    "properties": {
                        "columns": {"type": "array", "items": {"type": "string"}},
                        "rows": {
                            "type": "array",
                            "items": {
                                "anyOf": [
                                    {"type": "object", "additionalProperties": _CELL},
                                    {"type": "array", "items": _CELL},
                                ]
                            },
                        },
                    },
                }
            },
            ARROW_STREAM: {"schema": {"type": "string", "format": "binary"}},
        },
    }
}
