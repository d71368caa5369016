"""Text to ids and back, by the rules of the folder that the tokenizer comes from."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from llm_tokenizer.backend import MAX_IDS, Backend
from llm_tokenizer.chat import Chat, read_templates
from llm_tokenizer.errors import TokenizerError
from llm_tokenizer.files import tokenizer_files
from llm_tokenizer.gpt2 import load_gpt2
from llm_tokenizer.hf import load_tokenizer_json
from llm_tokenizer.llama2c import load_llama2c
from llm_tokenizer.special import CLASS_NAMES, Special, Statements, read_statements, resolve
from llm_tokenizer.spm import load_sentencepiece
from llm_tokenizer.stream import TextStream


class Tokenizer:
    """A checkpoint's tokenizer. Threads may share one; a `TextStream` belongs to one text."""

    def __init__(self, backend: Backend, special: Special, chat: Chat, files: tuple[Path, ...]) -> None:
        self._backend = backend
        self._special = special
        self._chat = chat
        self.files = files
        self.vocab_size = backend.vocab_size
        self.bos_id = special.bos_id
        self.eos_id = special.eos_id
        self.pad_id = special.pad_id
        self.end_ids = special.end_ids

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """The tokenizer of a checkpoint folder, or of one file that stands alone.

        A folder's tokenizer is its tokenizer.json, else tokenizer.model, else vocab.json with merges.txt, else
        tokenizer.bin (llama2.c). A single file is taken by its ending, and nothing beside it is read.
        Raises TokenizerError for a missing or malformed file.
        """
        path = Path(path)
        single = path.is_file()
        statements = Statements(folder=path.parent) if single else read_statements(path)
        main = path if single else _main_file(path)
        backend = _backend(main, statements)
        files = (path,) if single else tokenizer_files(path, main)
        special = resolve(statements, backend)
        templates = {} if single else read_templates(path, statements.config)
        return cls(backend, special, Chat(templates, special.names, path), files)

    def encode(
        self, text: str, *, bos: bool | None = None, eos: bool | None = False, parse_special: bool = True
    ) -> list[int]:
        """Ids of the text.

        bos, eos: True puts the id there, False leaves it out, None does as the folder says.
        parse_special: "</s>" in the text becomes the special token, as in transformers; False reads it as plain text.
        Raises TokenizerError where the text is no Unicode or a wanted BOS or EOS doesn't exist.
        """
        if not text.isascii():
            _check_text(text)
        before = self._special.prefix if bos is None else self._one(self.bos_id, "BOS") if bos else ()
        after = self._special.suffix if eos is None else self._one(self.eos_id, "EOS") if eos else ()
        return [*before, *self._backend.encode(text, parse_special=parse_special), *after]

    def _one(self, token_id: int | None, name: str) -> tuple[int, ...]:
        if token_id is None:
            raise TokenizerError(f"{self.files[0]}: this tokenizer has no {name} token; leave {name.lower()}=True out.")
        return (token_id,)

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """Text of the ids; special tokens are left out or shown as their strings. An id past the vocabulary is "".

        Raises TokenizerError for a negative id. Bytes that are no UTF-8 become U+FFFD.
        """
        return self.stream(skip_special=skip_special).decode(ids)

    def stream(self, skip_special: bool = True) -> TextStream:
        """A decoder for ids that come one by one: push(id) -> text so far certain, finish() -> the rest."""
        return TextStream(self._backend.rule, self._special.hidden if skip_special else frozenset())

    def id_to_token(self, token_id: int) -> str | None:
        """The token as the vocabulary spells it (not its text: see `decode`), None for an id without one."""
        return self._backend.id_to_token(token_id) if 0 <= token_id < MAX_IDS else None

    def token_to_id(self, token: str) -> int | None:
        """The id of a token as the vocabulary spells it, None for a string that is no token."""
        return self._backend.token_to_id(token)

    @property
    def chat_template(self) -> str | None:
        """Source of the folder's chat template, None where it has none."""
        return self._chat.text()

    def with_chat_template(self, template: str) -> Self:
        """The same tokenizer with this chat template (Jinja source) instead of the folder's; `files` stay the same.

        It renders under the same limits as a folder's; TokenizerError comes when it is first used.
        """
        chat = Chat({"default": template}, self._special.names, Path("the given chat template"))
        return type(self)(self._backend, self._special, chat, self.files)

    def render_chat(
        self,
        messages: Iterable[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """The conversation as the checkpoint's chat template writes it, equal to what transformers renders.

        messages: objects with `role` and `content`; tools: JSON schemas; variables: what else the template asks for,
        such as enable_thinking; all of it plain JSON data. Raises TokenizerError, also for a template that asks for too
        much: processor time (half a second and more for long messages) or text out of all proportion.
        """
        return self._chat.render(messages, tools, add_generation_prompt, variables)

    def encode_chat(
        self,
        messages: Iterable[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> list[int]:
        """Ids of `render_chat`. BOS is there if the template writes it and not otherwise, so never twice.

        Special tokens spelled out inside a message become those tokens, as in transformers: filter untrusted text.
        """
        text = self.render_chat(messages, tools=tools, add_generation_prompt=add_generation_prompt, **variables)
        return self.encode(text, bos=False)


def _main_file(folder: Path) -> Path:
    if not folder.is_dir():
        raise TokenizerError(f"{folder}: there is no such folder or file.")
    for name in ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer.bin"):
        if (folder / name).is_file():
            return folder / name
    raise TokenizerError(
        f"{folder}: there is no tokenizer here; one of tokenizer.json, tokenizer.model, vocab.json with merges.txt, "
        "or tokenizer.bin is needed."
    )


def _backend(main: Path, statements: Statements) -> Backend:
    bytes_and_merges = main.name in ("vocab.json", "merges.txt")
    unnamed = bytes_and_merges and "tokenizer_class" not in statements.config
    names = statements.names(CLASS_NAMES["GPT2Tokenizer"] if unnamed else {})
    added = statements.added_tokens(names)
    if bytes_and_merges:
        return load_gpt2(main.parent, statements.config, added, names)
    if main.suffix == ".json":
        return load_tokenizer_json(main, added, names)
    if main.suffix == ".model":
        return load_sentencepiece(main, added, names.values(), statements.config.get("legacy") is True)
    if main.suffix == ".bin":
        return load_llama2c(main)
    raise TokenizerError(f"{main}: a tokenizer file ends in .json, .model or .bin.")


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TokenizerError(
            f"Text must be Unicode without lone surrogates; character {error.start} is U+{ord(text[error.start]):04X}."
        ) from error
