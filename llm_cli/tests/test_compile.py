"""`compile=True`: the text is that of plain steps, whatever else is asked for. The fast tests run what would be
compiled as it is written; the slow ones compile it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import llm_blocks
from llm_cli import LLM
from llm_cli.app import run
from llm_cli.chat import ChatSession
from llm_cli.reading import PromptCache

GREEDY: dict[str, Any] = {"temperature": 0.0, "max_new_tokens": 24, "ignore_eos": True, "return_as_token_ids": True}


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch, llm: LLM) -> LLM:
    monkeypatch.setattr(llm_blocks.compiled, "torch_compile", lambda function, *, device: function)
    monkeypatch.setattr(llm._placed, "compiled", None)
    return llm


def _ids(found: Any) -> list[list[int]]:
    return [each.tolist() for each in (found if isinstance(found, list) else [found])]


@pytest.mark.parametrize(
    ("prompt", "options"),
    [
        ("One", {}),
        (["One", "A longer prompt, of more ids", "b"], {}),
        ("Samples", {"num_samples": 3, "temperature": 1.0, "seed": 7}),
        ("aaaaabaaaaabaaaaab", {"speculative": "ngram", "speculative_tokens": 3}),
        (["One", "aaaaabaaaaabaaaaab"], {"speculative": "ngram"}),
        ("The first layers", {"speculative": "self", "speculative_layers": 1}),
    ],
)
def test_the_text_is_that_of_plain_steps(prompt: Any, options: dict[str, Any], uncompiled: LLM) -> None:
    options = GREEDY | options
    wanted = uncompiled.generate(prompt, **options)
    assert _ids(uncompiled.generate(prompt, **options, compile=True)) == _ids(wanted)
    assert uncompiled._placed.compiled is not None
    assert uncompiled._placed.compiled.graphs, "no step was one that is compiled"


def test_two_generations_in_turn_have_caches_of_their_own(uncompiled: LLM) -> None:
    options = {"temperature": 0.0, "max_new_tokens": 12, "ignore_eos": True, "compile": True}
    alone = [uncompiled.complete(text, **options)[0].token_ids for text in ("first", "second, longer")]
    runs = [uncompiled.start(text, **options) for text in ("first", "second, longer")]
    pieces = [list(pair) for pair in zip(*runs, strict=True)]
    assert [[pair[i].id for pair in pieces] for i in range(2)] == [list(ids) for ids in alone]


def test_a_conversation_goes_on_from_its_cache(uncompiled: LLM) -> None:
    said = []
    for compiled in (False, True):
        settings = {"temperature": 0.0, "max_new_tokens": 8, "compile": compiled}
        session = ChatSession(uncompiled, settings=settings)
        said.append(["".join(session.ask(text)) for text in ("Hello", "And then?")])
        assert session.last is not None
        assert session.last.cached_tokens > 0
    assert said[0] == said[1]


def test_a_prompt_cache_of_the_model_is_not_taken_for_that_of_its_compiled_steps(uncompiled: LLM) -> None:
    """Its storage may be of a size that no graph was compiled for."""
    cache = PromptCache()
    options = {**GREEDY, "cache": cache}
    first = uncompiled.generate("One two", **options)
    assert _ids(uncompiled.generate("One two", **options, compile=True)) == _ids(first)
    assert _ids(uncompiled.generate("One two", **options)) == _ids(first)


def test_weights_that_move_are_compiled_anew(uncompiled: LLM) -> None:
    uncompiled.generate("One", **GREEDY, compile=True)
    before = uncompiled._placed.compiled
    uncompiled.distribute(accelerator="cpu", precision="32-true")
    assert uncompiled._placed.compiled is None
    uncompiled.generate("One", **GREEDY, compile=True)
    assert uncompiled._placed.compiled is not before


def test_compile_is_yes_or_no(llm: LLM) -> None:
    with pytest.raises(ValueError, match="compile must be True or False"):
        llm.generate("One", compile="reduce-overhead")  # type: ignore[arg-type]


def test_without_a_compiler_the_command_says_so(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    from torch._inductor import config

    with config.patch({"cpp.cxx": ("no-such-compiler",)}):
        code = run(["generate", "--prompt", "One", "--compile"])
    said = capsys.readouterr()
    assert (code, said.out) == (1, "")
    assert "compiling needs a C++ compiler" in said.err
    assert "Traceback" not in said.err


@pytest.mark.parametrize("named", [None, "elsewhere"])
def test_what_is_compiled_is_kept_in_the_users_own_cache(named: str | None, tmp_path: Path) -> None:
    """It went to torch's default in /tmp, which torch chose while the compiler was looked for."""
    environment = {name: value for name, value in os.environ.items() if name != "TORCHINDUCTOR_CACHE_DIR"}
    environment |= {"XDG_CACHE_HOME": str(tmp_path)}
    environment |= {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / named)} if named else {}
    script = (
        "from llm_cli import compiling; compiling.begin()\nfrom torch._inductor.runtime import cache_dir_utils as c"
    )
    command = [sys.executable, "-c", f"{script}\nprint(c.cache_dir())"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    wanted = tmp_path / (named or "llm_cli/compiled")
    assert done.stdout.strip() == str(wanted)
    assert str(wanted) in done.stderr


SCRIPT = """
import json, sys
import torch
from torch._dynamo.utils import counters
from llm_cli import LLM
torch.set_num_threads(1)
llm = LLM.load(distribute=None)
llm.distribute(accelerator="cpu", precision="32-true", quantize=sys.argv[1] or None)
options = dict(temperature=0.0, max_new_tokens=320, ignore_eos=True, return_as_token_ids=True)
wanted = llm.generate("Once upon a time", **options).tolist()
found = llm.generate("Once upon a time", **options, compile=True).tolist()
with torch.compiler.set_stance("fail_on_recompile"):
    again = llm.generate("Once upon a time", **options, compile=True).tolist()
hits = counters["inductor"]["fxgraph_cache_hit"] + counters["aot_autograd"]["autograd_cache_hit"]
print(json.dumps({"equal": wanted == found == again, "graphs": counters["stats"]["unique_graphs"], "hits": hits}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["", "int8"])
def test_compiled_code_writes_the_same_text_and_is_kept_between_runs(scheme: str, tmp_path: Path) -> None:
    """320 greedy ids of the model that ships, through one graph that is compiled in the first process alone."""
    told = []
    for _ in range(2):
        environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
        command = [sys.executable, "-c", SCRIPT, scheme]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        told.append(json.loads(done.stdout.splitlines()[-1]))
    assert [(one["equal"], one["graphs"]) for one in told] == [(True, 1)] * 2
    assert told[0]["hits"] == 0
    assert told[1]["hits"] > 0
