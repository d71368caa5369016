"""Whether a prompt, a tokenizer, its chat template and a model belong together, told before wrong text comes out."""

from collections.abc import Mapping

from llm_cli.prompts import Message, Prompt, encode_prompt
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
    if tokenizer is not None and tokenizer.chat_template is not None and not raw:
        messages = _conversation(prompt, sys_prompt)
        if any(map(_is_system, messages)) and not reads_system(tokenizer, messages):
            raise ValueError(NO_SYSTEM)
    ids = encode_prompt(prompt, tokenizer, sys_prompt=sys_prompt, raw=raw)
    unknown = next((i for i in ids if i >= vocab_size), None)
    if unknown is not None and ids != prompt:
        raise ValueError(
            f"the tokenizer makes the id {unknown} of this prompt, but this model knows the ids 0 to {vocab_size - 1}, "
            "so it is probably another model's tokenizer; load with tokenizer_dir= naming the right one"
        )
    return ids


def reads_system(tokenizer: Tokenizer, messages: list[Message]) -> bool:
    """Whether what the chat template writes of these messages depends on what their system messages say.

    Some templates know a few texts alone, or look at a system message in some conversations only, so it is the given
    ones that are compared: with another text, and without. True where it isn't the system message that is refused.
    """
    written, other = _written(tokenizer, messages), _written(tokenizer, _with_other_text(messages))
    if written != other:
        return True
    without = _written(tokenizer, [message for message in messages if not _is_system(message)])
    if written is None:  # some refuse a system message, with words of their own
        return without is None
    return without is not None and written != without


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


def _conversation(prompt: Prompt, sys_prompt: str | None) -> list[Message]:
    """The messages that the chat template is to write; none of a prompt of ids."""
    if isinstance(prompt, str):
        messages: list[Message] = [{"role": "user", "content": prompt}]
    else:
        messages = [dict(message) for message in prompt if isinstance(message, Mapping)]
    if not messages or not sys_prompt or any(map(_is_system, messages)):
        return messages  # two system prompts are refused where they are put together
    return [{"role": "system", "content": sys_prompt}, *messages]


def _is_system(message: Message) -> bool:
    return message.get("role") == "system"


def _with_other_text(messages: list[Message]) -> list[Message]:
    """The same messages, but for system messages of one letter that isn't all that the given ones say."""
    said = "".join(str(message.get("content")) for message in messages if _is_system(message)).lower()
    letter = "b" if "a" in said else "a"

    def changed(message: Message) -> Message:
        in_parts = isinstance(message.get("content"), list)
        return {**message, "content": [{"type": "text", "text": letter}] if in_parts else letter}

    return [changed(message) if _is_system(message) else message for message in messages]


def _written(tokenizer: Tokenizer, messages: list[Message]) -> str | None:
    """What the chat template writes, None where it refuses."""
    try:
        return tokenizer.render_chat(messages)
    except TokenizerError:
        return None
