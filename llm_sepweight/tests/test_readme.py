import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def test_the_example_of_the_readme_runs():
    code = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)[0]
    result = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines() == [
        "safetensors 3 (9, 4)",
        "('mid.1.mlp.weight', 'mid.2.mlp.weight', 'end.lm_head.weight')",
        "Verified(files=5, bytes=20720, checksums=True)",
        "torch.bfloat16",
    ]
