"""`llm generate`: what stands on stdout and on stderr."""

import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llm_cli import LLM
from llm_cli.app import run
from llm_cli.commands.speculation import report
from llm_cli.completion import Completion

PRECISE = ["--precision", "32-true", "--max_new_tokens", "12"]
KEYS = ["text", "token_ids", "finish_reason", "prompt_tokens", "cached_tokens", "seconds", "tokens_per_second"]


@pytest.fixture
def generate(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[str, str]]:
    """Runs the command in this process; stdout and stderr."""

    def generate(*arguments: object, code: int = 0) -> tuple[str, str]:
        assert run(["generate", *map(str, arguments)]) == code
        captured = capsys.readouterr()
        return captured.out, captured.err

    return generate


def test_stdout_holds_the_text_and_nothing_else(generate: Any, instruct: Path, llm: LLM):
    out, err = generate(instruct, "--prompt", "hello", "--temperature", 0, *PRECISE)
    assert out == llm.generate("hello", temperature=0, max_new_tokens=12) + "\n"
    assert "tokens/s" in err


def test_json_has_one_object_for_each_sample(generate: Any, instruct: Path, llm: LLM):
    out, _ = generate(instruct, "--prompt", "hello", "--seed", 3, "--num_samples", 2, "--json", *PRECISE)
    samples = [json.loads(line) for line in out.splitlines()]
    assert [list(sample) for sample in samples] == [KEYS, KEYS]
    expected = llm.complete("hello", seed=3, num_samples=2, temperature=0.8, top_k=50, max_new_tokens=12)
    assert [sample["token_ids"] for sample in samples] == [list(one.token_ids) for one in expected]
    assert [sample["text"] for sample in samples] == [one.text for one in expected]


def test_several_samples_are_written_one_after_the_other(generate: Any, instruct: Path, llm: LLM):
    out, _ = generate(instruct, "--prompt", "hello", "--seed", 3, "--num_samples", 2, *PRECISE)
    expected = llm.generate("hello", seed=3, num_samples=2, temperature=0.8, top_k=50, max_new_tokens=12)
    assert out == "".join(text + "\n" for text in expected)


def test_the_seed_that_was_drawn_is_told_and_repeats_the_run(generate: Any, instruct: Path):
    out, err = generate(instruct, "--prompt", "hello", *PRECISE)
    seed = err.strip().rpartition("seed ")[2]
    assert generate(instruct, "--prompt", "hello", "--seed", seed, *PRECISE)[0] == out


def test_ids_as_prompt_take_no_template_and_need_no_tokenizer(generate: Any, make_checkpoint: Any):
    folder = make_checkpoint(tokenizer=False)
    arguments = ["--prompt_ids", "3,4,5", "--temperature", "0", *PRECISE]
    sample = json.loads(generate(folder, "--json", *arguments)[0])
    assert (sample["text"], sample["prompt_tokens"]) == (None, 3)
    assert len(sample["token_ids"]) == 12
    assert "--json" in generate(folder, *arguments, code=1)[1]


def test_the_prompt_comes_from_stdin(generate: Any, instruct: Path, llm: LLM, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("from a pipe\n"))
    out, _ = generate(instruct, "--prompt", "-", "--raw", "--temperature", 0, *PRECISE)
    assert out == llm.generate("from a pipe", raw=True, temperature=0, max_new_tokens=12) + "\n"


def test_the_sampling_options_reach_the_sampler(generate: Any, instruct: Path, llm: LLM):
    options: dict[str, Any] = {
        "top_k": 20,
        "top_p": 0.9,
        "temperature": 1.2,
        "min_p": 0.01,
        "typical_p": 0.95,
        "repetition_penalty": 1.3,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.5,
        "min_new_tokens": 5,
        "seed": 11,
    }
    flags = [part for name, value in options.items() for part in (f"--{name}", value)]
    out, _ = generate(instruct, "--prompt", "hi", "--sys_prompt", "be odd", "--ignore_eos", *flags, *PRECISE)
    expected = llm.generate("hi", sys_prompt="be odd", ignore_eos=True, max_new_tokens=12, **options)
    assert out == expected + "\n"


