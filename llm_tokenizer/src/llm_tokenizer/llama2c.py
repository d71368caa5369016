"""The tokenizer .bin of llama2.c (github.com/karpathy/llama2.c, tokenizer.py and run.c).

Little endian: int32 longest piece in bytes; then for each id float32 score, int32 length, that many bytes. Ids 0, 1, 2
are unknown, BOS, EOS; 3 to 258 are the bytes; a space is a space. The number of ids is not stored.
"""

import heapq
import math
import struct
from collections.abc import Mapping
from pathlib import Path

from llm_tokenizer.backend import AddedToken, DecodeRule
from llm_tokenizer.errors import TokenizerError
from llm_tokenizer.files import read_bytes
from llm_tokenizer.split import Splitter

FIRST_BYTE = 3
MAX_PIECE_BYTES = 65536
NAMES = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}


class Llama2cBackend:
    """Greedy byte-pair merges by the best score, with the normalisation that sentencepiece applies to such models.

    The file doesn't say how runs of spaces are treated; its pieces do: sentencepiece has learned pieces of several
    spaces only if it kept them. Without such a piece, runs become one space and outer spaces go, as in training.
    """

    def __init__(self, pieces: list[tuple[float, str]]) -> None:
        # llama2.c's exporter writes BOS and EOS between line feeds.
        self._pieces = [piece.strip("\n") if i in (1, 2) else piece for i, (_, piece) in enumerate(pieces)]
        special = [AddedToken(content=self._pieces[i], id=i, special=True) for i in range(FIRST_BYTE)]
        self._special_splitter = Splitter(special)
        self._ids: dict[str, int] = {}
        for i, piece in enumerate(self._pieces):
            self._ids.setdefault(piece, i)
        first = FIRST_BYTE + 256
        self._merges = {piece: (-score, i) for i, (score, piece) in reversed([*enumerate(pieces)][first:])}
        self._squeeze = not any("  " in piece for piece in self._merges)
        self._lead = " " if " " in self._merges else ""  # as a byte it would be the text's own space in decoding
        self.names: Mapping[str, str] = dict(zip(NAMES, self._pieces, strict=False))
        self.vocab_size = len(pieces)
        self.special_ids = frozenset(range(FIRST_BYTE))
        self.prefix: tuple[int, ...] = (1,)
        self.suffix: tuple[int, ...] = ()
        strip = "no" if not self._lead else "pieces" if self._squeeze else "piece"
        self.rule = DecodeRule(piece=self._piece, strip=strip, bytewise=True)

    def encode(self, text: str, *, parse_special: bool) -> list[int]:
        """Ids of the text; the added space goes before the very beginning alone, as for tokenizer.model."""
        ids: list[int] = []
        for i, part in enumerate(self._special_splitter.split(text) if parse_special else [text]):
            ids += [part] if isinstance(part, int) else self._merge(self._normal(part, lead="" if i else self._lead))
        return ids

    def _normal(self, text: str, lead: str) -> str:
        if self._squeeze:
            text = _squeezed(text)
        return (lead + text).replace("▁", " ") if text else ""

    def _merge(self, text: str) -> list[int]:
        """The best-scored neighbouring pair, the leftmost of equals, is joined until none is a piece (n log n)."""
        parts: list[str | None] = list(text)
        size = len(parts)
        before, after = list(range(-1, size - 1)), list(range(1, size + 1))
        queue: list[tuple[float, int, str, str]] = []

        def offer(left: int, right: int) -> None:
            if (
                left >= 0
                and right < size
                and (pair := (a := parts[left] or "") + (b := parts[right] or "")) in self._merges
            ):
                heapq.heappush(queue, (self._merges[pair][0], left, a, b))

        for i in range(size - 1):
            offer(i, i + 1)
        while queue:
            _, left, a, b = heapq.heappop(queue)
            if parts[left] != a or (right := after[left]) >= size or parts[right] != b:
                continue  # one of the two has been merged into something else
            parts[left], parts[right] = a + b, None
            after[left] = after[right]
            if after[left] < size:
                before[after[left]] = left
            offer(before[left], left)
            offer(left, after[left])
        return [i for part in parts if part is not None for i in self._lookup(part)]

    def _lookup(self, part: str) -> list[int]:
        found = self._merges.get(part)
        return [found[1]] if found else [FIRST_BYTE + byte for byte in part.encode()]

    def id_to_token(self, token_id: int) -> str | None:
        """The piece, with plain spaces."""
        return self._pieces[token_id] if 0 <= token_id < len(self._pieces) else None

    def token_to_id(self, token: str) -> int | None:
        """The piece's id; None for a string that is no piece."""
        return self._ids.get(token)

    def _piece(self, token_id: int) -> bytes | str | None:
        if FIRST_BYTE <= token_id < FIRST_BYTE + 256:
            return bytes([token_id - FIRST_BYTE])
        return self.id_to_token(token_id)


def _squeezed(text: str) -> str:
    """sentencepiece's remove_extra_whitespaces: spaces only, and ▁ counts as one at the end alone."""
    return " ".join(part for part in text.split(" ") if part).rstrip("▁ ")


def load_llama2c(path: Path) -> Llama2cBackend:
    """The backend of a llama2.c tokenizer file. Raises TokenizerError naming the rule that the file breaks."""
    return Llama2cBackend(_read(path, read_bytes(path)))


def _read(path: Path, data: bytes) -> list[tuple[float, str]]:
    if len(data) < 4 or not 0 < (longest := struct.unpack_from("<i", data)[0]) <= MAX_PIECE_BYTES:
        raise TokenizerError(
            f"{path}: a llama2.c tokenizer begins with its longest piece's size, 1 to {MAX_PIECE_BYTES}."
        )
    pieces, at = [], 4
    while at < len(data):
        if at + 8 > len(data):
            raise TokenizerError(f"{path}: the file ends inside id {len(pieces)}; it is cut short.")
        score, size = struct.unpack_from("<fi", data, at)
        at += 8
        if not (0 <= size <= max(longest, 8) and at + size <= len(data) and math.isfinite(score)):
            raise TokenizerError(
                f"{path}: id {len(pieces)} has a piece of {size} bytes and the score {score}; "
                f"the longest may have {longest}, and the file has {len(data) - at} left."
            )
        try:
            pieces.append((score, data[at : at + size].decode("utf-8")))
        except UnicodeDecodeError as error:
            raise TokenizerError(f"{path}: the piece of id {len(pieces)} is not UTF-8.") from error
        at += size
    return _checked(path, pieces)


def _checked(path: Path, pieces: list[tuple[float, str]]) -> list[tuple[float, str]]:
    for byte in range(256):
        i = FIRST_BYTE + byte
        if i >= len(pieces) or pieces[i][1] != f"<0x{byte:02X}>":
            raise TokenizerError(
                f"{path}: id {i} of a llama2.c tokenizer is <0x{byte:02X}>; this is another kind of file."
            )
    return pieces
