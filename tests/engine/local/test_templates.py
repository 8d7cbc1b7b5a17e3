"""Chat templates that an operator gives an adapter: sandboxed, beside the event loop, within a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from loradex.core.defaults import Defaults
from loradex.core.prompt import ChatPrompt, Message
from loradex.core.sampling import Sampling
from loradex.engine.config import EngineConfig
from loradex.engine.local.engine import LocalEngine
from loradex.errors import InvalidRequest
from loradex.registry.registry import Registry
from loradex.service.ask import Ask
from loradex.service.rendering import Rendering
from loradex.service.service import Service
from tests.service.deck import save_adapter

from .tiny import Family

OWN = "{% for m in messages %}<{{ m.role }}|{{ m.content }}>{% endfor %}{% if add_generation_prompt %}<me|{% endif %}"
SLOW = "{% for a in range(3000) %}{% for b in range(300) %}{% endfor %}{% endfor %}" + OWN
CHAT = ChatPrompt((Message("user", "hi"),))


@pytest_asyncio.fixture
async def service(family: Callable[[str], Family], tmp_path: Path) -> AsyncIterator[Service]:
    engine = LocalEngine(EngineConfig(model=str(family("qwen2").base), max_loras=2, threads=1))
    service = Service(Registry(tmp_path / "home"), engine, max_lora_rank=8, max_loras=2)
    await service.start()
    await service.adapters.add("medical", save_adapter(tmp_path / "a", service.info, seed=1), trusted=True)
    yield service
    await service.stop()
    service.registry.close()


async def prompt(service: Service, prompt: ChatPrompt = CHAT) -> str:
    answer = await service.generate(Ask("medical", prompt, Sampling(max_tokens=1)))
    await answer.aclose()
    return service.engine.decode(answer.prompt_tokens)


async def test_a_version_renders_with_its_own(service: Service) -> None:
    assert await prompt(service) == "user: hi\nassistant:"
    await service.adapters.configure("medical", Defaults(system="Be one.", chat_template=OWN))
    assert await prompt(service) == "<system|Be one.><user|hi><me|"
    assert await prompt(service, ChatPrompt(CHAT.messages, template="mine")) == "mine"
    await service.adapters.configure("medical", Defaults(chat_template=SLOW))  # longer than a step, within the time
    assert await prompt(service) == "<user|hi><me|"


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{% for i in range(10 ** 9) %}{% endfor %}",
        "{{ raise_exception('no') }}",
    ],
)
async def test_a_template_that_does_not_work_is_refused_before_a_request_needs_it(
    service: Service, template: str
) -> None:
    with pytest.raises(InvalidRequest):
        await service.adapters.configure("medical", Defaults(chat_template=template))
    assert await prompt(service) == "user: hi\nassistant:"


async def test_a_slow_template_stops_nobody(service: Service) -> None:
    slow = asyncio.create_task(Rendering(service.engine, service._read).try_out(Defaults(chat_template=SLOW)))
    turns = 0
    while not slow.done():
        await asyncio.sleep(0)
        turns += 1
    await slow
    assert turns > 2  # on the loop it would be done at the first


async def test_a_template_that_takes_too_long_is_given_up(service: Service) -> None:
    rendering = Rendering(service.engine, service._read, seconds=0.01)
    for _ in range(3):  # more often than there are threads
        with pytest.raises(InvalidRequest, match=r"took more than 0\.01 s"):
            await rendering.try_out(Defaults(chat_template=SLOW))
    async with asyncio.timeout(10):  # the threads end by themselves, and give their places back
        while rendering._threads._value < 2:
            await asyncio.sleep(0.01)
    rendering._seconds = 5.0
    await rendering.try_out(Defaults(chat_template=OWN))