def test_stop_may_be_given_more_than_once(generate: Any, instruct: Path, llm: LLM):
    whole = llm.generate("hello", temperature=0, max_new_tokens=12)
    stops = [char for char in whole if char.isascii() and char.isprintable()][:2]
    flags = [part for stop in stops for part in ("--stop", stop)]
    out, _ = generate(instruct, "--prompt", "hello", "--temperature", 0, *flags, *PRECISE)
    assert out == whole[: min(whole.find(stop) for stop in stops)] + "\n"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--temperature", "-1"], 2, ["temperature", "-1"]),
        (["--top_p", "0"], 2, ["top_p"]),
        (["--prompt_ids", "1,b"], 2, ["1,b", "1,403,407"]),
        (["--num_samples", "0"], 2, ["num_samples"]),
        (["--logprobs", "2"], 2, ["add --json"]),
        (["--prompt", "a", "--prompt_ids", "1"], 2, ["--prompt and --prompt_ids"]),
        (["--prompt", "x" * 200], 1, ["tokens", "128"]),  # right in itself, but not for this model
        (["--prompt_ids", "1,400"], 1, ["400", "263"]),
    ],
)
def test_wrong_values_are_one_sentence_and_nothing_on_stdout(
    generate: Any, instruct: Path, arguments: list[str], code: int, words: list[str]
):
    out, err = generate(instruct, *arguments, code=code)
    assert out == ""
    assert len(err.strip().splitlines()) == 1
    assert all(word in err for word in words)


def test_logprobs_of_each_id_and_of_the_best_ones(generate: Any, instruct: Path):
    out, _ = generate(instruct, *PRECISE, "--json", "--temperature", "0", "--logprobs", "2")
    told = json.loads(out)
    assert [one["id"] for one in told["logprobs"]] == told["token_ids"]
    for one in told["logprobs"]:
        assert len(one["top"]) == 2
        assert one["top"][0] == [one["id"], one["logprob"]]  # greedy: the chosen id is the best


