"""Filters, sampling loops, scoring, measuring and speculative acceptance over any callable from ids to logits."""

from importlib.metadata import version

from .beam import Beam, beam_search
from .choosing import Step
from .legacy import (
    best_continuation_naive,
    create_batch_with_continuations,
    get_scores_of_continuations,
    sample_gpt_fast,
    sample_huggingface,
    sample_multiple_choice,
    score_batch,
    score_batch_iterative,
)
from .measures import Divergence, Perplexity
from .measuring import kl_divergence, perplexity, token_nlls
from .options import SamplingOptions, Settings
from .picking import pick, token_logprobs
from .sampling import sample, steps
from .scoring import Scores, choose, score
from .speculative import propose_by_lookup, speculative_accept, speculative_accept_greedy
from .speculative_loop import Progress, speculative_steps
from .speculative_pace import Pace, SpeculativeReport

__all__ = [
    "Beam",
    "Divergence",
    "Pace",
    "Perplexity",
    "Progress",
    "SamplingOptions",
    "Scores",
    "Settings",
    "SpeculativeReport",
    "Step",
    "beam_search",
    "best_continuation_naive",
    "choose",
    "create_batch_with_continuations",
    "get_scores_of_continuations",
    "kl_divergence",
    "perplexity",
    "pick",
    "propose_by_lookup",
    "sample",
    "sample_gpt_fast",
    "sample_huggingface",
    "sample_multiple_choice",
    "score",
    "score_batch",
    "score_batch_iterative",
    "speculative_accept",
    "speculative_accept_greedy",
    "speculative_steps",
    "steps",
    "token_logprobs",
    "token_nlls",
]
__version__ = version("llm_sampler")
