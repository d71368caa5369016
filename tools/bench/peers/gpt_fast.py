"""gpt-fast, from a clone whose path is given: nothing of it is installed or kept here."""

import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from peers import Job, Peer, Tick, Unavailable, linked, need, weight_bytes


def load(job: Job) -> Peer:
    """bf16 compiled or eager, int8 (one scale a row) compiled: its eager int8 widens every weight for each token."""
    if job.path is None or not (Path(job.path) / "generate.py").is_file():
        raise Unavailable("no clone of it: give its path with --gpt_fast")
    compiled = job.system == "gpt-fast"
    if job.precision not in ("bf16", "int8") or (job.precision == "int8" and not compiled):
        raise Unavailable(f"no {job.precision} on a CPU{'' if compiled else ' without compiling'}")
    need("torch", "safetensors", "sentencepiece", "tiktoken")
    import torch

    sys.path.insert(0, job.path)
    theirs: Any = import_module("generate")
    model = theirs._load_model(_checkpoint(job), "cpu", torch.bfloat16, False)
    read = weight_bytes(model, model.tok_embeddings)
    model.setup_caches(max_batch_size=1, max_seq_length=job.positions)
    if compiled:  # as its option --compile with --compile_prefill
        theirs.decode_one_token = torch.compile(theirs.decode_one_token, mode="reduce-overhead", fullgraph=True)
        theirs.prefill = torch.compile(theirs.prefill, fullgraph=True, dynamic=True)

    @torch.no_grad()
    def generate(ids: list[int], new: int, tick: Tick) -> None:
        size, prompt = len(ids), torch.tensor([ids], dtype=torch.int)
        first = theirs.prefill(model, prompt, torch.arange(size), temperature=0.0).clone()
        tick(first)
        at = torch.tensor([size], dtype=torch.int)
        theirs.decode_n_tokens(model, first.view(1, 1), at, new - 1, callback=tick, temperature=0.0)

    return Peer(
        generate=generate, weight_bytes=read, note=f"{'compiled' if compiled else 'eager'}, torch {torch.__version__}"
    )


def _checkpoint(job: Job) -> Path:
    """The file that its own scripts make of the checkpoint."""
    folder = linked(job, "gpt-fast")
    import_module("model").transformer_configs[folder.name] = _config(job)
    file, whole = folder / "model.pth", folder / "modelint8.pth"
    if not file.exists():
        script = Path(job.path or "") / "scripts" / "convert_hf_checkpoint.py"
        _run(script).convert_hf_checkpoint(checkpoint_dir=folder, model_name=folder.name)
    if job.precision == "int8" and not whole.exists():
        import_module("quantize").quantize(file, mode="int8", label="")
    return whole if job.precision == "int8" else file


def _run(script: Path) -> Any:
    spec = spec_from_file_location(script.stem, script)
    if spec is None or spec.loader is None:
        raise Unavailable(f"{script} is missing")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _config(job: Job) -> dict[str, Any]:
    """The checkpoint's hyperparameters in its words."""
    raw = job.config
    return {
        "block_size": raw["max_position_embeddings"],
        "vocab_size": raw["vocab_size"],
        "n_layer": raw["num_hidden_layers"],
        "n_head": raw["num_attention_heads"],
        "n_local_heads": raw["num_key_value_heads"],
        "dim": raw["hidden_size"],
        "intermediate_size": raw["intermediate_size"],
        "norm_eps": raw["rms_norm_eps"],
        "rope_base": 10000,
    }
