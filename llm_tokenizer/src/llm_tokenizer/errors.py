"""The one error of this package."""


class TokenizerError(ValueError):
    """A tokenizer file, chat template, text or id that breaks a rule; the message names it, the rule and a way out."""
