"""Error bodies: OpenAI's envelope with our additions, and vLLM's."""

from __future__ import annotations

from pydantic import BaseModel, Field


class ProblemBody(BaseModel):
    """One reason why an adapter cannot be served."""

    code: str
    what: str
    fix: str


class ErrorBody(BaseModel):
    """What went wrong, in OpenAI's words, with the fix and the request's id."""

    message: str
    type: str
    param: str | None = Field(description="Dotted path of the field at fault")
    code: str = Field(description="Stable and machine-readable")
    hint: str = Field(description="The fix")
    request_id: str
    problems: list[ProblemBody] | None = Field(None, description="Every reason, when an adapter was refused")


class ErrorReply(BaseModel):
    """The envelope of every error on `/v1` and `/api`."""

    error: ErrorBody


class VllmErrorBody(BaseModel):
    """What went wrong, in vLLM's words."""

    message: str
    type: str
    param: str | None = None
    code: int


class VllmErrorReply(BaseModel):
    """The envelope of errors on vLLM's two adapter routes. Without a valid key, `error` is a plain string there."""

    error: VllmErrorBody | str
