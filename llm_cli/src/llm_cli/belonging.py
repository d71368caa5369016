"""Whether a prompt, a tokenizer, its chat template and a model belong together, told before wrong text comes out."""

from collections.abc import Mapping

from llm_cli.prompts import Prompt, encode_prompt
from llm_tokenizer import Tokenizer, TokenizerError

PADDING = 1024  # rows of an embedding beyond the tokenizer's tokens; sizes are rounded up for the hardware
NO_SYSTEM = (
    "this model's chat template has no place for a system message, so the model would never see it; "
    "leave it out and begin the prompt with its text"
)


class TokenizerWarning(UserWarning):
    """The tokenizer is probably not the one that the model was trained with."""


def encode(
    prompt: Prompt, tokenizer: Tokenizer | None, *, vocab_size: int, sys_prompt: str | None = None, raw: bool = False
) -> list[int]:
    """The ids of one prompt, as `encode_prompt` gives them.

    Raises ValueError also for a system message that the chat template would refuse or leave out, and for ids of the
    tokenizer that a model with `vocab_size` ids doesn't know.
    """
    template = None if tokenizer is None or raw else tokenizer.chat_template
    if tokenizer and template is not None and _has_system(prompt, sys_prompt) and not takes_system(tokenizer):
        raise ValueError(NO_SYSTEM)
    ids = encode_prompt(prompt, tokenizer, sys_prompt=sys_prompt, raw=raw)
    unknown = next((i for i in ids if i >= vocab_size), None)
    if unknown is not None and ids != prompt:
        raise ValueError(
            f"the tokenizer makes the id {unknown} of this prompt, but this model knows the ids 0 to {vocab_size - 1}, "
            "so it is probably another model's tokenizer; load with tokenizer_dir= naming the right one"
        )
    return ids


def takes_system(tokenizer: Tokenizer) -> bool:
    """Whether what the chat template writes depends on a system message; True where it can't be rendered at all."""
    question = {"role": "user", "content": "?"}
    try:
        first, second = (tokenizer.render_chat([{"role": "system", "content": text}, question]) for text in "ab")
        return first != second
    except TokenizerError:  # some refuse a system message, with words of their own
        return not _renders(tokenizer, question)


def doubt(tokenizer: Tokenizer, vocab_size: int) -> str | None:
    """A sentence where the tokenizer's size says that it is another model's, else None.

    Embeddings that are padded have more rows than there are tokens (at most a twentieth more, in what is published),
    and a few tokens may have been added since the model was trained.
    """
    tokens = tokenizer.vocab_size
    if vocab_size - max(PADDING, vocab_size // 20) <= tokens <= vocab_size + vocab_size // 100:
        return None
    outcome = "has no row for some of them" if tokens > vocab_size else "can generate ids that are no text"
    return (
        f"the tokenizer has {tokens:,} tokens and the model {vocab_size:,} ids, so the model {outcome}; if the "
        "tokenizer is another model's, name the right one with tokenizer_dir"
    )


def _has_system(prompt: Prompt, sys_prompt: str | None) -> bool:
    if isinstance(prompt, str):
        return bool(sys_prompt)
    messages = [message for message in prompt if isinstance(message, Mapping)]
    return any(message.get("role") == "system" for message in messages) or bool(messages and sys_prompt)


def _renders(tokenizer: Tokenizer, message: Mapping[str, str]) -> bool:
    try:
        tokenizer.render_chat([message])
    except TokenizerError:
        return False
    return True
