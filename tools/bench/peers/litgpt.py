"""LitGPT, from a checkpoint that its own script converts, through its generation function."""

from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

from peers import Job, Peer, Tick, Unavailable, linked, need, weight_bytes


def load(job: Job) -> Peer:
    """bf16 alone: its int8 and int4 are bitsandbytes', for CUDA."""
    need("litgpt")
    if job.precision != "bf16":
        raise Unavailable(f"no {job.precision} on a CPU (bitsandbytes on CUDA)")
    import torch

    base: Any = import_module("litgpt.generate.base")
    model = _model(job)

    @torch.inference_mode()
    def generate(ids: list[int], new: int, tick: Tick) -> None:
        prompt = torch.tensor(ids)
        greedy = {"temperature": 0.0, "top_p": 0.0, "include_prompt": False, "include_eos": False}
        for token in base.generate_fn(model, prompt, len(ids) + new, **greedy):
            tick(token)

    read = weight_bytes(model, model.transformer.wte) - _kept(model)
    return Peer(generate=generate, weight_bytes=read, note=f"litgpt {version('litgpt')}")


def _model(job: Job) -> Any:
    """The model in bf16 with a cache for all positions, as its command builds it."""
    lightning: Any = import_module("lightning")
    kinds: Any = import_module("litgpt.model")
    folder = _converted(job)
    fabric = lightning.Fabric(accelerator="cpu", devices=1, precision="bf16-true")
    with fabric.init_module(empty_init=True):
        model = kinds.GPT(kinds.Config.from_file(folder / "model_config.yaml"))
    fabric.load_raw(folder / "lit_model.pth", model)
    with fabric.init_tensor():
        model.max_seq_length = job.positions
        model.set_kv_cache(batch_size=1)
    return model.eval()


def _converted(job: Job) -> Path:
    folder = linked(job, "litgpt")
    if not (folder / "lit_model.pth").exists():
        import_module("litgpt.config").name_to_config[folder.name] = hyperparameters(job.config, folder.name)
        script: Any = import_module("litgpt.scripts.convert_hf_checkpoint")
        script.convert_hf_checkpoint(folder, model_name=folder.name)
    return folder


def hyperparameters(raw: dict[str, Any], name: str) -> dict[str, Any]:
    """Those of a Llama's config.json in its words."""
    return {
        "name": name,
        "block_size": raw["max_position_embeddings"],
        "vocab_size": raw["vocab_size"],
        "padded_vocab_size": raw["vocab_size"],
        "n_layer": raw["num_hidden_layers"],
        "n_head": raw["num_attention_heads"],
        "n_query_groups": raw["num_key_value_heads"],
        "n_embd": raw["hidden_size"],
        "intermediate_size": raw["intermediate_size"],
        "norm_eps": raw["rms_norm_eps"],
        "norm_class_name": "RMSNorm",
        "mlp_class_name": "LLaMAMLP",
        "rotary_percentage": 1.0,
        "parallel_residual": False,
        "bias": False,
    }


def _kept(model: Any) -> int:
    """Bytes of buffers that are no weights: the cache, the mask and the angles."""
    return sum(buffer.nbytes for buffer in model.buffers())
