"""Adapters in use: found with their base, chosen by call, never mixed, moved, merged, and finetuned in place."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import llm_blocks
from llm_cli import LLM, PromptCache
from llm_cli.adapters import recorded
from llm_cli.app import run
from llm_cli.chat import ChatSession
from llm_cli.models import ModelNotFoundError
from llm_cli.slash import respond
from llm_finetune import Lora, add_lora, lora_parameters, lora_targets, write_adapter
from llm_sepweight import WeightsError

GREEDY: dict[str, Any] = {"temperature": 0, "max_new_tokens": 12, "ignore_eos": True, "return_as_token_ids": True}
TEXT = "What do llamas eat?"


@pytest.fixture(scope="module")
def write(instruct: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes an adapter that changes what the model says."""
    root = tmp_path_factory.mktemp("adapters")

    def make(name: str, seed: int, base: str | None = None) -> Path:
        model, lora = llm_blocks.load(instruct, dtype=torch.float32), Lora(r=4, mlp=True, key=True)
        add_lora(model, lora_targets(model, lora), lora, seed=seed)
        generator = torch.Generator().manual_seed(seed)
        for parameter in lora_parameters(model).values():
            parameter.data.normal_(std=0.6, generator=generator)
        write_adapter(root / name, model, lora, base=str(instruct) if base is None else base)
        return root / name

    return make


@pytest.fixture(scope="module")
def one(write: Callable[..., Path]) -> Path:
    return write("one", 1)


@pytest.fixture(scope="module")
def two(write: Callable[..., Path]) -> Path:
    return write("two", 2)


@pytest.fixture(scope="module")
def both(instruct: Path, one: Path, two: Path) -> LLM:
    return _placed(instruct, adapters={"one": one, "two": two})


def _placed(*arguments: Any, quantize: str | None = None, **keywords: Any) -> LLM:
    llm = LLM.load(*arguments, distribute=None, **keywords)
    llm.distribute(accelerator="cpu", precision="32-true", quantize=quantize)
    return llm


def _ids(llm: LLM, **options: Any) -> list[int]:
    return llm.generate(TEXT, **GREEDY, **options).tolist()


def test_an_adapters_folder_is_a_model(one: Path, both: LLM, llm: LLM) -> None:
    alone = _placed(one)
    assert alone.adapters == ["default"]
    said = _ids(alone)
    assert said == _ids(both, adapter="one") == _ids(both)
    assert _ids(alone, adapter=None) == _ids(both, adapter=None) == _ids(llm)
    assert len({str(said), str(_ids(llm)), str(_ids(both, adapter="two"))}) == 3
    ids = torch.tensor([[5, 6, 7]])
    assert not torch.equal(alone.forward(ids), llm.forward(ids))


def test_adapters_are_weighed(both: LLM, llm: LLM) -> None:
    assert _ids(both, adapter={"one": 1.0}) == _ids(both, adapter="one")
    assert _ids(both, adapter={"two": 0.0}) == _ids(both, adapter={}) == _ids(llm)
    halves = _ids(both, adapter={"one": 0.5, "two": 0.5})
    assert halves not in (_ids(both, adapter="one"), _ids(both, adapter="two"), _ids(llm))
    for wrong, words in (("three", "no adapter 'three'; there are one, two"), ({"one": float("nan")}, "finite number")):
        with pytest.raises(ValueError, match=words):
            both.start(TEXT, adapter=wrong)
    with pytest.raises(ValueError, match="there are none"):
        llm.start(TEXT, adapter="one")
    with pytest.raises(ValueError, match="leave out compile, or adapter"):
        both.start(TEXT, adapter="two", compile=True)


def test_generations_with_different_adapters_take_turns(both: LLM) -> None:
    choices: list[Any] = ["one", "two", None]
    alone = [_ids(both, adapter=choice) for choice in choices]
    options = {name: value for name, value in GREEDY.items() if name != "return_as_token_ids"}
    runs = [both.start(TEXT, adapter=choice, **options) for choice in choices]
    steps = list(zip(*runs, strict=True))
    assert [[step[i].id for step in steps] for i in range(3)] == alone


