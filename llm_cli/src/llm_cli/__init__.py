"""The llm command and the LLM class: the whole family composed."""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from llm_cli.models import demo_folder

if TYPE_CHECKING:
    from llm_cli.evaluation import perplexity
    from llm_cli.llm import LLM
    from llm_cli.reading import PromptCache

__all__ = ["LLM", "PromptCache", "demo_folder", "perplexity"]
__version__ = version("llm_cli")


def __getattr__(name: str) -> Any:
    """What needs torch on first use, so that importing this package imports none."""
    if name == "LLM":
        from llm_cli.llm import LLM

        return LLM
    if name == "PromptCache":
        from llm_cli.reading import PromptCache

        return PromptCache
    if name == "perplexity":
        from llm_cli.evaluation import perplexity

        return perplexity
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
