"""A checkpoint as one GGUF file: metadata, vocabulary and tensors, one of them in memory at a time."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BufferedWriter
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

import llm_sepweight
from llm_blocks import GgufForm, gguf_form
from llm_blocks.loading import check_tied, main_dtype
from llm_cli.checkpoints import Checkpoint
from llm_cli.gguf.tensors import Entry, entries
from llm_cli.gguf.vocabulary import Vocabulary, read_vocabulary
from llm_cli.source import find_tokenizer
from llm_sepweight.atomic import atomic_file
from llm_tokenizer import Tokenizer

if TYPE_CHECKING:
    import gguf

TYPES = ("f32", "f16", "bf16", "q8_0")
_SWALLOWING = re.compile("phi-?3", re.IGNORECASE)
_MISSING = "GGUF is written by the package gguf, which is missing: `python -m pip install gguf` brings it"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What goes into the file; nothing is written and no tensor read yet."""

    source: Checkpoint
    name: str
    type: str
    form: GgufForm
    vocabulary: Vocabulary
    template: str | None
    entries: list[Entry]

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(entry.nbytes for entry in self.entries)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the file, or llama.cpp with it, has otherwise than the checkpoint."""
        return (*self.form.notes, *self.vocabulary.rules.notes)


def plan_gguf(
    source: Checkpoint, *, type: str | None = None, tokenizer: Path | None = None, pre: str | None = None
) -> Plan:
    """All that can be known before writing, with every reason not to write as a ValueError.

    `type` is one of TYPES, by default bf16 for a checkpoint in bf16 and f16 for any other. `tokenizer` is a file or
    folder that takes the place of the source's own, `pre` llama.cpp's name for how a byte-level one cuts text.
    """
    form = gguf_form(source.config)
    require_gguf()
    if source.kind == "sepweight":
        llm_sepweight.verify(source.path)
    if source.config.tie_embeddings:
        check_tied(source.weights)
    wanted = type or ("bf16" if main_dtype(source.weights) == torch.bfloat16 else "f16")
    found, folder = _tokenizer(source, tokenizer)
    vocabulary = read_vocabulary(found, _stated(source), rows=source.config.vocab_size, folder=folder, pre=pre)
    return Plan(
        source=source,
        name=_name(source.path.stem if source.path.is_file() else source.path.resolve().name, vocabulary),
        type=wanted,
        form=form,
        vocabulary=vocabulary,
        template=found.chat_template,
        entries=entries(source, form, _quantization(wanted)),
    )


def write_gguf(plan: Plan, out: Path, *, wrote: Callable[[int], None] = lambda nbytes: None) -> None:
    """Write the file, whole or not at all; `wrote` is told the bytes of each tensor. WeightsError where it exists."""
    import gguf
    from gguf.gguf_writer import WriterState

    writer = gguf.GGUFWriter(None, plan.form.architecture)
    _add_metadata(writer, plan)
    _add_vocabulary(writer, plan.vocabulary, plan.template)
    for entry in plan.entries:
        writer.add_tensor_info(entry.name, entry.stored_shape, entry.stored_dtype, entry.nbytes, raw_dtype=entry.type)
    with atomic_file(out) as file:
        # by itself it opens, and overwrites, a file by its name
        writer.fout, writer.state = [cast(BufferedWriter, file)], WriterState.EMPTY
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for entry in plan.entries:
            writer.write_tensor_data(entry.read())
            wrote(entry.nbytes)


def require_gguf() -> None:
    """ValueError with the pip line where the extra is not installed."""
    from importlib.util import find_spec

    if find_spec("gguf") is None:
        raise ValueError(_MISSING)


def _tokenizer(source: Checkpoint, tokenizer: Path | None) -> tuple[Tokenizer, Path | None]:
    """The tokenizer, and the folder whose files speak of it."""
    path = tokenizer or source.path
    if tokenizer is not None and path.is_file():
        return Tokenizer.load(path), None
    found = None if path.is_file() else find_tokenizer(path)
    if found is None:
        raise ValueError(
            f"'{path}' has no tokenizer, which a GGUF file needs; give one with --tokenizer FILE_OR_FOLDER"
        )
    return found, path


def _stated(source: Checkpoint) -> dict[str, Any]:
    """What config.json says; a model of several kinds says some of it of its decoder."""
    text = source.raw.get("text_config")
    return {**(text if isinstance(text, Mapping) else {}), **source.raw}


def _name(name: str, vocabulary: Vocabulary) -> str:
    """llama.cpp takes from the name whether special tokens swallow the white space that follows them.

    If they do, it looks for four tokens, and fails without them.
    """
    swallow = vocabulary.strips and {"<unk>", "<s>", "</s>", "<|endoftext|>"} <= set(vocabulary.tokens)
    if not swallow:
        return _SWALLOWING.sub("Phi 3", name)
    return name if _SWALLOWING.search(name) else f"{name} (phi-3)"


def _quantization(type: str) -> gguf.GGMLQuantizationType:
    import gguf

    return gguf.GGMLQuantizationType[type.upper()]


def _add_metadata(writer: gguf.GGUFWriter, plan: Plan) -> None:
    import gguf

    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(plan.name)
    kind = f"{'ALL' if plan.type == 'f32' else 'MOSTLY'}_{plan.type.upper()}"
    writer.add_file_type(gguf.LlamaFileType[kind])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for key, value in plan.form.values.items():
        _add(writer, f"{plan.form.architecture}.{key}", value)


def _add(writer: gguf.GGUFWriter, key: str, value: str | bool | int | float | tuple[bool, ...]) -> None:
    if isinstance(value, str):
        writer.add_string(key, value)
    elif isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    else:
        writer.add_array(key, value)


def _add_vocabulary(writer: gguf.GGUFWriter, vocabulary: Vocabulary, template: str | None) -> None:
    rules = vocabulary.rules
    writer.add_tokenizer_model(rules.model)
    writer.add_tokenizer_pre(rules.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types([int(kind) for kind in vocabulary.kinds])
    if vocabulary.scores is not None:
        writer.add_token_scores(vocabulary.scores)
    if rules.scores is None:
        writer.add_token_merges(rules.merges)
    for name, token_id in vocabulary.ids.items():
        writer.add_uint32(f"tokenizer.ggml.{name}_token_id", token_id)
    writer.add_add_bos_token(vocabulary.begins)
    writer.add_add_eos_token(vocabulary.ends)
    for name, value in rules.settings.items():
        if isinstance(value, bytes):
            writer.add_array(f"tokenizer.ggml.{name}", value)
        else:
            writer.add_bool(f"tokenizer.ggml.{name}", value)
    if template is not None:
        writer.add_chat_template(template)