@pytest.mark.parametrize("exact", [False, True])
def test_a_cache_filled_under_one_adapter_is_not_reused_under_another(both: LLM, exact: bool) -> None:
    cache = PromptCache(exact=exact)
    for choice in ("one", "two", None, "one", {"one": 0.5}):
        found = both.complete(TEXT, temperature=0, max_new_tokens=12, ignore_eos=True, cache=cache, adapter=choice)[0]
        assert found.cached_tokens == 0
        assert list(found.token_ids) == _ids(both, adapter=choice)
    again = both.complete(TEXT, temperature=0, max_new_tokens=12, cache=cache, adapter={"one": 0.5})[0]
    assert again.cached_tokens > 0


def test_a_cache_follows_adapters_that_are_set_by_hand(instruct: Path, one: Path, two: Path) -> None:
    from llm_finetune import set_adapter

    llm, cache = _placed(instruct, adapters={"one": one, "two": two}), PromptCache()
    llm.generate(TEXT, **GREEDY, cache=cache)
    set_adapter(llm.model, "two")
    assert llm.complete(TEXT, temperature=0, max_new_tokens=2, cache=cache)[0].cached_tokens == 0


def test_a_prompt_in_a_file_belongs_to_its_adapter(
    both: LLM, instruct: Path, one: Path, two: Path, tmp_path: Path
) -> None:
    cache = PromptCache(exact=True)
    both.generate(TEXT, **GREEDY, cache=cache)
    cache.save(tmp_path / "prompt")
    assert PromptCache.load(tmp_path / "prompt", both.model).ids == cache.ids
    swapped = _placed(instruct, adapters={"two": two, "one": one})
    with pytest.raises(WeightsError, match="read by another model"):
        PromptCache.load(tmp_path / "prompt", swapped.model)


def test_recorded_steps_of_a_choice_are_those_of_the_model(both: LLM, llm: LLM) -> None:
    view = both._placed.caller(_options(), None)
    step, wanted = recorded(view), recorded(llm.model)
    caches = [llm.model.new_cache(1, 32) for _ in range(2)]
    with torch.inference_mode():
        for ids in ([3, 4, 5], [6], [7], [8], [9]):
            x = torch.tensor([ids])
            assert torch.equal(step(x, caches[0]), wanted(x, caches[1]))


def _options() -> Any:
    from llm_cli.options import Options

    return Options()


