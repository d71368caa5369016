import types

import llm_tokenizer


def test_public_names_are_exactly_all() -> None:
    public = {
        name
        for name, value in vars(llm_tokenizer).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType) and name != "version"
    }
    assert public == set(llm_tokenizer.__all__)
    assert list(llm_tokenizer.__all__) == sorted(llm_tokenizer.__all__)
