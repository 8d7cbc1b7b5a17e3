"""LLM: one base model with its adapters, in this process."""

from __future__ import annotations

import itertools
import random
import weakref
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any

from loradex.arguments.arguments import as_settings
from loradex.arguments.cache_config import PeftCacheConfig
from loradex.arguments.lora_config import LoraConfig
from loradex.arguments.quant_config import QuantConfig
from loradex.core.model import ModelInfo
from loradex.core.prompt import ChatPrompt, Prompt
from loradex.errors import InvalidRequest
from loradex.llm.bar import bar
from loradex.llm.deck import Deck
from loradex.llm.event_loop import EventLoop
from loradex.llm.generation import Generation
from loradex.llm.lora_request import LoRARequest
from loradex.llm.output import RequestOutput
from loradex.llm.prompt_run import Asked, Runs
from loradex.llm.prompts import Conversation, PromptType, read_conversations, read_prompts
from loradex.llm.sampling_params import SamplingParams
from loradex.llm.wording import in_arguments
from loradex.service.memory import base_bytes, with_memory
from loradex.service.promised import check_promised
from loradex.service.service import Service
from loradex.service.views import AdapterView
from loradex.service.wiring import make_service
from loradex.settings import Settings

PATIENCE = 1e9
"""Seconds that a prompt may wait for its adapter: offline nobody waits for a reply, so that none is refused."""

Adapters = LoRARequest | str | Sequence[LoRARequest | str | None] | None
"""One adapter for all prompts, or one for each; None for the base. Text is a reference or a mix: `sql@2*0.7+code`."""


