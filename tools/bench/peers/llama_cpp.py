"""llama.cpp, through llama-cpp-python's calls of its library: bf16, q8_0 and q4_0 from GGUF files.

bf16 and q8_0 are written by `llm export gguf`, q4_0 by llama.cpp itself from bf16 (the output matrix as q6_K, which is
what it does by default).
"""

import ctypes
import subprocess
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

from peers import Job, Peer, Tick, Unavailable, amx, need

TYPES = {"fp32": "f32", "bf16": "bf16", "int8": "q8_0", "int4": "q4_0"}
BITS = {"f32": 32.0, "bf16": 16.0, "q8_0": 8.5, "q4_0": 4.5}
LAYOUTS = {
    "default": "",
    "without AMX": "its layout for AMX dies here, so AMX is refused",
    "plain": "its own layouts die here, so it computes on the file's",
}
PROBED = 24  # tokens in one pass, where a layout that doesn't work shows
PROBE = "import sys; sys.path.insert(0, sys.argv[1]); from peers.llama_cpp import probe; probe(*sys.argv[2:])"
BATCH = 2048


def load(job: Job) -> Peer:
    """The first layout of matrices in which it survives a prompt."""
    need("llama_cpp", "numpy")
    kind = TYPES[job.precision]
    file = _file(job, kind)
    layout = next((name for name in LAYOUTS if _survives(file, name)), None)
    if layout is None:
        raise Unavailable("it dies evaluating a prompt, in every layout of its matrices")
    session = Session(str(file), layout, job.threads, job.positions)
    embedding = int(job.config["vocab_size"] * job.config["hidden_size"] * BITS[kind] / 8)
    note = ", ".join(filter(None, (f"llama-cpp-python {version('llama_cpp_python')}", kind, LAYOUTS[layout])))
    return Peer(generate=session.generate, weight_bytes=session.nbytes - embedding, note=note)


class Session:
    """A model with a context for so many positions."""

    def __init__(self, file: str, layout: str, threads: int, positions: int) -> None:
        if layout == "without AMX" and not amx.refuse():
            raise Unavailable("AMX can't be refused here")
        self._lib: Any = import_module("llama_cpp")
        self._lib.llama_backend_init()
        params = self._lib.llama_model_default_params()
        params.use_extra_bufts, params.n_gpu_layers = layout != "plain", 0
        self._model = self._lib.llama_model_load_from_file(file.encode(), params)
        context = self._lib.llama_context_default_params()
        context.n_ctx = -(-positions // 256) * 256
        context.n_batch = context.n_ubatch = min(context.n_ctx, BATCH)
        context.n_threads = context.n_threads_batch = threads
        self._context = self._lib.llama_init_from_model(self._model, context)
        if not self._context:
            raise Unavailable("it can't open the file")
        self._batch = int(context.n_batch)
        self._vocab = self._lib.llama_vocab_n_tokens(self._lib.llama_model_get_vocab(self._model))
        self.nbytes = self._lib.llama_model_size(self._model)

    def generate(self, ids: list[int], new: int, tick: Tick) -> None:
        self._lib.llama_memory_clear(self._lib.llama_get_memory(self._context), True)
        for first in range(0, len(ids), self._batch):
            self._evaluate(ids[first : first + self._batch])
        token = self._greedy()
        tick(token)
        for _ in range(new - 1):
            self._evaluate([token])
            token = self._greedy()
            tick(token)

    def _evaluate(self, ids: list[int]) -> None:
        tokens = (self._lib.llama_token * len(ids))(*ids)
        if self._lib.llama_decode(self._context, self._lib.llama_batch_get_one(tokens, len(ids))):
            raise RuntimeError("llama_decode failed")

    def _greedy(self) -> int:
        from numpy.ctypeslib import as_array

        return int(as_array(self._lib.llama_get_logits_ith(self._context, -1), (self._vocab,)).argmax())


def _survives(file: Path, layout: str) -> bool:
    """Whether another process evaluates a prompt in that layout without dying."""
    command = [sys.executable, "-c", PROBE, str(Path(__file__).resolve().parents[1]), str(file), layout]
    return subprocess.run(command, capture_output=True, timeout=600, check=False).returncode == 0


def _file(job: Job, kind: str) -> Path:
    file = Path(job.scratch) / f"{kind}.gguf"
    if not file.exists() and kind == "q4_0":
        _quantize(_file(job, "bf16"), file, job.threads)
    elif not file.exists():
        export = [job.python, "-m", "llm_cli", "export", "gguf", job.folder, "--out", str(file), "--dtype", kind]
        done = subprocess.run([*export, "--tokenizer", job.tokenizer], capture_output=True, text=True, check=False)
        if done.returncode:
            raise Unavailable(done.stderr.strip().splitlines()[-1])
    return file


def _quantize(source: Path, file: Path, threads: int) -> None:
    """By llama.cpp's own function; the file appears when it is complete."""
    lib: Any = import_module("llama_cpp")
    params = lib.llama_model_quantize_default_params()
    params.ftype, params.nthread = lib.LLAMA_FTYPE_MOSTLY_Q4_0, threads
    part = file.with_suffix(".part")
    if lib.llama_model_quantize(str(source).encode(), str(part).encode(), ctypes.byref(params)):
        raise Unavailable("llama_model_quantize failed")
    part.rename(file)


def probe(file: str, layout: str) -> None:
    """Evaluate a short prompt and one token more."""
    Session(file, layout, threads=1, positions=256).generate([3 + i for i in range(PROBED)], 2, lambda _: None)
