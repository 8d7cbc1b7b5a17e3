"""`GET /v1/models`: everything that `model` may name."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Depends

from loradex.core.adapter import BASE, AdapterRef, Reference
from loradex.errors import AdapterNotFound, InvalidRequest, ModelNotFound, near
from loradex.server.auth import may_infer
from loradex.server.state import TheService, refusals
from loradex.server.wire.card import Card, CardList, Permission
from loradex.service.service import Service
from loradex.service.views import ModelCard

router = APIRouter(prefix="/v1", tags=["OpenAI"], dependencies=[Depends(may_infer)])


@router.get("/models", responses=refusals(503))
async def list_models(service: TheService) -> CardList:
    """List the base model and every adapter that can answer."""
    return CardList(data=[_card(card) for card in service.models()])


@router.get("/models/{model_id:path}", responses=refusals(404, 503))
async def retrieve_model(model_id: str, service: TheService) -> Card:
    """Show one model: the base, an adapter, or one version of it (`medical@2`)."""
    cards = {card.id: card for card in service.models()}
    base = next(card for card in cards.values() if card.ref is None)
    if found := cards.get(model_id) or (base if model_id in service.base_names else None):
        return _card(found)
    try:
        reference = Reference.parse(model_id.removeprefix(f"{base.id}:").removeprefix(f"{BASE}:"))
        ref = await asyncio.to_thread(service.registry.resolve, reference, service.info.digest)
        source, created = await _origin(service, ref)
    except (AdapterNotFound, InvalidRequest) as error:
        close = ", ".join(near(model_id, cards))
        hint = f"Did you mean {close}?" if close else "See what exists with GET /v1/models"
        raise ModelNotFound(f"The model `{model_id[:200]}` does not exist", param="model", hint=hint) from error
    return _card(ModelCard(model_id, source, base.id, created, None, ref))


async def _origin(service: Service, ref: AdapterRef) -> tuple[str, int]:
    """Return where a version came from, and when, as Unix time."""
    record = await asyncio.to_thread(service.registry.get, ref.name)
    version = record.version(ref.version)
    if version is None:
        raise AdapterNotFound(f"{ref} was removed")
    return version.source, int(version.created_at.timestamp())


def _card(card: ModelCard) -> Card:
    return Card(
        id=card.id,
        created=card.created,
        root=card.root,
        parent=card.parent,
        max_model_len=card.max_model_len,
        permission=[Permission(created=card.created)],
    )
