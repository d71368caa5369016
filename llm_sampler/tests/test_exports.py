import types

import llm_sampler


def test_all_names_the_public_attributes_and_nothing_else():
    public = {
        name
        for name, value in vars(llm_sampler).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType) and name != "version"
    }
    assert public == set(llm_sampler.__all__)
    assert list(llm_sampler.__all__) == sorted(llm_sampler.__all__)


def test_names_of_earlier_releases_can_be_imported():
    old = {"sample", "sample_huggingface", "sample_gpt_fast", "create_batch_with_continuations"}
    old |= {"get_scores_of_continuations", "best_continuation_naive", "score_batch", "score_batch_iterative"}
    assert old <= set(llm_sampler.__all__)
