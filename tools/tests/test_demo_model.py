"""The corpus, tokenizer and trainer of the model that ships: seeded, consistent, split, and resumed exactly."""

import random
import re
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch

import llm_blocks
from llm_model_llama import Config
from llm_tokenizer import Tokenizer

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # tools/ is no package that could be installed

from tools.demo_model.batches import IGNORED, batch, encode
from tools.demo_model.cast import ANIMAL_KINDS, PEOPLE_KINDS, PLACES, being, friend, hero
from tools.demo_model.chats import Document, compose, documents, held_out
from tools.demo_model.drills import drill
from tools.demo_model.export import export
from tools.demo_model.facts import ANIMAL_ROWS, arithmetic, ask, capital
from tools.demo_model.frame import SIGHTS
from tools.demo_model.grammar import article, expand
from tools.demo_model.held_out import main
from tools.demo_model.story import PLOTS, Story, tell, tell_plot
from tools.demo_model.tokenizer import ASSISTANT, BOS, END, EOS, train_tokenizer
from tools.demo_model.train import Plan, Trainer, held_out_loss, restore, save

TINY = Config(
    vocab_size=512,
    dim=32,
    hidden_dim=64,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    max_positions=128,
    tie_embeddings=True,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    texts = (d.text or " ".join(content for _, content in d.messages) for d in islice(documents("test"), 150))
    train_tokenizer(texts, path, vocab_size=TINY.vocab_size, max_positions=TINY.max_positions)
    return path


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.load(folder)


@pytest.fixture(scope="module")
def stories() -> list[Story]:
    return [tell(random.Random(seed)) for seed in range(800)]


def trainer(tokenizer: Tokenizer, plan: Plan) -> Trainer:
    return Trainer(llm_blocks.new_model(TINY, seed=plan.seed), tokenizer, plan)


def test_expand_chooses_among_nested_alternatives() -> None:
    results = {expand("a[b[c|d]|]", random.Random(seed)) for seed in range(60)}
    assert results == {"abc", "abd", "a"}


@pytest.mark.parametrize(
    ("words", "expected"), [("owl", "an owl"), ("unicorn", "a unicorn"), ("Old boat", "an Old boat")]
)
def test_article_follows_the_sound(words: str, expected: str) -> None:
    assert article(words) == expected


def test_the_held_out_text_is_of_stories_that_are_never_trained_on(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--stories", "20"])
    stories = capsys.readouterr().out.split(f"{EOS}{BOS}")
    assert len(stories) == 20
    held = (document for document in documents("stories", held=True) if document.is_story)
    texts = [document.text for document in islice(held, 20)]
    assert [story.removeprefix(BOS).removesuffix(EOS) for story in stories] == texts
    main(["--stories", "20", "--plain"])
    assert capsys.readouterr().out == "".join(f"{text}\n\n" for text in texts)


def test_the_corpus_is_the_same_for_the_same_seed_and_differs_for_another() -> None:
    first, again, other = (list(islice(documents(seed), 30)) for seed in ("1", "1", "2"))
    assert first == again
    assert not {d.text for d in first if d.text} & {d.text for d in other}


def test_held_out_combinations_never_meet_training() -> None:
    seen = {combo for d in islice(documents("a"), 300) for combo in d.combos}
    kept = {
        combo
        for d in islice(documents("a", held=True), 60)
        for combo in d.combos
        if held_out(Document(combos=(combo,)))
    }
    assert kept
    assert not seen & kept


def test_stories_are_all_different(stories: list[Story]) -> None:
    assert len({story.text for story in stories}) == len(stories)


def test_stories_hold_no_leftover_of_the_grammar(stories: list[Story]) -> None:
    for story in stories:
        for text in (story.text, *story.topics, *(part for pair in story.questions for part in pair)):
            assert not re.search(r"[\[\]{}|]|  | [.,!?]|\.\.|(?<!\w)a [aeio]\w", text), text


def test_every_sentence_of_a_story_begins_with_a_capital(stories: list[Story]) -> None:
    for story in stories:
        for sentence in re.split(r'(?<=[.!?]) (?="|\w)|\n\n', story.text):
            assert re.match(r'"?[A-Z]', sentence), (sentence, story.text)


@pytest.mark.parametrize("plot", PLOTS)
def test_a_plot_is_about_its_hero_with_one_pronoun(plot: str) -> None:
    """Two stories that differ in the hero's gender alone differ in pronouns and names alone."""
    kind = next(k for k in ANIMAL_KINDS if k.name == "sheep")
    for seed in range(6):
        her, him = (_told(plot, kind.name, female, seed) for female in (True, False))
        assert her.text.count("Bo") >= 4
        assert _neutral(her.text) == _neutral(him.text)


def _told(plot: str, kind: str, female: bool, seed: int) -> Story:
    hero = replace(
        being(random.Random(seed), next(k for k in ANIMAL_KINDS if k.name == kind)), name="Bo", female=female
    )
    return tell_plot(random.Random(seed), plot, hero, "farm")


def _neutral(text: str) -> str:
    names = re.sub(r"\b[A-Z][a-z]+\b", "Name", text)
    return re.sub(r"\b([Ss]he|[Hh]e|[Hh]er|[Hh]is|[Hh]im|herself|himself|Name)\b", "x", names)


def test_friends_of_the_hero_have_the_other_pronoun() -> None:
    for seed in range(200):
        rng = random.Random(seed)
        who = hero(rng)
        other = friend(rng, who, who.places[0])
        assert other.female != who.female
        assert other.kind != who.kind


def test_questions_about_a_story_are_answered_from_it(stories: list[Story]) -> None:
    for story in stories:
        assert story.hero.name in story.text
        name = dict(story.questions)[f"What is the name of the {story.hero.kind}?"]
        assert name.endswith(f" is {story.hero.name}.")
        learnt = dict(story.questions)["What is the moral of the story?"].removeprefix("The moral is that ")
        assert learnt in story.text


def test_exercises_are_answered_from_what_was_said() -> None:
    for seed in range(400):
        turns = drill(random.Random(seed))
        told = " ".join(question for question, _ in turns)
        named = re.findall(
            r"\b[A-Z][a-z]+\b", " ".join(re.sub(r"^\w+|(?<=[.!] )\w+", "", answer) for _, answer in turns)
        )
        assert all(name in told for name in named if name not in ("Hello", "Hi")), turns


def test_every_place_has_sights_and_every_kind_a_place() -> None:
    assert SIGHTS.keys() == PLACES.keys()
    assert {place for kind in (*ANIMAL_KINDS, *PEOPLE_KINDS) for place in kind.places} <= PLACES.keys()


def test_arithmetic_is_right() -> None:
    for seed in range(300):
        _, answer = arithmetic(random.Random(seed))
        a, op, b, result = re.fullmatch(r"(\d+) (\S+) (\d+) (?:=|is) (\d+)\.", answer).groups()  # type: ignore[union-attr]
        a, b = int(a), int(b)
        assert int(result) == {"+": a + b, "plus": a + b, "-": a - b, "minus": a - b}.get(op, a * b)


def test_llamas_and_capitals_are_known() -> None:
    assert next(row for row in ANIMAL_ROWS if row[0] == "llama")[2] == "grass, hay and leaves"
    answers = {capital(random.Random(seed))[1] for seed in range(600)}
    assert "The capital of France is Paris." in answers


def test_questions_and_answers_are_whole_sentences() -> None:
    for seed in range(1500):
        question, answer = ask(random.Random(seed))
        assert question.strip()
        assert not re.search(r"[\[\]{}]|\b[Aa] [aeio]\w", question + answer), (question, answer)
        assert answer[0].isupper() or answer[0].isdigit()


def test_chats_are_encoded_as_the_template_renders_them(tokenizer: Tokenizer) -> None:
    chats = [d for d in islice(documents("chats"), 60) if d.messages]
    for document in chats:
        ids, learnt = encode(tokenizer, document)
        rendered = tokenizer.render_chat(document.chat, add_generation_prompt=False)
        assert tokenizer.decode(ids, skip_special=False) == rendered
        said = tokenizer.decode([i for i, is_learnt in zip(ids, learnt, strict=True) if is_learnt], skip_special=False)
        assert said == "".join(content + END for role, content in document.messages if role == "assistant")


def test_plain_stories_begin_with_bos_and_end_with_eos(tokenizer: Tokenizer) -> None:
    document = next(d for d in documents("stories") if d.text)
    ids, learnt = encode(tokenizer, document)
    assert tokenizer.decode(ids, skip_special=False) == BOS + document.text + EOS
    assert learnt == [False] + [True] * (len(ids) - 1)


@pytest.mark.parametrize("text", ["naïve café", "数字 12", "tab\tand\nnewline", "🦙"])
def test_any_text_survives_the_tokenizer(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_folder_names_both_ends(tokenizer: Tokenizer) -> None:
    assert set(tokenizer.end_ids) == {tokenizer.token_to_id(EOS), tokenizer.token_to_id(END)}
    assert tokenizer.encode_chat([{"role": "user", "content": "Hi"}])[-1] == tokenizer.token_to_id(ASSISTANT)


def test_batches_predict_the_next_id_and_skip_padding(tokenizer: Tokenizer) -> None:
    data = batch(tokenizer, "b", rows=3, length=96)
    counted = (data.targets[:, :-1] != IGNORED) & (data.ids[:, 1:] != 0)  # 0 is the padding after the last target
    assert torch.equal(data.targets[:, :-1][counted], data.ids[:, 1:][counted])
    assert 0 < data.learnt == sum(part.learnt for part in data.split(2))
    assert data.learnt <= 3 * 96


def test_training_lowers_the_held_out_loss_and_resumes_exactly(tokenizer: Tokenizer, tmp_path: Path) -> None:
    plan = Plan(steps=12, cooldown=4, warmup=2, early=0, rows=4, length=96, long_rows=2, long_length=128, lr=1e-2)
    whole = trainer(tokenizer, plan)
    before = held_out_loss(whole.model, tokenizer, batches=1, rows=2, length=96)
    losses = dict(whole.train(12))
    assert held_out_loss(whole.model, tokenizer, batches=1, rows=2, length=96) < before - 0.5

    first = trainer(tokenizer, plan)
    assert [loss for _, loss in first.train(7)] == [losses[step] for step in range(1, 8)]
    save(first, tmp_path / "trainer.pt")
    second = trainer(tokenizer, plan)
    restore(second, tmp_path / "trainer.pt")
    assert dict(second.train(12)) == {step: losses[step] for step in range(8, 13)}
    for left, right in zip(whole.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(left, right)


def test_a_checkpoint_of_another_plan_is_refused(tokenizer: Tokenizer) -> None:
    state = trainer(tokenizer, Plan(steps=100, cooldown=20)).state() | {"step": 50}
    trainer(tokenizer, Plan(steps=90, cooldown=30)).restore(state)  # the rate falls only after step 50 in both
    for other in (Plan(steps=60, cooldown=20), Plan(steps=100, cooldown=20, seed=1)):
        with pytest.raises(ValueError, match="delete it"):
            trainer(tokenizer, other).restore(state)


def test_compose_gives_stories_chats_and_questions() -> None:
    made = [compose(random.Random(seed)) for seed in range(200)]
    assert sum(1 for d in made if d.text) > 30
    assert sum(1 for d in made if len(d.messages) > 4) > 20


def test_rates_rise_stay_and_fall() -> None:
    plan = Plan(steps=100, cooldown=40, warmup=10)
    muon, adam = zip(*(plan.rates(step) for step in (0, 9, 60, 80, 99)), strict=True)
    assert muon == pytest.approx((0.1, 1.0, 1.0, 0.5, 0.025))
    assert adam == pytest.approx((0.1, 1.0, 1.0, 0.125, 0.025**3))


def test_an_export_replaces_the_folder_and_loads(folder: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    out = tmp_path / "demo"
    export(llm_blocks.new_model(TINY, seed=1), folder, out)
    (out / "stale.txt").write_text("from an older build")
    model = llm_blocks.new_model(TINY, seed=2)
    export(model, folder, out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["demo"]
    assert not (out / "stale.txt").exists()
    loaded = llm_blocks.load(out)
    assert torch.equal(loaded.begin.embed.weight, model.begin.embed.weight.bfloat16())
    assert llm_blocks.read_config(out)["eos_token_id"] == sorted(tokenizer.end_ids)
    assert Tokenizer.load(out).chat_template == tokenizer.chat_template
