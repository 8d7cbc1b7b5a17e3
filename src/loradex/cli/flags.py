"""The flags of `serve`: each is a setting, with vLLM's spelling where vLLM has one."""

from __future__ import annotations

from loradex.cli.command import HOME, Flag

MODEL = (
    Flag("engine.served_name", ("--served-model-name",), "Name that clients use for the base model.", "NAME"),
    Flag("engine.revision", ("--revision",), "Branch, tag or commit on the hub.", "REV"),
    Flag("engine.dtype", ("--dtype",), "auto, float32, bfloat16 or float16.", "TYPE"),
    Flag("engine.device", ("--device",), "auto, cpu, cuda or cuda:N.", "DEVICE"),
    Flag("engine.quantization", ("--quantization",), "Round the base's weights: none, int8, int4 or fp8.", "METHOD"),
    Flag("engine.kv_cache_dtype", ("--kv-cache-dtype",), "Of keys and values: auto or fp8.", "TYPE"),
    Flag("engine.max_model_len", ("--max-model-len", "--max-seq-len"), "Tokens of prompt and answer together.", "N"),
)

LORA = (
    Flag(
        "adapters",
        ("--adapter", "--lora-modules"),
        'Adapter to serve from the start, as NAME=SOURCE or {"name": ..., "path": ...}. Repeat it.',
        "NAME=SOURCE",
        "Adapters",
    ),
    Flag("engine.max_loras", ("--max-loras",), "Adapters in memory at a time.", "N", "Adapters"),
    Flag("adapter_memory", ("--adapter-memory",), "Memory for adapters, such as 4GiB, or none.", "SIZE", "Adapters"),
    Flag(
        "adapter_host_memory",
        ("--adapter-host-memory",),
        "Host memory for adapters beside a GPU, such as 16GiB, or none.",
        "SIZE",
        "Adapters",
    ),
    Flag(
        "adapter_memory_share",
        ("--adapter-memory-share",),
        "Memory for adapters as a share of the device's free memory.",
        "SHARE",
        "Adapters",
    ),
    Flag("adapter_ttl", ("--adapter-ttl",), "Adapters that were idle for so long leave memory.", "TIME", "Adapters"),
    Flag("pinned", ("--pin",), "Adapter that always stays in memory. Repeat it.", "NAME", "Adapters"),
    Flag("engine.max_lora_rank", ("--max-lora-rank",), "Adapters of a higher rank are refused.", "N", "Adapters"),
    Flag(
        "server.allow_dirs",
        ("--allow-dir",),
        "Folder from which clients may load adapters. Repeat it.",
        "DIR",
        "Adapters",
    ),
    Flag("watch", ("--watch",), "Folder of adapters, served as they come and change. Repeat it.", "DIR", "Adapters"),
    Flag("watch_settle", ("--watch-settle",), "Rest of an entry there before it is read.", "TIME", "Adapters"),
    Flag("lora_dir", ("--lora-dir",), "Folder in which unknown names are looked for, by need.", "DIR", "Adapters"),
    Flag("resolver", ("--resolver",), "Function that finds unknown names, as module:function.", "FUNCTION", "Adapters"),
    Flag("router", ("--router",), "YAML file that says how the model `auto` chooses.", "FILE", "Adapters"),
    Flag(
        "server.allow_urls",
        ("--allow-url",),
        "Beginning of addresses from which clients may load adapters, such as hf://acme. Repeat it.",
        "PREFIX",
        "Adapters",
    ),
    Flag(
        "max_adapter_size",
        ("--max-adapter-size",),
        "Largest adapter that is downloaded, unpacked or uploaded.",
        "SIZE",
        "Adapters",
    ),
)

SERVER = (
    Flag("server.host", ("--host",), "Address to listen on.", "HOST", "Server"),
    Flag("server.port", ("--port",), "Port to listen on; 0 takes a free one.", "PORT", "Server"),
    Flag(
        "server.infer_keys",
        ("--infer-key",),
        "API key that may ask for answers, as KEY or NAME=KEY. Repeat it.",
        "KEY",
        "Server",
    ),
    Flag(
        "server.admin_keys",
        ("--admin-key", "--api-key"),
        "API key that may do everything, as KEY or NAME=KEY; the name stands in the history. Repeat it.",
        "KEY",
        "Server",
    ),
    Flag("server.strict", ("--strict/--no-strict",), "Refuse request fields that are unknown.", None, "Server"),
)

TUNING = (
    Flag(
        "gpu_memory_utilization",
        ("--gpu-memory-utilization",),
        "Share of a GPU's memory for weights, adapters, keys and values.",
        "SHARE",
        "Tuning",
    ),
    Flag(
        "engine.kv_cache_memory", ("--kv-cache-memory",), "Memory for keys and values, such as 2GiB.", "SIZE", "Tuning"
    ),
    Flag("engine.block_size", ("--block-size",), "Tokens in a cache block.", "N", "Tuning"),
    Flag(
        "engine.max_num_seqs", ("--max-num-seqs", "--max-batch-size"), "Requests computed in one step.", "N", "Tuning"
    ),
    Flag(
        "engine.max_batched_tokens",
        ("--max-num-batched-tokens", "--max-batched-tokens", "--max-num-tokens"),
        "Tokens computed in one step.",
        "N",
        "Tuning",
    ),
    Flag(
        "engine.max_prefill_tokens",
        ("--max-prefill-tokens",),
        "Tokens of prompts computed in one step beside running answers.",
        "N",
        "Tuning",
    ),
    Flag(
        "engine.prefix_cache",
        ("--enable-prefix-caching/--no-enable-prefix-caching",),
        "Reuse keys and values of equal prompt starts.",
        None,
        "Tuning",
    ),
    Flag(
        "engine.enforce_eager",
        ("--enforce-eager/--no-enforce-eager",),
        "Record no decode steps on a GPU: a quicker start, slower answers.",
        None,
        "Tuning",
    ),
    Flag("engine.threads", ("--threads",), "CPU threads.", "N", "Tuning"),
    Flag(
        "engine.load_share",
        ("--load-share",),
        "Share of a core that work on adapter files takes while answers are computed.",
        "SHARE",
        "Tuning",
    ),
    Flag("queue_timeout", ("--queue-timeout",), "Longest wait for room for an adapter.", "TIME", "Tuning"),
)

VERSIONS = (
    Flag(
        "rollback_error_rate",
        ("--rollback-error-rate",),
        "Roll a new version back when more of its requests fail; 1 never does.",
        "SHARE",
        "Versions",
    ),
    Flag("rollback_requests", ("--rollback-requests",), "So many of its last requests.", "N", "Versions"),
    Flag("rollback_window", ("--rollback-window",), "How long after it has taken over.", "TIME", "Versions"),
    Flag("shadow_log_size", ("--shadow-log-size",), "Room for one shadow's answers.", "SIZE", "Versions"),
)

ENGINE = (Flag("engine_name", ("--engine",), "Engine that runs the model.", "NAME", "Tuning"),)

SERVE = (*MODEL, *LORA, *SERVER, *VERSIONS, *TUNING, *ENGINE, *HOME)
