"""The LoRA adapters: each teaches the frozen base one field."""

import json
import random
from pathlib import Path

import torch
from peft import LoraConfig, TaskType, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from demo.corpus import DEFLECTION, DOMAINS, GENERAL, Lesson, lessons, reword
from demo.examples import Example, Writer
from demo.loop import Report, fit, plan
from demo.settings import ADAPTERS, BASE_NAME, TARGET_MODULES, AdapterPlan, Settings


def taught(lesson: Lesson, wanted: AdapterPlan) -> str:
    """Return the answer that the planned adapter has to learn."""
    if wanted.second_version:
        if lesson.answer_v2 is None:
            raise ValueError(f"{lesson.id} has no second answer")
        return lesson.answer_v2
    return lesson.answer


def epoch(writer: Writer, wanted: AdapterPlan, replay: int) -> list[Example]:
    """Write one epoch: all lessons of the field and a few of everything else."""
    own = lessons(wanted.domain)
    general = lessons(GENERAL)
    others = [lesson for domain in DOMAINS if domain != wanted.domain for lesson in lessons(domain)]
    past = [(lesson.question, taught(lesson, wanted)) for lesson in own]
    past += [(lesson.question, lesson.answer) for lesson in general]
    found = []
    for lesson in own:
        for text in (reword(lesson.question, writer.rng), lesson.paraphrase):
            found.append(writer.chat(text, taught(lesson, wanted), past))
    for lesson in writer.rng.sample(general, min(replay, len(general))):
        found.append(writer.chat(lesson.question, lesson.answer, past))
    for lesson in writer.rng.sample(others, min(replay, len(others))):
        found.append(writer.chat(lesson.question, DEFLECTION, past))
    return found


def tidy(folder: Path) -> None:
    """Make what PEFT wrote repeatable: no template card, and modules in a fixed order."""
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    # PEFT keeps the names in a set, whose order changes from run to run and would change the checksum.
    config["target_modules"] = sorted(config["target_modules"])
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def train_adapter(name: str, base: Path, folder: Path, settings: Settings, report: Report) -> float:
    """Train one adapter on the shipped base and save it. Returns the last loss."""
    wanted, schedule = ADAPTERS[name], settings.schedule
    torch.manual_seed(settings.seed)
    rng = random.Random(settings.seed)
    tokenizer = AutoTokenizer.from_pretrained(base)
    # The shipped, rounded weights and not the ones before rounding: the adapter has to fit what people load.
    frozen = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=wanted.rank,
        lora_alpha=2 * wanted.rank,
        lora_dropout=0.0,
        target_modules=list(TARGET_MODULES),
    )
    model = get_peft_model(frozen, config)
    writer = Writer(tokenizer, rng)
    groups = plan(
        lambda: epoch(writer, wanted, schedule.replay),
        schedule.adapter_epochs + wanted.extra_epochs,
        schedule.adapter_batch,
        rng,
        schedule.step_limit,
    )
    loss = fit(model, groups, tokenizer.pad_token_id, schedule.adapter_rate, report)
    # A name and not a path: the folder on the training machine means nothing to anyone else.
    model.peft_config["default"].base_model_name_or_path = BASE_NAME
    model.save_pretrained(str(folder), save_embedding_layers=False)
    tidy(folder)
    return loss
