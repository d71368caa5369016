from types import ModuleType

import llm_quant


def test_all_names_what_can_be_imported() -> None:
    assert all(hasattr(llm_quant, name) for name in llm_quant.__all__)
    public = {
        name
        for name, value in vars(llm_quant).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert public - {"version"} <= set(llm_quant.__all__)