def test_the_base_is_found_from_the_adapters_folder_and_by_name(
    instruct: Path, write: Callable[..., Path], one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = _ids(_placed(one))
    shutil.copytree(instruct, tmp_path / "base")
    shutil.copytree(write("beside", 1, base="../base"), tmp_path / "beside")
    assert _ids(_placed(tmp_path / "beside")) == said
    monkeypatch.setenv("LLM_CHECKPOINT_DIR", str(tmp_path))
    shutil.copytree(write("named", 1, base="base"), tmp_path / "named")
    assert _ids(_placed("named")) == said


@pytest.mark.parametrize(
    ("base", "words"), [("", "doesn't name its base"), ("/gone/away", "'/gone/away'.*isn't to be had")]
)
def test_a_moved_base_is_named_beside_the_adapter(
    write: Callable[..., Path], instruct: Path, one: Path, base: str, words: str
) -> None:
    folder = write(f"lost{len(base)}", 1, base=base)
    with pytest.raises(ModelNotFoundError, match=f"{words}.*--adapter {folder}"):
        LLM.load(folder)
    assert _ids(_placed(instruct, adapters={"any": folder})) == _ids(_placed(one))


def test_what_is_no_adapter_is_refused(instruct: Path, tmp_path: Path) -> None:
    for wrong in (instruct, tmp_path, tmp_path / "none"):
        with pytest.raises(ModelNotFoundError, match="is no folder of an adapter"):
            LLM.load(instruct, adapters={"x": wrong})


def test_the_tokenizer_of_the_adapter_goes_before_that_of_the_base(one: Path, instruct: Path, tmp_path: Path) -> None:
    assert LLM.load(one, distribute=None).tokenizer.chat_template is not None
    shutil.copytree(one, tmp_path / "own")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(instruct / name, tmp_path / "own" / name)
    config = json.loads((instruct / "tokenizer_config.json").read_text())
    (tmp_path / "own" / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": "mine"}))
    assert LLM.load(tmp_path / "own", distribute=None).tokenizer.chat_template == "mine"


def test_the_template_that_an_adapter_was_trained_with_goes_before_that_of_its_base(
    one: Path, instruct: Path, tmp_path: Path
) -> None:
    shutil.copytree(one, tmp_path / "one")
    template = "{% for m in messages %}Q: {{ m.content }}\nA: {% endfor %}"
    (tmp_path / "one" / "chat_template.jinja").write_text(template)
    messages = [{"role": "user", "content": "why?"}]
    found = LLM.load(tmp_path / "one", distribute=None).tokenizer
    assert found is not None
    assert found.render_chat(messages) == "Q: why?\nA: "
    plain = LLM.load(instruct, distribute=None).tokenizer
    assert plain is not None
    assert plain.render_chat(messages) != "Q: why?\nA: "


def test_the_base_is_quantized_and_the_adapter_stays_in_fp32(one: Path, instruct: Path) -> None:
    llm, plain = _placed(one, quantize="int8"), _placed(instruct, quantize="int8")
    assert all(each.dtype == torch.float32 for each in lora_parameters(llm.model).values())
    assert _ids(llm, adapter=None) == _ids(plain) != _ids(llm)
    with pytest.raises(ValueError, match="is quantized, and an adapter isn't added"):
        llm.merge()


def test_a_model_that_moves_keeps_its_adapters_numbers(both: LLM, one: Path) -> None:
    llm = _placed(one)
    llm.distribute(accelerator="cpu", precision="bf16-true")
    kept, wanted = lora_parameters(llm.model), lora_parameters(both.model, "one")
    assert all(torch.equal(a, b) for a, b in zip(kept.values(), wanted.values(), strict=True))


def test_merging_in_memory_gives_ordinary_layers(one: Path) -> None:
    llm, cache = _placed(one), PromptCache()
    said = llm.generate(TEXT, **GREEDY, cache=cache).tolist()
    llm.merge()
    assert llm.adapters == []
    assert llm.complete(TEXT, temperature=0, max_new_tokens=2, cache=cache)[0].cached_tokens == 0
    assert _ids(llm) == said
    with pytest.raises(ValueError, match="no adapter to merge"):
        llm.merge()


def test_chat_changes_adapters(both: LLM) -> None:
    session = ChatSession(both, settings={"temperature": 0.0, "max_new_tokens": 12})
    said = {}
    for name in ("one", "two", "none"):
        assert f"the adapter is {name}" in respond(session, f"/adapter {name}").notice
        session.clear()
        said[name] = "".join(session.ask(TEXT))
        assert said[name] == both.generate(
            [{"role": "user", "content": TEXT}], adapter=None if name == "none" else name, **session.settings
        )
    assert len(set(said.values())) == 3
    with pytest.raises(ValueError, match="no adapter 'tow'; did you mean two"):
        respond(session, "/adapter tow")


def test_commands_take_adapters(one: Path, two: Path, instruct: Path, capsys: Any, tmp_path: Path) -> None:
    flags = ["--prompt", TEXT, "--temperature", "0", "--max_new_tokens", "12", "--ignore_eos", "--precision", "32-true"]
    said = []
    for model in ([str(one)], [str(instruct), "--adapter", str(one)], [str(instruct), "--adapter", str(two)]):
        assert run(["generate", *model, *flags]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] != said[2]
    text = tmp_path / "text"
    text.write_text("Once upon a time. " * 20)
    measured = []
    for model in ([str(one)], [str(instruct), "--adapter", str(one)], [str(instruct)]):
        assert run(["evaluate", *model, "--perplexity", str(text), "--json", "--against", "none"]) == 0
        measured.append(json.loads(capsys.readouterr().out)["results"][0]["perplexity"])
    assert measured[0] == measured[1] != measured[2]


def test_what_needs_a_whole_model_says_how_to_make_one(one: Path, capsys: Any, tmp_path: Path) -> None:
    out = ["--out", str(tmp_path / "out")]
    for command in (["export", "hf", str(one)], ["export", "gguf", str(one)], ["quantize", str(one), "--to", "int8"]):
        assert run([*command, *out]) == 1
        assert f"`llm merge_lora {one}`" in capsys.readouterr().err
    assert run(["convert", str(one), str(tmp_path / "out")]) == 1
    assert f"`llm merge_lora {one}`" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_info_tells_of_an_adapter_and_its_base(
    one: Path, instruct: Path, write: Callable[..., Path], capsys: Any
) -> None:
    assert run(["info", str(one), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    wanted = sum(each.numel() for each in lora_parameters(_placed(one).model).values())
    assert told["parameters"] == wanted
    assert (told["adapter"], told["base"], told["base_path"]) == ("LORA, r 4, alpha 16", str(instruct), str(instruct))
    assert run(["info", str(write("gone", 3, base="/gone/away"))]) == 0
    assert "isn't to be had" in capsys.readouterr().out
