"""`GET /v1/models`: everything that `model` may name."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Depends

from loradex.core.adapter import BASE, Reference
from loradex.errors import AdapterNotFound, InvalidRequest, ModelNotFound, near
from loradex.server.auth import may_infer
from loradex.server.state import TheService, errors
from loradex.server.wire.card import Card, CardList, Permission
from loradex.service.service import Service
from loradex.service.views import ModelCard

router = APIRouter(prefix="/v1", tags=["OpenAI"], dependencies=[Depends(may_infer)])


@router.get("/models", responses=errors(503))
async def list_models(service: TheService) -> CardList:
    """List the base model and every adapter that can answer."""
    return CardList(data=[_card(card) for card in await asyncio.to_thread(service.models)])


@router.get("/models/{model_id:path}", responses=errors(404, 503))
async def retrieve_model(model_id: str, service: TheService) -> Card:
    """Show one model: the base, an adapter, or one version of it (`medical@2`)."""
    return _card(await asyncio.to_thread(_find, service, model_id))


def _find(service: Service, model_id: str) -> ModelCard:
    cards = {card.id: card for card in service.models()}
    if model_id in cards:
        return cards[model_id]
    base = next(card for card in cards.values() if card.ref is None)
    if model_id == BASE:
        return base
    try:
        reference = Reference.parse(model_id.removeprefix(f"{base.id}:").removeprefix(f"{BASE}:"))
        ref = service.registry.resolve(reference, base=service.info.digest)
        record = service.registry.get(ref.name)
    except (AdapterNotFound, InvalidRequest) as error:
        close = ", ".join(near(model_id, cards))
        hint = f"Did you mean {close}?" if close else "See what exists with GET /v1/models"
        raise ModelNotFound(f"The model `{model_id[:200]}` does not exist", param="model", hint=hint) from error
    version = record.version(ref.version)
    if version is None:
        raise ModelNotFound(f"The model `{model_id[:200]}` does not exist", param="model")
    return ModelCard(model_id, version.source, base.id, int(version.created_at.timestamp()), None, ref)


def _card(card: ModelCard) -> Card:
    return Card(
        id=card.id,
        created=card.created,
        root=card.root,
        parent=card.parent,
        max_model_len=card.max_model_len,
        permission=[Permission(created=card.created)],
    )
