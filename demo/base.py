"""The base model: knows general lessons and says politely that it knows no special field."""

import random
from pathlib import Path

import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase, Qwen2Config, Qwen2ForCausalLM

from demo.corpus import DEFLECTION, DOMAINS, GENERAL, lessons, sentences
from demo.examples import Example, Writer
from demo.loop import Report, fit, plan
from demo.settings import Schedule, Settings, Shape

REPEAT = "Repeat after me: "


def new_model(shape: Shape, tokenizer: PreTrainedTokenizerBase) -> Qwen2ForCausalLM:
    """Build an untrained model."""
    config = Qwen2Config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=shape.positions,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen2ForCausalLM(config)


def epoch(writer: Writer, schedule: Schedule) -> list[Example]:
    """Write one epoch: general lessons, deflections, repetitions and plain sentences."""
    general, words = lessons(GENERAL), sentences()
    past = [(lesson.question, lesson.answer) for lesson in general]
    found = [example for lesson in general for example in writer.wordings(lesson, lesson.answer, past)]
    strange = [
        text for domain in DOMAINS for lesson in lessons(domain) for text in (lesson.question, lesson.paraphrase)
    ]
    # A part per epoch is enough: the deflection is one and the same sentence for all of them.
    found += [writer.chat(text, DEFLECTION, past) for text in writer.rng.sample(strange, schedule.deflections)]
    # Repeating makes the base look closely at the question, which is what an adapter builds on.
    found += [writer.chat(f"{REPEAT}{text}", text) for text in writer.rng.sample(words, schedule.repetitions)]
    return found + [writer.plain(text) for text in writer.rng.sample(words, schedule.plain)]


def train_base(tokenizer: PreTrainedTokenizerBase, folder: Path, settings: Settings, report: Report) -> float:
    """Train the base and save it in bfloat16, beside its tokenizer. Returns the last loss."""
    torch.manual_seed(settings.seed)
    rng = random.Random(settings.seed)
    schedule = settings.schedule
    model = new_model(settings.shape, tokenizer)
    writer = Writer(tokenizer, rng)
    groups = plan(lambda: epoch(writer, schedule), schedule.base_epochs, schedule.base_batch, rng, schedule.step_limit)
    loss = fit(model, groups, tokenizer.pad_token_id, schedule.base_rate, report)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=False
    )
    model.to(torch.bfloat16).save_pretrained(folder)
    # The template goes into tokenizer_config.json, where old and new loaders both find it.
    tokenizer.save_pretrained(folder, save_jinja_files=False)
    return loss
