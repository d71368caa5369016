"""tokenizer.model through the `sentencepiece` library."""

import re
from collections.abc import Iterable
from pathlib import Path

import sentencepiece

from llm_tokenizer.backend import AddedToken, DecodeRule
from llm_tokenizer.errors import TokenizerError
from llm_tokenizer.files import read_bytes
from llm_tokenizer.split import Splitter

SPACE = "▁"
# Serialised protobuf messages merge by concatenation: this is ModelProto{normalizer_spec{add_dummy_prefix: false}}.
NO_DUMMY_PREFIX = b"\x1a\x02\x18\x00"


class SentencePieceBackend:
    """Plain text goes to sentencepiece; control and added tokens are cut out of the text before that.

    dummy_prefix_everywhere: text after a special token begins with sentencepiece's space too (`legacy` in
    tokenizer_config.json); else only text at the very beginning does, as in transformers.
    """

    def __init__(
        self,
        data: bytes,
        source: Path,
        added: Iterable[AddedToken],
        names: Iterable[str],
        dummy_prefix_everywhere: bool,
    ) -> None:
        self._model = _processor(data, source)
        self._bare = self._model if dummy_prefix_everywhere else _processor(data + NO_DUMMY_PREFIX, source)
        model, size = self._model, self._model.vocab_size()
        if size < 1:
            raise TokenizerError(f"{source}: a sentencepiece model has at least one piece, this one has none.")
        self._added = {token.id: token for token in added}
        named = [i for name in names if model.id_to_piece(i := model.piece_to_id(name)) == name]
        control = [*(i for i in range(size) if model.is_control(i) or model.is_unknown(i)), *named]
        for i in control:
            self._added.setdefault(i, AddedToken(content=model.id_to_piece(i), id=i, special=True))
        self._ids = {token.content: token.id for token in self._added.values()}
        self._size = size
        self.vocab_size = max(size, 1 + max(self._added, default=0))
        self.special_ids = frozenset(token.id for token in self._added.values() if token.special)
        self._splitters = {
            True: Splitter(self._added.values()),
            False: Splitter(token for token in self._added.values() if not token.special),
        }
        ids = {"bos_token": model.bos_id(), "eos_token": model.eos_id(), "pad_token": model.pad_id()}
        ids["unk_token"] = model.unk_id()
        self.names = {name: model.id_to_piece(i) for name, i in ids.items() if 0 <= i < size}
        self.prefix = (model.bos_id(),) if model.bos_id() >= 0 else ()
        self.suffix: tuple[int, ...] = ()
        self.rule = DecodeRule(piece=self._piece, strip=self._strip(), bytewise=True)

    def encode(self, text: str, *, parse_special: bool) -> list[int]:
        """Ids of the text as sentencepiece gives them, with added tokens (and control tokens, if parsed) cut out."""
        ids: list[int] = []
        for i, part in enumerate(self._splitters[parse_special].split(text)):
            if isinstance(part, int):
                ids.append(part)
            elif part:
                ids += (self._bare if i else self._model).encode(part)
        return ids

    def id_to_token(self, token_id: int) -> str | None:
        """The piece, with ▁ for a space."""
        if token_id in self._added:
            return self._added[token_id].content
        return self._model.id_to_piece(token_id) if 0 <= token_id < self._size else None

    def token_to_id(self, token: str) -> int | None:
        """The piece's id; None for a string that is no piece."""
        if token in self._ids:
            return self._ids[token]
        found = self._model.piece_to_id(token)
        return found if self.id_to_token(found) == token else None

    def _piece(self, token_id: int) -> bytes | str | None:
        token = self.id_to_token(token_id)
        if token is None or token_id in self._added:
            return token
        if self._model.is_byte(token_id):
            return bytes([int(token[3:5], 16)])
        return token.replace(SPACE, " ")

    def _strip(self) -> str:
        """What decoding takes off the beginning, from how the model itself normalises (sentencepiece_processor.cc)."""
        if self._model.normalize("a  a").count(SPACE) - self._model.normalize("a a").count(SPACE) == 0:
            return "pieces"
        return "piece" if self._model.normalize("a").startswith(SPACE) else "no"


def load_sentencepiece(
    path: Path, added: Iterable[AddedToken], names: Iterable[str], legacy: bool
) -> SentencePieceBackend:
    """The backend of a tokenizer.model. Raises TokenizerError."""
    data = read_bytes(path)
    if re.match(rb"[A-Za-z0-9+/]+={0,2} \d+\r?\n", data):
        raise TokenizerError(f"{path}: this is a tiktoken file, which isn't read; use the model's tokenizer.json.")
    return SentencePieceBackend(data, path, added, names, legacy)


def _processor(data: bytes, source: Path) -> sentencepiece.SentencePieceProcessor:
    try:
        return sentencepiece.SentencePieceProcessor(model_proto=data)
    except (RuntimeError, ValueError, OSError) as error:
        raise TokenizerError(f"{source}: sentencepiece can't read the file ({str(error)[:200]}).") from error
