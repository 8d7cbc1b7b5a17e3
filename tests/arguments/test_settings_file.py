"""Settings in YAML, in our words and in TensorRT-LLM's."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from loradex.errors import ConfigInvalid, LoradexError, Unsupported
from loradex.settings import Settings

OURS = """\
engine:
  max_loras: 3
  prefix_cache: false
server: {port: 8123, allow_dirs: [adapters]}
adapters: {medical: medical}
adapter_memory: 4GiB
adapter_ttl: null
"""

THEIRS = """\
lora_config:
  lora_dir:
    - loras/0
    - s3://deck/legal
  max_lora_rank: 8
  max_loras: 4
  max_cpu_loras: 8
  lora_target_modules: ['attn_q', 'mine']
  trtllm_modules_to_hf_modules: {mine: down_proj}
  swap_gate_up_proj: false
peft_cache_config:
  host_cache_size: 1073741824
  device_cache_percent: 0.1
quant_config:
  quant_algo: INT8
  kv_cache_quant_algo: FP8
max_batch_size: 7
cuda_graph_config: {enable_padding: true}
"""


def read(folder: Path, text: str, name: str = "options.yaml") -> Settings:
    (folder / name).write_text(text, encoding="utf-8")
    return Settings.read(config=folder / name, environ={})


def test_our_settings_stand_in_yaml_as_in_toml_with_the_line_as_their_source(tmp_path: Path) -> None:
    settings = read(tmp_path, OURS)
    assert (settings.engine.max_loras, settings.engine.prefix_cache, settings.server.port) == (3, False, 8123)
    assert settings.server.allow_dirs == (tmp_path / "adapters",)
    assert settings.adapters == {"medical": str(tmp_path / "medical")}
    assert (settings.adapter_memory, settings.adapter_ttl) == (4 << 30, None)
    assert settings.sources["engine.prefix_cache"] == f"{tmp_path / 'options.yaml'}, line 3"


def test_tensorrt_llms_words_become_our_settings(tmp_path: Path) -> None:
    (tmp_path / "loras").mkdir()  # else `loras/0` would be one of the Hub
    settings = read(tmp_path, THEIRS)
    engine = settings.engine
    assert (engine.max_lora_rank, engine.max_loras, engine.max_num_seqs) == (8, 4, 7)
    assert (engine.quantization, engine.kv_cache_dtype) == ("int8", "fp8")
    assert settings.checked_adapters == (str(tmp_path / "loras" / "0"), "s3://deck/legal")
    assert settings.target_modules == ("attn_q", "down_proj")
    assert (settings.adapter_host_memory, settings.adapter_memory_share) == (1 << 30, 0.1)
    assert settings.sources["engine.max_lora_rank"].endswith("options.yaml, line 5")


def test_both_may_stand_in_one_file_unless_they_contradict_each_other(tmp_path: Path) -> None:
    text = "engine: {max_loras: 4}\nlora_config: {max_loras: 4, max_lora_rank: 8}\n"
    assert read(tmp_path, text).engine.max_lora_rank == 8
    with pytest.raises(ConfigInvalid, match=r"max_loras.*4 .*line 1.*5 .*line 2"):
        read(tmp_path, text.replace("max_loras: 4, ", "max_loras: 5, "))


def test_a_flag_beats_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.yml").write_text("lora_config: {max_lora_rank: 8}\n")
    read_with = Settings.read({"engine.max_lora_rank": "32"}, tmp_path / "a.yml", {})
    assert read_with.engine.max_lora_rank == 32


@pytest.mark.parametrize(
    ("text", "error", "says", "hint"),
    [
        ("max_lorass: 1\n", ConfigInvalid, "`max_lorass` in .*options.yaml, line 1 is not", "`max_loras`"),
        ("\nengine:\n  max_lorass: 1\n", ConfigInvalid, "`max_lorass` in .*line 3, `engine`", "`max_loras`"),
        ("lora_config:\n  max_rank: 1\n", ConfigInvalid, "`max_rank` in .*line 2, `lora_config`", "`max_lora_rank`"),
        ("engine: {max_lorass: {}}\n", ConfigInvalid, "`max_lorass` in .*line 1, `engine`", "`max_loras`"),
        ("lora_configs: {}\n", ConfigInvalid, "line 1", "`lora_config`"),
        ("lora_config:\n  max_lora_rank: many\n", ConfigInvalid, "line 2: `lora_config.max_lora_rank` is 'many'", ""),
        ("lora_config: 5\n", ConfigInvalid, "line 1: `lora_config` is 5", ""),
        ("peft_cache_config:\n  host_cache_size: 0\n", ConfigInvalid, "line 2: host_cache_size is 0", "bytes"),
        ("quant_config:\n\n  quant_algo: NVFP4\n", Unsupported, "line 3: quant_algo NVFP4", "INT8"),
        ("tensor_parallel_size: 2\n", Unsupported, "line 1: tensor_parallel_size is 2", "Leave"),
        ("lora_config: {max_loras: 4}\nmax_cpu_loras: 2\n", ConfigInvalid, "line 2: max_cpu_loras is 2", "4"),
        ("engine:\n  max_loras: many\n", ConfigInvalid, "`engine.max_loras` is 'many' .*line 2", ""),
        ("engine: {max_loras: 4}\nengine: {}\n", ConfigInvalid, "`engine` is there twice in .*lines 1 and 2", ""),
        ("max_loras: [\n", ConfigInvalid, "not valid YAML.*line", ""),
        ("- max_loras\n", ConfigInvalid, "holds no settings", ""),
        ("? [a, b]\n: 1\n", ConfigInvalid, "line 1: a name is no text", ""),
    ],
)
def test_a_wrong_name_or_value_is_refused_with_its_line_and_the_near_name(
    tmp_path: Path, text: str, error: type[LoradexError], says: str, hint: str
) -> None:
    with pytest.raises(error, match=says) as refused:
        read(tmp_path, text)
    assert hint in refused.value.hint


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(st.text(alphabet="ab:{}[]-?&*!|>'\"\n #0~<", max_size=40))
def test_no_text_breaks_the_reader(tmp_path: Path, text: str) -> None:
    with contextlib.suppress(LoradexError):
        read(tmp_path, text)
