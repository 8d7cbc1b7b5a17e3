"""NeMo's own arithmetic, rank by rank as Megatron does it, against the pairs that are read."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from loradex.adapters.formats.detect import ForeignFiles, find_adapter
from loradex.adapters.formats.lora import Lora, Pair
from loradex.adapters.formats.mapped import Mapped
from loradex.adapters.formats.nemo import read_nemo
from loradex.adapters.formats.nemo_writer import write_nemo
from loradex.adapters.formats.tar_file import read_tar
from loradex.adapters.formats.tensor import narrowed
from loradex.adapters.formats.torch_file import TorchFile, write_torch_file
from loradex.core.model import LinearShape, ModelInfo
from loradex.errors import AdapterInvalid

HIDDEN, HEADS, GROUPS, SIZE, INNER, RANK, LAYERS = 24, 6, 2, 4, 20, 4, 4
QKV = (HEADS + 2 * GROUPS) * SIZE
X = np.random.default_rng(9).normal(size=(3, HIDDEN))
INNER_X = np.random.default_rng(8).normal(size=(3, INNER))

CONFIG: dict[str, Any] = {
    "hidden_size": HIDDEN,
    "num_attention_heads": HEADS,
    "num_query_groups": GROUPS,
    "kv_channels": SIZE,
    "ffn_hidden_size": INNER,
    "num_layers": LAYERS,
    "peft": {"peft_scheme": "lora", "lora_tuning": {"adapter_dim": RANK, "alpha": 6, "variant": "nemo"}},
}
SHAPES = {
    "self_attention.adapter_layer.lora_kqv_adapter": (HIDDEN, QKV),
    "self_attention.adapter_layer.lora_dense_attention_adapter": (HEADS * SIZE, HIDDEN),
    "mlp.adapter_layer.lora_hto4h_adapter": (HIDDEN, 2 * INNER),
    "mlp.adapter_layer.lora_4htoh_adapter": (INNER, HIDDEN),
}
ROW = ("lora_dense_attention_adapter", "lora_4htoh_adapter")
Shards = dict[str, dict[str, np.ndarray]]


def make_shards(tensor_ranks: int = 1, pipes: int = 1) -> Shards:
    """Checkpoints of each rank, with the shapes that Megatron's parallel linears have."""
    random = np.random.default_rng(0)
    shards: Shards = {}
    for pipe in range(pipes):
        for rank in range(tensor_ranks):
            held = {}
            for layer in range(LAYERS // pipes):
                for name, (inputs, outputs) in SHAPES.items():
                    row = name.endswith(ROW)
                    a = (RANK, inputs // tensor_ranks) if row else (RANK // tensor_ranks, inputs)
                    stem = f"model.decoder.layers.{layer}.{name}"
                    held[f"{stem}.linear_in.weight"] = random.normal(size=a)
                    held[f"{stem}.linear_out.weight"] = random.normal(size=(outputs // tensor_ranks, RANK))
            name = f"tp_rank_{rank:02d}_pp_rank_{pipe:03d}/" if pipes > 1 else f"mp_rank_{rank:02d}/"
            shards[f"{name if tensor_ranks * pipes > 1 else ''}model_weights.ckpt"] = held
    return shards


def save(folder: Path, shards: Shards, config: Mapping[str, Any] = CONFIG) -> Path:
    for name, tensors in shards.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_torch_file(folder / name, {key: narrowed(value, "F64") for key, value in tensors.items()})
    (folder / "model_config.yaml").write_text(yaml.safe_dump(dict(config)))
    return folder


def pack(folder: Path, path: Path) -> Path:
    with tarfile.open(path, "w:") as archive:
        archive.add(folder, arcname=".")
    return path


def read(path: Path) -> Lora:
    found = find_adapter(path)
    assert isinstance(found, ForeignFiles)
    assert found.format == "nemo"
    return read_nemo(path, found.parts)


def megatron(ranks: list[dict[str, np.ndarray]], stem: str, x: np.ndarray) -> list[np.ndarray]:
    """What each rank adds to its part of the base's output, as `ParallelLinearAdapter.forward` computes it."""
    ins = [rank[f"{stem}.linear_in.weight"] for rank in ranks]
    outs = [rank[f"{stem}.linear_out.weight"] for rank in ranks]
    if stem.endswith(ROW):  # each rank has its part of the input; the sum goes to all, the outputs are gathered
        parts = np.split(x, len(ranks), axis=1)
        inner = sum(part @ a.T for part, a in zip(parts, ins, strict=True))
        return [np.concatenate([inner @ b.T for b in outs], axis=1) * 6 / RANK]
    inner = np.concatenate([x @ a.T for a in ins], axis=1)  # gathered
    return [inner @ b.T * 6 / RANK for b in outs]


def expected(ranks: list[dict[str, np.ndarray]], layer: int) -> dict[str, np.ndarray]:
    """What every linear of transformers gets, as Megatron's attention and MLP take the fused outputs apart."""
    prefix = f"model.decoder.layers.{layer}."
    found: dict[str, list[np.ndarray]] = {}
    for mixed in megatron(ranks, prefix + "self_attention.adapter_layer.lora_kqv_adapter", X):
        groups = mixed.reshape(len(X), GROUPS // len(ranks), (HEADS // GROUPS + 2) * SIZE)
        cut = np.split(groups, [HEADS // GROUPS * SIZE, HEADS // GROUPS * SIZE + SIZE], axis=2)
        for name, part in zip(("q", "k", "v"), cut, strict=True):
            found.setdefault(f"self_attn.{name}_proj", []).append(part.reshape(len(X), -1))
    for both in megatron(ranks, prefix + "mlp.adapter_layer.lora_hto4h_adapter", X):
        for name, part in zip(("gate", "up"), np.split(both, 2, axis=1), strict=True):
            found.setdefault(f"mlp.{name}_proj", []).append(part)
    found["self_attn.o_proj"] = megatron(
        ranks, prefix + "self_attention.adapter_layer.lora_dense_attention_adapter", X[:, : HEADS * SIZE]
    )
    found["mlp.down_proj"] = megatron(ranks, prefix + "mlp.adapter_layer.lora_4htoh_adapter", INNER_X)
    return {name: np.concatenate(parts, axis=1) for name, parts in found.items()}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("tensor_ranks", "pipes"), [(1, 1), (2, 1), (1, 2), (2, 4)])
def test_every_linear_gets_what_megatron_adds(tmp_path: Path, tensor_ranks: int, pipes: int, packed: bool) -> None:
    shards = make_shards(tensor_ranks, pipes)
    folder = save(tmp_path / "folder", shards)
    lora = read(pack(folder, tmp_path / "a.nemo") if packed else folder)
    files = list(shards.values())
    for layer in range(LAYERS):
        pipe, local = divmod(layer, LAYERS // pipes)
        ranks = files[pipe * tensor_ranks : (pipe + 1) * tensor_ranks]
        for part, wanted in expected(ranks, local).items():
            pair = lora.pairs[f"model.layers.{layer}.{part}"]
            x = INNER_X if part == "mlp.down_proj" else X
            got = pair.scaling * x @ pair.a.widened().T @ pair.b.widened().T
            np.testing.assert_allclose(got, wanted, rtol=1e-10)
    assert len(lora.pairs) == LAYERS * 7


@pytest.mark.parametrize(
    ("prefix", "names"),
    [
        ("model.language_model.encoder.", ["self_attention.adapter_layer.lora_unfused_kqv_adapter.{}_adapter"]),
        ("model.module.decoder.", ["self_attention.linear_qkv.adapter.adapter_{}"]),
        ("model.", ["self_attention.linear_qkv.adapter.adapter_{}"]),
    ],
)
def test_canonical_adapters_have_a_pair_for_each(tmp_path: Path, prefix: str, names: list[str]) -> None:
    random = np.random.default_rng(0)
    held = {}
    for letter, rows in (("q", HEADS * SIZE), ("k", GROUPS * SIZE), ("v", GROUPS * SIZE)):
        stem = f"{prefix}layers.1.{names[0].format(letter)}"
        held[f"{stem}.linear_in.weight"] = random.normal(size=(RANK, HIDDEN))
        held[f"{stem}.linear_out.weight"] = random.normal(size=(rows, RANK))
    lora = read(save(tmp_path, {"model_weights.ckpt": held}))
    assert sorted(lora.pairs) == [f"model.layers.1.self_attn.{letter}_proj" for letter in "kqv"]
    values = list(held.values())
    assert np.array_equal(lora.pairs["model.layers.1.self_attn.k_proj"].b.values, values[3])


def changed(**changes: Any) -> dict[str, Any]:
    tuning = {**CONFIG["peft"]["lora_tuning"], **changes.pop("tuning", {})}
    return {**CONFIG, "peft": {"peft_scheme": changes.pop("scheme", "lora"), "lora_tuning": tuning}, **changes}


def test_without_alpha_the_scaling_is_one(tmp_path: Path) -> None:
    for alpha in (None, "absent"):
        config = changed(tuning={"alpha": alpha})
        if alpha:
            del config["peft"]["lora_tuning"]["alpha"]
        lora = read(save(tmp_path / str(alpha), make_shards(), config))
        assert {pair.scaling for pair in lora.pairs.values()} == {1.0}


def test_without_a_gate_the_first_linear_goes_up(tmp_path: Path) -> None:
    config = {key: value for key, value in changed(activation="gelu").items() if key != "ffn_hidden_size"}
    lora = read(save(tmp_path, make_shards(), config))
    assert lora.pairs["model.layers.0.mlp.up_proj"].b.shape == (2 * INNER, RANK)
    assert "model.layers.0.mlp.gate_proj" not in lora.pairs


def without(shards: Shards, part: str) -> Shards:
    return {
        name: {key: value for key, value in held.items() if part not in key}
        for name, held in shards.items()
        if part not in name
    }


FUSED = "model.decoder.layers.0.self_attention.adapter_layer.lora_kqv_adapter"


@pytest.mark.parametrize(
    ("shards", "config", "code"),
    [
        (make_shards(), changed(scheme="ia3"), "unsupported_type"),
        (make_shards(), changed(tuning={"weight_tying": True}), "unsupported_option"),
        (make_shards(), changed(virtual_pipeline_model_parallel_size=2), "unsupported_option"),
        (make_shards(), changed(tuning={"adapter_dim": 8}), "rank_mismatch"),
        (make_shards(), changed(tuning={"adapter_dim": None}), "bad_config"),
        (make_shards(), changed(tuning={"alpha": float("nan")}), "bad_config"),
        (make_shards(), changed(num_query_groups=3), "shape_mismatch"),
        (make_shards(), changed(num_attention_heads=None), "shape_mismatch"),
        (make_shards(2), {}, "bad_config"),
        (without(make_shards(2), "mp_rank_00"), CONFIG, "truncated"),
        (without(make_shards(2, 2), "tp_rank_01_pp_rank_001"), CONFIG, "truncated"),
        (make_shards(1, 2), changed(num_layers=3), "bad_config"),
        (without(make_shards(), f"{FUSED}.linear_in"), CONFIG, "missing_half"),
        (without(make_shards(), f"{FUSED}.linear_out"), CONFIG, "missing_half"),
        (
            {"model_weights.ckpt": {"model.decoder.layers.0.mlp.ia3.weight": np.ones((2, 2))}},
            CONFIG,
            "unsupported_tensors",
        ),
        (
            {"model_weights.ckpt": {f"{FUSED}.linear_in.weight": np.ones(4)}},
            CONFIG,
            "unsupported_tensors",
        ),
    ],
)
def test_what_cannot_be_read_right_is_refused_by_name(
    tmp_path: Path, shards: Shards, config: dict[str, Any], code: str
) -> None:
    with pytest.raises(AdapterInvalid) as refused:
        read(save(tmp_path, shards, config))
    assert [problem.code for problem in refused.value.problems] == [code]


def test_a_shard_that_lacks_a_tensor_is_refused(tmp_path: Path) -> None:
    shards = make_shards(2)
    del shards["mp_rank_01/model_weights.ckpt"][f"{FUSED}.linear_out.weight"]
    with pytest.raises(AdapterInvalid, match="lacks shards"):
        read(save(tmp_path, shards))


def archive(path: Path, *members: tarfile.TarInfo, mode: str = "w:") -> Path:
    with tarfile.open(path, mode) as opened:  # type: ignore[call-overload]
        for member in members:
            opened.addfile(member, io.BytesIO(bytes(member.size)) if member.isreg() else None)
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0, **more: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    for key, value in more.items():
        setattr(info, key, value)
    return info


@pytest.mark.parametrize(
    ("members", "mode", "says"),
    [
        ([member("../model_config.yaml")], "w:", "leads outside"),
        ([member("/etc/model_config.yaml")], "w:", "leads outside"),
        ([member("a/../../b")], "w:", "leads outside"),
        ([member("model_config.yaml", tarfile.SYMTYPE, linkname="/etc/passwd")], "w:", "is no plain file"),
        ([member("model_config.yaml", tarfile.LNKTYPE, linkname="x")], "w:", "is no plain file"),
        ([member("x", tarfile.FIFOTYPE)], "w:", "is no plain file"),
        ([member("a"), member("./a")], "w:", "comes twice"),
        ([member(str(i)) for i in range(4200)], "w:", "more than 4096"),
        ([member("a")], "w:gz", "is compressed"),
        ([member("model_config.yaml", size=1 << 19)], "w:", "a configuration of 524288 bytes"),
        ([member("model_weights.ckpt")], "w:", "holds no `model_config.yaml`"),
    ],
)
def test_archives_that_reach_out_or_grow_are_refused(
    tmp_path: Path, members: list[tarfile.TarInfo], mode: str, says: str
) -> None:
    with pytest.raises(AdapterInvalid, match=says):
        read(archive(tmp_path / "a.nemo", *members, mode=mode))
    assert [path.name for path in tmp_path.iterdir()] == ["a.nemo"]


def test_a_sparse_member_and_a_cut_archive_are_refused(tmp_path: Path) -> None:
    whole = pack(save(tmp_path / "folder", make_shards()), tmp_path / "a.nemo").read_bytes()
    for content in (whole[:700], whole[:2000], bytes(1024), b"x" * 600):
        (tmp_path / "b.nemo").write_bytes(content)
        with pytest.raises(AdapterInvalid):
            read(tmp_path / "b.nemo")
    sparse = member("model_weights.ckpt", pax_headers={"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}, size=512)
    with pytest.raises(AdapterInvalid):
        read(archive(tmp_path / "a.nemo", sparse))


BOMB = "a: &a {x: 1}\n" + "".join(f"b{i}: &b{i} {{<<: [*b{i - 1}, *b{i - 1}]}}\n" for i in range(1, 40)).replace(
    "*b0", "*a"
)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("!!python/object/apply:os.system ['touch ran']", "no table"),
        ("x: !!python/name:os.system", "adapter_dim"),
        (BOMB, "merge keys"),
        ("[" * 5000, "no YAML"),
        ("{", "no YAML"),
        ("- 1", "no table"),
        ("\0", "no YAML"),
        ("a: 2001-99-99", "no YAML"),
        ("? {}\n: 1", "no YAML"),
    ],
)
def test_a_configuration_runs_nothing_and_does_not_grow(
    tmp_path: Path, text: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = save(tmp_path / "folder", make_shards())
    (folder / "model_config.yaml").write_text(text)
    with pytest.raises(AdapterInvalid, match=says):
        read(folder)
    assert not (tmp_path / "ran").exists()


def make_base(architecture: str = "LlamaForCausalLM", fused: bool = False) -> ModelInfo:
    rows = {"q": HEADS * SIZE, "k": GROUPS * SIZE, "v": GROUPS * SIZE}
    shapes = {f"self_attn.{name}_proj": LinearShape(HIDDEN, out) for name, out in rows.items()}
    shapes |= {"self_attn.o_proj": LinearShape(HEADS * SIZE, HIDDEN), "mlp.down_proj": LinearShape(INNER, HIDDEN)}
    shapes |= {f"mlp.{name}_proj": LinearShape(HIDDEN, INNER) for name in (() if fused else ("gate", "up"))}
    linears = {f"model.layers.{layer}.{name}": shape for layer in range(2) for name, shape in shapes.items()}
    return ModelInfo("b", "b", architecture, "float32", "cpu", 9, 9, linears, "", False, SIZE)


def make_lora(*modules: str, rank: int = RANK, alpha: float = 6.0, **options: Any) -> Lora:
    random = np.random.default_rng(0)
    base, pairs = make_base(), {}
    for module in modules or ("model.layers.1.self_attn.q_proj", "model.layers.0.mlp.down_proj"):
        shape = base.linears.get(module, LinearShape(8, 8))
        a, b = random.normal(size=(rank, shape.in_features)), random.normal(size=(shape.out_features, rank))
        pairs[module] = Pair(narrowed(a, "BF16"), narrowed(b, "BF16"), alpha)
    return Lora(pairs, None, options)


def test_what_is_written_has_every_pair_that_nemo_waits_for(tmp_path: Path) -> None:
    lora = make_lora()
    assert write_nemo(lora, tmp_path / "a.nemo", make_base()) == []
    assert [path.name for path in tmp_path.iterdir()] == ["a.nemo"]
    with tarfile.open(tmp_path / "a.nemo") as opened:
        assert opened.getnames() == ["./model_config.yaml", "./model_weights.ckpt"]
        config = yaml.safe_load(opened.extractfile("./model_config.yaml") or b"")
    assert config["peft"]["lora_tuning"]["target_modules"] == ["attention_qkv", "mlp_fc2"]
    assert (config["num_attention_heads"], config["num_query_groups"], config["num_layers"]) == (HEADS, GROUPS, 2)
    weights = read_tar(Mapped.whole(tmp_path / "a.nemo"))["model_weights.ckpt"]
    assert len(TorchFile(weights).tensors()) == 2 * 2 * 4
    back = read(tmp_path / "a.nemo")
    assert back.pairs.keys() == lora.pairs.keys()  # what is zero adds nothing
    for module, pair in back.pairs.items():
        wanted = lora.pairs[module].b
        assert (pair.alpha, pair.b.dtype, pair.b.values.tolist()) == (6.0, "BF16", wanted.values.tolist())


def test_an_adapter_that_learnt_nothing_is_still_one(tmp_path: Path) -> None:
    shards = make_shards()
    for held in shards.values():
        for name in held:
            held[name] *= 0
    assert len(read(save(tmp_path, shards)).pairs) == LAYERS * 7


@pytest.mark.parametrize(
    ("lora", "base", "code"),
    [
        (make_lora(), None, "no_base"),
        (make_lora(), make_base(fused=True), "unsupported_type"),
        (make_lora("model.layers.7.self_attn.q_proj"), make_base(), "unknown_modules"),
        (make_lora("lm_head"), make_base(), "unknown_modules"),
        (make_lora(alora_invocation_tokens=[1]), make_base(), "unsupported_option"),
        (
            Lora({**make_lora().pairs, **make_lora("model.layers.0.mlp.up_proj", rank=2).pairs}),
            make_base(),
            "rank_mismatch",
        ),
    ],
)
def test_what_the_format_cannot_say_is_refused_by_name(
    tmp_path: Path, lora: Lora, base: ModelInfo | None, code: str
) -> None:
    with pytest.raises(AdapterInvalid) as refused:
        write_nemo(lora, tmp_path / "a.nemo", base)
    assert [problem.code for problem in refused.value.problems] == [code]
    assert list(tmp_path.iterdir()) == []


def test_scalings_of_their_own_go_into_b(tmp_path: Path) -> None:
    one, other = make_lora(), make_lora("model.layers.0.mlp.up_proj", alpha=2.0)
    [note] = write_nemo(Lora({**one.pairs, **other.pairs}), tmp_path / "a.nemo", make_base())
    assert "1 modules" in note
    [pair] = other.pairs.values()
    back = read(tmp_path / "a.nemo").pairs["model.layers.0.mlp.up_proj"]
    np.testing.assert_allclose(back.scaling * back.b.widened(), pair.scaling * pair.b.widened(), rtol=1e-6)
