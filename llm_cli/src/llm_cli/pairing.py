"""Whether a draft model speaks the language of the model that it goes before: the same token behind each id."""

import torch

from llm_cli.placement import PRECISIONS
from llm_tokenizer import Tokenizer

ADVICE = "name a smaller model of the same family as draft_model, or use speculative='ngram'"
PADDING = 0.05  # embeddings are padded with rows for no token: at most a twentieth in what is published


def check_pair(tokenizer: Tokenizer | None, vocab_size: int, draft: Tokenizer | None, draft_size: int) -> None:
    """Raise ValueError unless the tokens of both are the same, but for one in a hundred (reserved or added ones).

    `vocab_size` and `draft_size` are the ids that the models know; where a tokenizer is missing they must be equal.
    """
    if tokenizer is None or draft is None:
        if vocab_size != draft_size:
            raise ValueError(
                f"the model knows {vocab_size:,} ids and the draft model {draft_size:,}, and without a tokenizer of "
                f"each there is no telling that they mean the same; {ADVICE}"
            )
        return
    if abs(vocab_size - draft_size) > PADDING * max(vocab_size, draft_size, 20_000):
        raise ValueError(
            f"the model knows {vocab_size:,} ids and the draft model {draft_size:,}, so they don't share a "
            f"vocabulary; {ADVICE}"
        )
    size = min(vocab_size, draft_size)
    both = ((i, tokenizer.id_to_token(i), draft.id_to_token(i)) for i in range(size))
    different = [(i, a, b) for i, a, b in both if a != b]
    if len(different) > size // 100:
        i, a, b = different[0]
        raise ValueError(
            f"the draft model has another tokenizer: {len(different):,} of {size:,} ids are other tokens, the first "
            f"of them {i} ({a!r} and {b!r}); {ADVICE}"
        )


def precision_of(dtype: torch.dtype) -> str:
    """The name of a dtype among the precisions of `LLM.distribute`, to give a draft model that of its target."""
    return next(name for name, known in PRECISIONS.items() if known == dtype)
