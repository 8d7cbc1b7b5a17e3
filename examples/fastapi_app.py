"""An application on one base model: every route has its adapter, and all of them answer in one batch.

    BASE_MODEL_PATH=./base CONCEPT_ADAPTER_PATH=./medical NAMING_ADAPTER_PATH=./legal uvicorn fastapi_app:app

The same names may stand in a file `.env`. Needs `pip install 'loradex[local,app]'`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, Field

from loradex import LoradexError, ModelManager, ModelSettings, get_model_manager


class Concept(BaseModel):
    """What the adapter `concept` finds in a text."""

    name: str = Field(max_length=40)
    important: bool


class Text(BaseModel):
    """What clients send."""

    text: str


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Check everything at the start, load the base with the first request, free it at the end."""
    manager = get_model_manager()
    await manager.configure_models(settings=ModelSettings(), schemas={"concept": Concept})
    yield
    await manager.close()


app = FastAPI(lifespan=lifespan)
Manager = Annotated[ModelManager, Depends(get_model_manager)]


@app.exception_handler(LoradexError)
async def refuse(request: Request, error: LoradexError) -> JSONResponse:
    """Tell clients what is wrong, and how to mend it."""
    return JSONResponse({"error": error.code, "message": error.message, "hint": error.hint}, error.status)


@app.post("/concepts")
async def concepts(body: Text, manager: Manager) -> Concept:
    """Find the concept of a text: the answer is one, whatever the model would rather say."""
    async with manager.use_model("concept") as model:
        concept: Concept = await model.generate_modeling_async(body.text, max_tokens=200)
        return concept


@app.post("/names")
def names(body: Text, manager: Manager) -> str:
    """Name something, in a thread: FastAPI gives one to every route that is no coroutine."""
    with manager.use_model("naming") as model:
        return model.generate_text(body.text, max_tokens=100)


@app.post("/names/stream")
async def stream(body: Text, manager: Manager) -> StreamingResponse:
    """Name something, word by word."""

    async def words() -> AsyncIterator[str]:
        async with manager.use_model("naming") as model:
            async for piece in model.stream_text(body.text, max_tokens=100):
                yield piece

    return StreamingResponse(words(), media_type="text/plain")


@app.get("/model")
async def model_status(manager: Manager, name: str = "base") -> dict[str, Any]:
    """Tell whether the base is loaded, who uses it, and what its memory goes to."""
    return await manager.get_model_status(name)
