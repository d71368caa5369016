"""Documents as ids, packed into rows. Batch number n of a seed is always the same, so training resumes exactly.

Shapes: B batch, T time.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from llm_tokenizer import Tokenizer

from .chats import DRILLS, Document, documents
from .tokenizer import ASSISTANT, END

IGNORED = -100
# So many documents in a row that fit into no row end the packing of a batch.
PATIENCE = 6


@dataclass(frozen=True, kw_only=True)
class Batch:
    """`ids` (B, T) and `targets` (B, T): the id that follows each position, or IGNORED where nothing counts."""

    ids: Tensor
    targets: Tensor

    @property
    def learnt(self) -> int:
        """How many targets count."""
        return int((self.targets != IGNORED).sum())

    def split(self, parts: int) -> list[Batch]:
        """The rows, dealt to `parts` batches."""
        return [Batch(ids=self.ids[part::parts], targets=self.targets[part::parts]) for part in range(parts)]


def encode(tokenizer: Tokenizer, document: Document) -> tuple[list[int], list[bool]]:
    """The ids of a document and which of them are to be learnt: all of a story, in a chat what the assistant says."""
    if not document.messages:
        ids = tokenizer.encode(document.text, bos=True, eos=True)
        return ids, [False] + [True] * (len(ids) - 1)
    ids = tokenizer.encode_chat(document.chat, add_generation_prompt=False)
    begin, end = tokenizer.token_to_id(ASSISTANT), tokenizer.token_to_id(END)
    learnt, speaking = [], False
    for token in ids:
        learnt.append(speaking)
        speaking = token == begin or (speaking and token != end)
    return ids, learnt


def batch(
    tokenizer: Tokenizer, seed: str, *, rows: int, length: int, held: bool = False, drills: float = DRILLS
) -> Batch:
    """The batch named `seed`: whole documents packed into `rows` rows of `length` positions (longer ones are cut)."""
    packed: list[tuple[list[int], list[bool]]] = [([], []) for _ in range(rows)]
    misses = 0
    for document in documents(seed, held=held, drills=drills):
        ids, learnt = encode(tokenizer, document)
        ids, learnt = ids[: length + 1], learnt[: length + 1]
        row = next((row for row in packed if len(row[0]) + len(ids) <= length + 1), None)
        if row is None:
            misses += 1
            if misses == PATIENCE:
                break
            continue
        row[0].extend(ids)
        row[1].extend(learnt)
    return _tensors(packed, length)


def _tensors(packed: list[tuple[list[int], list[bool]]], length: int) -> Batch:
    ids = torch.zeros(len(packed), length, dtype=torch.int64)
    targets = torch.full((len(packed), length), IGNORED, dtype=torch.int64)
    for b, (row, learnt) in enumerate(packed):
        tokens = torch.tensor(row)
        ids[b, : len(row) - 1] = tokens[:-1]
        targets[b, : len(row) - 1] = torch.where(torch.tensor(learnt)[1:], tokens[1:], IGNORED)
    return Batch(ids=ids, targets=targets)