class LLM:
    """One base model in memory, any number of LoRA adapters on it, mixed in one batch.

    The calls are those of vLLM's and TensorRT-LLM's `LLM`. Safe from several threads. Ends with the process, or earlier
    by `shutdown` or as a context manager.

    Args:
        model: folder or hub id of the base model.
        enable_lora: False refuses every adapter.
        max_loras, max_lora_rank: adapters in the engine at a time, and the largest rank of one. More may wait.
        max_cpu_loras: at least `max_loras`; how much host memory adapters take is said by `peft_cache_config`.
        lora_config, peft_cache_config, quant_config: the same and more, in TensorRT-LLM's words.
        dtype: `auto`, `float32`, `bfloat16`, `float16`, their short names, or torch's.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        max_model_len: tokens of prompt and answer together.
        gpu_memory_utilization: share of a card's memory for weights, adapters, keys and values; no effect on a CPU.
        seed: for prompts whose parameters have none; then the same calls in the same order give the same answers.
        home: folder of a registry that stays, so that adapters are prepared once for all runs and its names are known;
            without it all is forgotten at the end.
        others: every setting of the engine by its name (`docs/reference/settings.md`), and what vLLM and TensorRT-LLM
            call some of them. Unknown ones are refused.

    Raises:
        ConfigInvalid, Unsupported: an argument is wrong, or the model cannot be served.
        MemoryShort: less memory is free than it needs; none was taken.
        FilesNotFound, AdapterInvalid: about an adapter in `lora_config.lora_dir`.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        enable_lora: bool | None = None,
        max_loras: int | None = None,
        max_lora_rank: int | None = None,
        max_cpu_loras: int | None = None,
        lora_config: LoraConfig | None = None,
        peft_cache_config: PeftCacheConfig | None = None,
        quant_config: QuantConfig | None = None,
        dtype: Any = None,
        device: str | None = None,
        max_model_len: int | None = None,
        gpu_memory_utilization: float | None = None,
        seed: int | None = None,
        home: str | Path | None = None,
        **others: Any,
    ) -> None:
        given: dict[str, Any] = {"max_loras": max_loras, "max_lora_rank": max_lora_rank}
        given |= {"max_cpu_loras": max_cpu_loras, "lora_config": lora_config, "quant_config": quant_config}
        given |= {"peft_cache_config": peft_cache_config, "gpu_memory_utilization": gpu_memory_utilization}
        given |= {"dtype": dtype, "device": device, "max_model_len": max_model_len}
        self._random = None if seed is None else random.Random(seed)
        self._numbers = itertools.count()
        with in_arguments(), ExitStack() as stack:
            folder = home or stack.enter_context(TemporaryDirectory(prefix="loradex-", ignore_cleanup_errors=True))
            flags = {"engine.model": str(model), "home": folder, "queue_timeout": PATIENCE}
            settings = with_memory(Settings.read(flags | as_settings(given | others, str(model))))
            service = make_service(settings)
            stack.callback(service.registry.close)
            self._loop = stack.enter_context(EventLoop())
            stack.callback(_stop, self._loop, service)
            self._loop.run(_start(service, settings))
            self._service = service
            self._settings = settings
            self._deck = Deck(service, enabled=enable_lora is not False)
            self._runs = Runs(service, self._deck)
            self._end = weakref.finalize(self, _end, self._loop, stack.pop_all())

    def generate(
        self,
        prompts: PromptType | Sequence[PromptType] | None = None,
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        use_tqdm: bool = True,
        lora_request: Adapters = None,
        *,
        priority: Sequence[int] | None = None,
        inputs: PromptType | Sequence[PromptType] | None = None,
    ) -> list[RequestOutput]:
        """Answer prompts, all in one batch whatever adapters they ask for.

        Args:
            prompts: one or more; `inputs` is TensorRT-LLM's name for them.
            sampling_params: for all, or for each.
            use_tqdm: draw a progress bar on a terminal.
            lora_request: for all, or for each.
            priority: for each; lower is served earlier.
            inputs: the same as `prompts`.

        Returns:
            One output for each prompt, in order; a list for a single prompt too.

        Raises:
            LoradexError: one of them is refused, with a hint that says the fix; then none is answered.
        """
        given = prompts if inputs is None else inputs
        if given is None:
            raise InvalidRequest("There are no prompts", hint="llm.generate(PROMPTS)", param="prompts")
        return self._run(read_prompts(given), sampling_params, use_tqdm, lora_request, priority)

    def chat(
        self,
        messages: Conversation | Sequence[Conversation],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        use_tqdm: bool = True,
        lora_request: Adapters = None,
        *,
        chat_template: str | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        chat_template_kwargs: dict[str, Any] | None = None,
    ) -> list[RequestOutput]:
        """Answer conversations, each rendered with the chat template of the base; otherwise as `generate`."""
        extra = (add_generation_prompt, continue_final_message, chat_template, chat_template_kwargs or {})
        chats: list[Prompt] = [ChatPrompt(turns, *extra) for turns in read_conversations(messages)]
        return self._run(chats, sampling_params, use_tqdm, lora_request, None)

    def generate_async(
        self,
        inputs: PromptType,
        sampling_params: SamplingParams | None = None,
        lora_request: LoRARequest | str | None = None,
        streaming: bool = False,
        *,
        priority: int = 0,
    ) -> Generation:
        """Begin one prompt and return at once; see `Generation` for how to wait for it or read it as it comes."""
        return self._begin(read_prompts([inputs]), sampling_params, lora_request, streaming, priority)

    def chat_async(
        self,
        messages: Conversation,
        sampling_params: SamplingParams | None = None,
        lora_request: LoRARequest | str | None = None,
        streaming: bool = False,
        *,
        priority: int = 0,
    ) -> Generation:
        """Begin one conversation; otherwise as `generate_async`."""
        [turns] = read_conversations([messages])
        return self._begin([ChatPrompt(turns)], sampling_params, lora_request, streaming, priority)

    @property
    def info(self) -> ModelInfo:
        """The base model."""
        return self._service.info

    def add_lora(self, lora_request: LoRARequest) -> None:
        """Register an adapter, or a new version of it, now; from then on its name alone may be asked for.

        Raises:
            LoradexError: its path leads nowhere, or to what cannot be served.
        """
        with in_arguments():
            self._loop.run(self._deck.mix(lora_request))

    def adapters(self) -> list[AdapterView]:
        """Return every adapter that is known, with the state of its versions."""
        return self._loop.run(self._service.adapters.list())

    def memory(self) -> dict[str, int]:
        """Return the bytes of `weights` and `kv_cache`, and of each resident adapter by its name and version."""
        resident = {
            f"{view.name}@{each.record.version}": each.device_bytes
            for view in self.adapters()
            for each in view.versions
            if each.resident
        }
        return {**base_bytes(self._settings), **resident}

    def shutdown(self) -> None:
        """Abort what runs, and free the model. Does nothing the second time."""
        self._end()

    def __enter__(self) -> LLM:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()

    def _begin(
        self,
        prompts: list[Prompt],
        params: SamplingParams | None,
        lora_request: LoRARequest | str | None,
        streaming: bool,
        priority: int,
    ) -> Generation:
        [asked] = self._asked(prompts, params, lora_request, [priority])
        return Generation(self._loop, self._runs, asked, streaming=streaming)

    def _run(
        self,
        prompts: list[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None,
        show: bool,
        lora_request: Adapters,
        priority: Sequence[int] | None,
    ) -> list[RequestOutput]:
        asked = self._asked(prompts, params, lora_request, priority)
        with in_arguments(), bar(len(asked), show=show) as ended:
            return self._loop.run(self._runs.all(asked, ended))

    def _asked(
        self,
        prompts: list[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None,
        lora_request: Adapters,
        priority: Sequence[int] | None,
    ) -> list[Asked]:
        """Put together what belongs to each prompt, in the order of the fields of `Asked`."""
        count = len(prompts)
        parts = (
            itertools.islice(self._numbers, count),
            prompts,
            _each("sampling_params", params if params is not None else SamplingParams(), count),
            _each("lora_request", lora_request, count),
            _each("priority", 0 if priority is None else priority, count),
            [self._random.getrandbits(62) if self._random else None for _ in prompts],
        )
        return [Asked(*each) for each in zip(*parts, strict=True)]


def _each(name: str, given: Any, count: int) -> Sequence[Any]:
    """Return one for each of `count` prompts, from one for all or a list."""
    if not isinstance(given, list | tuple):
        return [given] * count
    if len(given) != count:
        raise InvalidRequest(
            f"{name} has {len(given)} entries for {count} prompts", hint="Give one for all, or one for each", param=name
        )
    return given


async def _start(service: Service, settings: Settings) -> None:
    await service.start()
    await check_promised(service, settings.target_modules, settings.checked_adapters)


def _stop(loop: EventLoop, service: Service) -> None:
    loop.run(service.stop())


def _end(loop: EventLoop, stack: ExitStack) -> None:
    if loop.here:  # the last reference went where waiting for the loop would never end
        Thread(target=stack.close).start()
    else:
        stack.close()
