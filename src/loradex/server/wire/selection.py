"""The fields that say who answers: ours, and those of TensorRT-LLM, SGLang, LoRAX and llama.cpp."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from loradex.core.adapter import Reference
from loradex.core.mix import Mix, mix_of
from loradex.errors import InvalidRequest
from loradex.server.body import Body, Whole


class Member(Body):
    """One adapter of a mix: what it adds to the base's output counts `weight` times."""

    model_config = ConfigDict(extra="forbid")  # a misspelt weight would be 1

    name: str = Field(description="A name, also as `name@alias` or `name@3`")
    weight: float = 1.0


class LoraRequestBody(Body):
    """TensorRT-LLM's `lora_request`: an adapter by name, and where it lies. The id means nothing here."""

    model_config = ConfigDict(extra="forbid")

    lora_name: str
    lora_int_id: Annotated[Whole, Field(ge=0)] = 0
    lora_path: str = Field("", description="Under an allowed folder; empty for a name that is known")
    lora_ckpt_source: Literal["hf", "nemo"] = Field("hf", description="The files say which, whatever stands here")


class ScaledAdapter(Body):
    """llama.cpp's form of one adapter: its number in `GET /lora-adapters`, and its weight."""

    model_config = ConfigDict(extra="forbid")

    id: Annotated[Whole, Field(ge=0)]
    scale: float = 1.0


class MergedAdapters(Body):
    """LoRAX's `merged_adapters`. Only `linear` is offered, as an exact sum at run time."""

    model_config = ConfigDict(extra="forbid")

    ids: Annotated[list[str], Field(min_length=1)]
    weights: list[float] = Field([])
    merge_strategy: str | None = None
    density: float | None = None
    majority_sign_method: str | None = None


class LoraxFields(Body):
    """LoRAX's fields that say who answers."""

    adapter_id: str | None = Field(None, description="As in LoRAX: a name, or a place with `adapter_source`")
    adapter_source: str | None = Field(None, description="As in LoRAX: `hub`, `local` or `s3`")
    merged_adapters: MergedAdapters | None = Field(None, description="As in LoRAX")


class SelectionFields(LoraxFields):
    """Who answers. Null is the same as absent; at most one of the fields after `model` may be given."""

    model: str | None = Field(
        None, description="An adapter, `name@alias`, `name@3`, a mix `one*0.7+two*0.3`, or the base; empty is the base"
    )
    adapters: list[Member] | None = Field(None, description="A mix, where `model` is the base or empty")
    lora_request: LoraRequestBody | None = Field(None, description="As in TensorRT-LLM")
    lora_path: str | list[str | None] | None = Field(
        None, description="As in SGLang: the name of an adapter, or one for each prompt"
    )
    lora: list[ScaledAdapter] | None = Field(None, description="As in llama.cpp; an adapter not listed has no weight")

    def mix(self) -> Mix[Reference]:
        """Return the mix in `adapters`.

        Raises:
            InvalidRequest: a name or weight is none, or one is there twice.
        """
        try:
            return mix_of([(Reference.parse(member.name), member.weight) for member in self.adapters or ()])
        except InvalidRequest as error:
            error.param = "adapters"
            raise
