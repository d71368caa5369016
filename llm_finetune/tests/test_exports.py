import subprocess
import sys
import types

import llm_finetune


def test_all_names_the_public_attributes_and_nothing_else() -> None:
    assert len(set(llm_finetune.__all__)) == len(llm_finetune.__all__)
    assert all(getattr(llm_finetune, name) is not None for name in llm_finetune.__all__)
    assert set(llm_finetune._WHERE) <= set(llm_finetune.__all__)
    here = {name for name, value in vars(llm_finetune).items() if not isinstance(value, types.ModuleType)}
    private = {"TYPE_CHECKING", "Any", "import_module"}
    assert {name for name in here if not name.startswith("_")} - private <= set(llm_finetune.__all__)


def test_the_package_and_its_settings_are_imported_without_torch() -> None:
    script = (
        "import sys, llm_finetune; llm_finetune.Settings(); assert 'torch' not in sys.modules, 'torch was imported'"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
