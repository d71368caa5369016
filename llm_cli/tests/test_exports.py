import subprocess
import sys
from types import ModuleType

import llm_cli

NOT_OURS = {"TYPE_CHECKING", "Any", "version"}


def test_all_names_what_can_be_imported():
    assert sorted(llm_cli.__all__) == llm_cli.__all__
    assert all(hasattr(llm_cli, name) for name in llm_cli.__all__)
    public = {
        name for name, value in vars(llm_cli).items() if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert public - NOT_OURS <= set(llm_cli.__all__)


def test_importing_the_package_imports_no_torch():
    code = "import sys, llm_cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