def test_stories260k_through_the_command_continues_as_recorded(stories: Path, greedy_ids: list[int]):
    command = [sys.executable, "-m", "llm_cli", "generate", str(stories), "--json", "--prompt_ids", "1"]
    command += ["--precision", "32-true", "--temperature", "0", "--ignore_eos"]
    command += ["--max_new_tokens", str(len(greedy_ids))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert json.loads(done.stdout)["token_ids"] == greedy_ids


def test_ids_take_no_system_prompt(generate: Any, instruct: Path):
    """It was left out without a word."""
    _, err = generate(instruct, "--prompt_ids", "3,4", "--sys_prompt", "be kind", code=1)
    assert "ids go to the model as they are" in err


def test_a_seed_too_large_is_wrong_usage(generate: Any, instruct: Path):
    """The weights were read first, and the code was that of a failure."""
    assert "seed must be" in generate(instruct, "--seed", 2**63 - 1, "--num_samples", 2, code=2)[1]


def test_a_full_context_is_told(generate: Any, instruct: Path):
    """A text that ended there looked finished."""
    arguments = ["--prompt", "hello", "--temperature", "0", "--ignore_eos", "--precision", "32-true"]
    _, err = generate(instruct, *arguments, "--max_new_tokens", "500")
    assert err.splitlines()[-1].startswith("the context of 128 tokens is full")
    assert "is full" not in generate(instruct, *arguments, "--max_new_tokens", "12")[1]


def test_a_system_prompt_that_the_model_would_never_see_is_refused(generate: Any, make_checkpoint: Any):
    """Templates like Phi-3's leave it out without a word, Gemma's refuse it with four of them and no way out."""
    silent = "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    for template in (silent, refusing + silent):
        folder = make_checkpoint()
        (folder / "chat_template.jinja").write_text(template)
        out, err = generate(folder, "--prompt", "hi", "--sys_prompt", "be kind", code=1)
        assert out == ""
        assert "no place for a system message" in err
        assert "begin the prompt with its text" in err
        generate(folder, "--prompt", "hi", *PRECISE)


def test_another_models_tokenizer_is_told(generate: Any, make_checkpoint: Any, instruct: Path):
    """Ids beyond its tokens became no text, and of ids beyond the model's the tokenizer was not suspected."""
    folder = make_checkpoint(tokenizer=False, vocab_size=4000)
    _, err = generate(folder, "--prompt", "hi", "--tokenizer_dir", instruct, *PRECISE)
    assert err.splitlines()[0].startswith("warning: the tokenizer has 262 tokens and the model 4,000 ids")
    padded = make_checkpoint(tokenizer=False, vocab_size=1024)
    assert "warning" not in generate(padded, "--prompt", "hi", "--tokenizer_dir", instruct, *PRECISE)[1]
    small = make_checkpoint(tokenizer=False, vocab_size=40)
    _, err = generate(small, "--prompt", "hi", "--tokenizer_dir", instruct, *PRECISE, code=1)
    assert "262 tokens and the model 40 ids" in err
    assert "probably another model's tokenizer" in err


@pytest.mark.parametrize(
    "flags",
    [
        ["--speculative", "ngram"],
        ["--speculative", "self", "--speculative_layers", "1", "--speculative_tokens", "2"],
        ["--draft_model", "demo"],
    ],
    ids=" ".join,
)
def test_speculation_gives_the_same_text_and_is_reported(generate: Any, flags: list[str]):
    arguments = ["demo", "--prompt", "Tell me a story.", "--seed", 3, "--precision", "32-true"]
    plain, silent = generate(*arguments)
    out, err = generate(*arguments, *flags)
    assert out == plain
    assert "speculation" not in silent
    said = r"speculation: \d+ % of \d+ proposed tokens accepted, [\d.]+ tokens a pass, [\d.]+ times as fast as without"
    assert re.fullmatch(said + "(: it is a loss here, leave it out)?", err.splitlines()[-1])
    told = json.loads(generate(*arguments, *flags, "--json")[0])
    assert told["text"] + "\n" == plain
    assert 0 <= told["accepted_tokens"] <= told["proposed_tokens"]
    assert 0 < told["passes"] < 50


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (["--speculative", "draft"], 2, "name one with --draft_model"),
        (["--speculative_layers", "1"], 2, "goes with --speculative self alone"),
        (["--speculative", "ngram", "--speculative_tokens", "99"], 2, "from 1 to 32"),
        (["--draft_model", "demo"], 1, "don't share a vocabulary"),
        (["--speculative", "self", "--speculative_layers", "9"], 1, "from 1 to 1 of this model's 2"),
    ],
)
def test_wrong_speculation_is_one_sentence(generate: Any, instruct: Path, flags: list[str], code: int, words: str):
    out, err = generate(instruct, *flags, *PRECISE, code=code)
    assert out == ""
    assert words in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("speed_up", "end"),
    [
        (1.7, ", 1.70 times as fast as without"),
        (0.8, ", 0.80 times as fast as without: it is a loss here, leave it out"),
        (None, ""),
    ],
)
def test_a_loss_is_called_a_loss(speed_up: float | None, end: str):
    rest: dict[str, Any] = {"text": "", "finish_reason": "stop", "prompt_tokens": 3, "cached_tokens": 0}
    rest |= {"seconds": 1.0, "first_token_seconds": 0.1, "token_ids": (1,) * 25, "speed_up": speed_up}
    done = Completion(**rest, proposed_tokens=20, accepted_tokens=14, passes=10)
    assert report([done]) == "speculation: 70 % of 20 proposed tokens accepted, 2.4 tokens a pass" + end
    assert report([Completion(**rest, passes=10)]) == "speculation: nothing was proposed"
    assert report([Completion(**rest)]) == ""
