"""ModelManager on the demo model and the real engine."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, Field, ValidationError, field_validator

import loradex
from loradex import LLM, ModelManager, ModelSettings, errors, get_model_manager
from loradex.manager import manager as manager_module
from loradex.service import memory

DEMO = Path(loradex.__file__).parent / "assets" / "demo"
BASE = str(DEMO / "base")
QUESTIONS = json.loads((DEMO / "questions.json").read_text())["domains"]
NAMES = {"concept": "medical", "naming": "legal", "relationship": "technical"}
PATHS = {f"{name}_adapter_path": DEMO / "adapters" / folder for name, folder in NAMES.items()}
SMALL: dict[str, Any] = {"kv_cache_memory": 1 << 25}


def question(name: str, number: int = 0) -> tuple[str, str]:
    """A question, and what the adapter was taught to answer."""
    asked = QUESTIONS[NAMES[name]][number]
    return asked["question"], asked["expected"][NAMES[name]]


class Advice(BaseModel):
    topic: str = Field(max_length=12)
    urgent: bool


class Refused(Advice):
    @field_validator("urgent")
    @classmethod
    def _no(cls, value: bool) -> bool:
        raise ValueError("never")


@pytest.fixture(scope="module")
def ready() -> Iterator[ModelManager]:
    """A manager for many tests that change nothing."""
    made = ModelManager()
    # Exact arithmetic: how many others there are must not change the last bit either.
    asyncio.run(made.configure_models(BASE, **PATHS, schemas={"concept": Advice}, dtype="float32", **SMALL))
    yield made
    asyncio.run(made.close())


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[LLM]:
    """Every model that managers load from now on."""
    made: list[LLM] = []

    def load(*args: Any, **how: Any) -> LLM:
        made.append(LLM(*args, **how))
        return made[-1]

    monkeypatch.setattr(manager_module, "LLM", load)
    return made


def test_fifty_threads_and_fifty_tasks_get_the_answers_that_they_get_alone(ready: ModelManager) -> None:
    prompts = [question(name, i)[0] for name in NAMES for i in (0, 1)]
    turns = ["concept", "naming", "base", "relationship", "naming*0.5+concept*0.5"]

    def plan(user: int) -> list[tuple[str, str]]:
        """Two adapters in turn; neighbours ask the same under others."""
        return [(turns[(user + i) % len(turns)], prompts[(user // 5 + i) % len(prompts)]) for i in (0, 1)]

    def work(user: int) -> list[str]:
        with ready.use_model(plan(user)[0][0]) as model:
            said = []
            for adapter, prompt in plan(user):
                model.set_lora_adapter(adapter)
                said.append(model.generate_text(prompt, max_tokens=8))
                assert model.get_active_adapter() == (None if adapter == "base" else adapter)
            return said

    async def task(user: int) -> list[str]:
        async with ready.use_model(plan(user)[0][0]) as model:
            said = []
            for adapter, prompt in plan(user):
                model.set_lora_adapter(adapter)
                said.append(await model.generate_text_async(prompt, max_tokens=8))
            return said

    async def everybody() -> list[list[str]]:
        with ThreadPoolExecutor(50) as threads:
            loop = asyncio.get_running_loop()
            in_threads = [loop.run_in_executor(threads, work, user) for user in range(50)]
            return await asyncio.gather(*in_threads, *(task(user) for user in range(50, 100)))

    together = asyncio.run(everybody())
    with ready.use_model() as model:
        alone = {}
        for adapter, prompt in {asked for user in range(100) for asked in plan(user)}:
            model.set_lora_adapter(adapter)
            alone[adapter, prompt] = model.generate_text(prompt, max_tokens=8)
    assert together == [[alone[asked] for asked in plan(user)] for user in range(100)]
    for name in NAMES:  # each says what nobody else does
        prompt, expected = question(name)
        assert expected.startswith(alone[name, prompt])
        assert not any(expected.startswith(alone[other, prompt]) for other in ("base", *(NAMES.keys() - {name})))


def test_an_adapter_answers_as_it_was_taught_and_a_handle_changes_it_for_itself(ready: ModelManager) -> None:
    with ready.use_model("concept") as model, ready.use_model("base") as other:
        prompt, expected = question("concept")
        assert model.generate_text(prompt) == expected
        assert other.get_active_adapter() is None
        assert other.generate_text(prompt) != expected
        other.set_lora_adapter("naming")
        prompt, expected = question("naming")
        assert other.generate_text(prompt) == expected
        assert (model.get_active_adapter(), other.get_active_adapter()) == ("concept", "naming")
        assert model.list_adapters() == other.list_adapters() == list(NAMES) == ready.list_adapters()


async def test_text_comes_whole_or_in_pieces_from_texts_and_conversations(ready: ModelManager) -> None:
    prompt, expected = question("concept")
    async with ready.use_model("concept") as model:
        assert await model.generate_text_async([{"role": "user", "content": prompt}]) == expected
        assert "".join([piece async for piece in model.stream_text(prompt)]) == expected
        wordy = {"max_tokens": 10, "ignore_eos": True}
        raw = await model.generate_text_async("A fever is", raw=True, **wordy)
        assert raw
        assert raw != await model.generate_text_async("A fever is", **wordy)
    with ready.use_model("concept") as model:
        pieces = list(model.stream_text(prompt))
        assert len(pieces) > 3
        assert "".join(pieces) == expected
        drawn = {model.generate_text("Tell me", temperature=1.5, seed=seed, max_tokens=8) for seed in range(4)}
        assert len(drawn) > 1


async def test_data_fits_the_schema_of_the_call_of_the_adapter_or_is_any_object(ready: ModelManager) -> None:
    with ready.use_model("concept") as model:
        assert isinstance(model.generate_modeling("What is asthma?"), Advice)
        colour = model.generate_modeling("What is asthma?", {"enum": ["red", "blue"]})
        assert colour in ("red", "blue")
        with pytest.raises(ValidationError, match="never"):
            model.generate_modeling("What is asthma?", Refused)
        with pytest.raises(errors.AnswerIncomplete, match="after 4 tokens") as cut:
            model.generate_modeling("What is asthma?", max_tokens=4)
        assert cut.value.text.startswith("{")
        with pytest.raises(errors.InvalidRequest, match="bogus"):
            model.generate_modeling("What is asthma?", {"type": "bogus"})
        with pytest.raises(errors.InvalidRequest, match="max_token"):
            model.generate_text("What is asthma?", max_token=4)
    async with ready.use_model("naming") as model:
        form = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"]}
        assert (await model.generate_modeling_async("What is asthma?", form))["a"] in (1, 2)


async def test_a_cancelled_task_leaves_nothing_behind(ready: ModelManager) -> None:
    async def endless() -> None:
        async with ready.use_model("concept") as model:
            started.set()
            await model.generate_text_async("Go on", max_tokens=900, ignore_eos=True)

    started = asyncio.Event()
    task = asyncio.create_task(endless())
    await started.wait()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await ready.get_model_status())["in_use"] == 0
    assert ready._shared is not None
    llm = ready._shared.llm
    assert llm is not None
    while llm._service.engine.stats().running:
        await asyncio.sleep(0)


async def test_the_status_says_what_is_in_memory_and_how_often_it_was_used(ready: ModelManager) -> None:
    before = (await ready.get_model_status("concept"))["use_count"]
    with ready.use_model("concept") as model:
        model.generate_text("Hello", max_tokens=2)
        base = await ready.get_model_status("base")
    concept = await ready.get_model_status("concept")
    assert (base["status"], base["in_use"], base["dtype"], base["device"]) == ("loaded", 1, "float32", "cpu")
    assert base["use_count"] > 0
    assert base["load_seconds"] > 0
    taken = {part: size for part, size in base["memory"].items() if part not in ("total", "available")}
    assert taken["weights"] == pytest.approx(2 * (DEMO / "base" / "model.safetensors").stat().st_size, rel=0.02)
    assert taken["kv_cache"] == 1 << 25
    assert taken["concept@1"] == concept["memory"] > 0
    assert base["memory"]["total"] == sum(taken.values())
    assert (concept["status"], concept["version"], concept["use_count"]) == ("resident", 1, before + 1)
    assert concept["path"].endswith("adapters/medical")


async def test_a_handle_ends_with_its_block(ready: ModelManager) -> None:
    with ready.use_model() as model:
        pass
    with pytest.raises(errors.InvalidRequest, match="after its block"):
        model.generate_text("Hello")


def test_an_adapter_that_was_not_configured_is_named_with_the_fix(ready: ModelManager) -> None:
    with pytest.raises(
        errors.AdapterNotFound, match=r"^Adapter 'attribute' not loaded; configured are: concept,"
    ) as no:
        ready.use_model("attribute")
    assert 'attribute_adapter_path="' in no.value.hint
    with ready.use_model("concept") as model:
        with pytest.raises(errors.AdapterNotFound, match="Adapter 'attribute' not loaded"):
            model.set_lora_adapter("concept*0.5+attribute")
        assert model.get_active_adapter() == "concept"


async def test_the_first_users_load_it_once_and_an_idle_one_is_unloaded(loads: list[LLM]) -> None:
    manager = ModelManager()
    await manager.configure_models(BASE, **PATHS, auto_unload=True, unload_after=0.0, **SMALL)
    assert (await manager.get_model_status())["status"] == "not_loaded"
    assert (await manager.get_model_status("concept"))["status"] == "not_loaded"
    prompt, expected = question("concept")
    entered = asyncio.Barrier(4)

    async def first() -> str:
        async with manager.use_model("concept") as model:
            await entered.wait()
            return await model.generate_text_async(prompt)

    assert await asyncio.gather(*(first() for _ in range(4))) == [expected] * 4
    assert len(loads) == 1
    assert manager._shared is not None
    timer = manager._shared._timer
    assert timer is not None
    await asyncio.to_thread(timer.join)
    assert (await manager.get_model_status())["status"] == "not_loaded"
    with manager.use_model("naming") as model:  # what was registered is known to the next model too
        assert model.generate_text(question("naming")[0]) == question("naming")[1]
        assert not await manager.unload()
    assert len(loads) == 2
    await manager.close()
    with pytest.raises(errors.ConfigInvalid, match="No model is configured"):
        manager.use_model("concept")


async def test_adapters_come_go_and_change_while_the_model_runs(loads: list[LLM], tmp_path: Path) -> None:
    manager = ModelManager(tmp_path / "home")
    await manager.configure_models(BASE, concept_adapter_path=PATHS["concept_adapter_path"], preload=True, **SMALL)
    prompt, old = question("concept")
    new = QUESTIONS["medical"][0]["expected"]["medical-v2"]
    with manager.use_model("concept") as model:
        assert model.generate_text(prompt) == old
        shutil.copytree(DEMO / "adapters" / "medical-v2", tmp_path / "run")
        await manager.add_adapter("concept", tmp_path / "run", Advice)
        assert model.generate_text(prompt) == new
        assert (await manager.get_model_status("concept"))["version"] == 2
        # Training wrote into the same folder again.
        shutil.copytree(DEMO / "adapters" / "medical", tmp_path / "run", dirs_exist_ok=True)
        await manager.add_adapter("concept", tmp_path / "run")
        assert model.generate_text(prompt) == old
        await manager.add_adapter("naming", PATHS["naming_adapter_path"])
        assert model.list_adapters() == ["concept", "naming"]
        await manager.remove_adapter("concept")
        assert manager.list_adapters() == ["naming"]
        with pytest.raises(errors.AdapterNotFound):
            manager.use_model("concept")
        await manager.configure_models(BASE, **PATHS, **SMALL)
        assert sorted(model.list_adapters()) == sorted(NAMES)
        assert len(loads) == 1
        # Another way to run it: who has the old one keeps it.
        await manager.configure_models(BASE, **PATHS, **SMALL, max_model_len=128)
        assert model.generate_text(prompt, max_tokens=4)
        async with manager.use_model("concept") as other:
            assert await other.generate_text_async(prompt) == old
        assert [llm.info.max_model_len for llm in loads] == [1024, 128]
    await manager.close()


async def test_a_failed_load_is_told_to_all_who_wait_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    manager = ModelManager()
    await manager.configure_models(BASE, **PATHS, **SMALL)
    # Others took the memory between the configuration and the first use.
    with monkeypatch.context() as patch:
        patch.setattr("loradex.engine.local.engine.free_memory", lambda device: 1 << 24)
        uses = [manager.load() for _ in range(3)]
        told = await asyncio.gather(*uses, return_exceptions=True)
    assert [type(each) for each in told] == [errors.MemoryShort] * 3
    assert (await manager.get_model_status())["in_use"] == 0
    await manager.load()
    assert (await manager.get_model_status())["status"] == "loaded"
    await manager.close()


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"base_model_path": None}, errors.ConfigInvalid, "base_model_path="),
        ({"base_model_path": "/no/such/model"}, errors.ConfigInvalid, "/no/such/model"),
        ({"concept_adapter_path": "/wrong/path"}, errors.FilesNotFound, "`concept_adapter_path`"),
        ({"max_lora_rank": 4}, errors.AdapterInvalid, "max_lora_rank="),
        ({"base_adapter_path": "/x"}, errors.ConfigInvalid, "another name"),
        ({"adapters": {"a b": "/x"}}, errors.InvalidRequest, "a b"),
        ({"schemas": {"attribute": Advice}}, errors.AdapterNotFound, "Adapter 'attribute' not loaded"),
        ({"gpu_memory_utilisation": 0.7}, errors.ConfigInvalid, "Did you mean `gpu_memory_utilization`"),
        ({"concept_adapter_pth": "/x"}, errors.ConfigInvalid, "Did you mean `concept_adapter_path`"),
        ({"gpu_memory_utilization": 7.0}, errors.ConfigInvalid, "such as 0.9"),
        ({"tensor_parallel_size": 2}, errors.Unsupported, "tensor_parallel_size"),
        ({"settings": 5}, errors.ConfigInvalid, "ModelSettings"),
    ],
)
async def test_a_mistake_is_told_with_its_fix_before_anything_is_loaded_or_changed(
    loads: list[LLM], given: dict[str, Any], error: type[errors.LoradexError], said: str
) -> None:
    manager = ModelManager()
    with pytest.raises(error) as refused:
        await manager.configure_models(**{"base_model_path": BASE, **PATHS, **SMALL, "preload": True, **given})
    assert said in f"{refused.value} {refused.value.hint}"
    assert "--" not in f"{refused.value} {refused.value.hint}"
    assert loads == []
    assert manager.list_adapters() == []


async def test_too_little_memory_is_told_when_it_is_configured(
    loads: list[LLM], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda settings: 1 << 24)
    with pytest.raises(errors.MemoryShort, match=r"^Free memory \(0\.02 GiB\) < wanted \(0\.04 GiB\)") as short:
        await ModelManager().configure_models(BASE, **PATHS, preload=True, **SMALL)
    assert 'Lower `kv_cache_memory="' in short.value.hint
    assert loads == []


async def test_settings_come_from_the_environment_and_from_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text(
        f"BASE_MODEL_PATH={BASE}\nCONCEPT_ADAPTER_PATH={PATHS['concept_adapter_path']}\n"
        f"NAMING_ADAPTER_PATH=/overridden\nATTRIBUTE_ADAPTER_PATH=\nDATABASE_URL=sqlite://\n"
    )
    monkeypatch.setenv("NAMING_ADAPTER_PATH", str(PATHS["naming_adapter_path"]))
    monkeypatch.setenv("AUTO_UNLOAD", "true")

    class Settings(ModelSettings):
        RELATIONSHIP_ADAPTER_PATH: str = str(PATHS["relationship_adapter_path"])
        DATABASE_URL: str = ""

    manager = ModelManager()
    await manager.configure_models(settings=Settings(), unload_after=5, **SMALL)
    assert sorted(manager.list_adapters()) == sorted(NAMES)
    status = await manager.get_model_status()
    assert (status["base_model_path"], status["auto_unload"], status["unload_after"]) == (BASE, True, 5)
    await manager.configure_models(settings={"base_model_path": BASE, "Concept_Adapter_Path": None}, **SMALL)
    assert manager.list_adapters() == []


def test_there_is_one_manager_of_a_process() -> None:
    with ThreadPoolExecutor(8) as threads:
        assert len({id(each) for each in threads.map(lambda _: get_model_manager(), range(8))}) == 1
