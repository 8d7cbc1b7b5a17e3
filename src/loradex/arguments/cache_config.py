"""PeftCacheConfig: how much memory TensorRT-LLM gives to adapters."""

from __future__ import annotations

from dataclasses import dataclass

from loradex.errors import ConfigInvalid


@dataclass(slots=True)
class PeftCacheConfig:
    """Memory for adapters. None leaves it to Loradex.

    On a CPU both kinds of memory are one: `host_cache_size` bounds it and, where that is None, `device_cache_percent`.

    Attributes:
        host_cache_size: bytes of adapter weights in host memory.
        device_cache_percent: share of the card's free memory for adapter weights, from 0 to 1; on a CPU, of the
            machine's memory.
        num_host_module_layer, num_device_module_layer, optimal_adapter_size, max_adapter_size, num_put_workers,
            num_ensure_workers, num_copy_streams, max_pages_per_block_host, max_pages_per_block_device,
            lora_prefetch_dir: taken for TensorRT-LLM's sake; adapters lie in no pages here, each takes what it needs.
    """

    host_cache_size: int | None = None
    device_cache_percent: float | None = None
    num_host_module_layer: int | None = None
    num_device_module_layer: int | None = None
    optimal_adapter_size: int | None = None
    max_adapter_size: int | None = None
    num_put_workers: int | None = None
    num_ensure_workers: int | None = None
    num_copy_streams: int | None = None
    max_pages_per_block_host: int | None = None
    max_pages_per_block_device: int | None = None
    lora_prefetch_dir: str | None = None

    def __post_init__(self) -> None:
        """Check what has an effect.

        Raises:
            ConfigInvalid: a value is out of range.
        """
        if self.host_cache_size is not None and self.host_cache_size < 1:
            raise ConfigInvalid(
                f"host_cache_size is {self.host_cache_size}",
                hint="Give bytes, such as 1024**3",
                param="host_cache_size",
            )
        if self.device_cache_percent is not None and not 0 < self.device_cache_percent <= 1:
            raise ConfigInvalid(
                f"device_cache_percent is {self.device_cache_percent}",
                hint="Give a share of the free memory, such as 0.1 for 10 %",
                param="device_cache_percent",
            )
