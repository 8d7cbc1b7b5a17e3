"""LoRARequest: which adapter answers a prompt, in the words of vLLM and TensorRT-LLM."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import get_args

from loradex.arguments.lora_config import CheckpointSource
from loradex.core.adapter import check_name
from loradex.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class LoRARequest:
    """An adapter by name, with the place where its files lie.

    Attributes:
        lora_name: what it is called. The same name with another path is a new version of it.
        lora_int_id: 0 or more. It means nothing here: two adapters may have the same one.
        lora_path: folder, file, archive or address (`hf://`, `s3://`, `https://` ...); empty for a name that is known.
        lora_ckpt_source: `hf` or `nemo`, as in TensorRT-LLM. The format is recognised by the files, whatever it says.
        base_model_name: taken for vLLM's sake. Whether an adapter fits is found out from its tensors.
        load_inplace: read the path again although nothing there seems to have changed.
    """

    lora_name: str
    lora_int_id: int = 0
    lora_path: str = ""
    lora_ckpt_source: CheckpointSource = field(default="hf", compare=False)
    base_model_name: str | None = field(default=None, compare=False)
    load_inplace: bool = field(default=False, compare=False)

    def __post_init__(self) -> None:
        """Check name, id and source.

        Raises:
            InvalidRequest: one of them is none.
        """
        check_name(self.lora_name)
        object.__setattr__(self, "lora_path", str(self.lora_path or ""))
        if isinstance(self.lora_int_id, bool) or not isinstance(self.lora_int_id, int) or self.lora_int_id < 0:
            raise InvalidRequest(
                f"lora_int_id is {self.lora_int_id!r}", hint="Give 0 or a greater whole number", param="lora_int_id"
            )
        if self.lora_ckpt_source not in get_args(CheckpointSource):
            raise InvalidRequest(
                f"lora_ckpt_source is {self.lora_ckpt_source!r}",
                hint="Give `hf` or `nemo`; other formats are recognised by their files",
                param="lora_ckpt_source",
            )

    @property
    def name(self) -> str:
        """`lora_name`."""
        return self.lora_name

    @property
    def adapter_id(self) -> int:
        """`lora_int_id`."""
        return self.lora_int_id

    @property
    def path(self) -> str:
        """`lora_path`."""
        return self.lora_path
