"""The tests that every architecture passes, as a class for pytest."""

import json
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from torch.testing import assert_close

import llm_quant
from llm_blocks.architectures import find
from llm_blocks.loading import load, read_config
from llm_blocks.testing import laws, parity
from llm_blocks.testing.family import Case, Family, stored_again
from llm_blocks.testing.gradients import check_gradients
from llm_blocks.testing.packed import check_packed
from llm_blocks.testing.parts import check_parts
from llm_blocks.testing.quantized import check_quantized
from llm_blocks.testing.recording import check_recorded

HOSTILE: tuple[Any, ...] = (
    "__import__('os')",
    "os.system",
    [],
    {},
    -1,
    0.5,
    2**40,
    True,
    ["x"],
    {"a": 1},
    float("nan"),
)
PACKED = (4, 21, 1, 4, 40)  # past the windows and the short trained lengths of most cases
CHUNK = 37  # an odd width, more than most windows of the cases


def suite(family: Family) -> type:
    """A class of tests for pytest to collect; assign it to a name that begins with Test."""
    import pytest

    class Suite:
        @pytest.fixture(scope="class", params=list(family.cases))
        @classmethod
        def case(cls, request: Any, tmp_path_factory: Any) -> Case:
            return family.make(request.param, tmp_path_factory.mktemp("reference"))

        def test_prefill_and_cached_decode_equal_transformers(self, case: Case, request: Any) -> None:
            check_parity(case, chunks=request.node.callspec.params["case"] not in family.no_laws)

        def test_greedy_text_is_identical(self, case: Case) -> None:
            prompt = case.ids(1, 12)[0].tolist()
            parity.check_greedy(case.model, case.reference, prompt, count=family.greedy)

        def test_padded_rows_equal_each_row_in_transformers(self, case: Case) -> None:
            check_padded(case)

        def test_bf16_is_as_near_to_fp32_as_transformers_is(self, case: Case) -> None:
            assert case.bf16_error() < family.bf16

        def test_what_is_saved_loads_in_transformers(self, case: Case, tmp_path: Path) -> None:
            ids = case.ids(1, 24)
            options: dict[str, Any] = {"tolerance": family.tolerance, "attention": family.attention}
            parity.check_saved(case.model, tmp_path / "saved", ids, max_shard_bytes=20_000, **options)
            again = load(tmp_path / "saved")
            assert again.config == case.model.config
            assert torch.equal(again(ids), case.model(ids))

        def test_a_sepweight_folder_keeps_every_byte(self, case: Case, tmp_path: Path) -> None:
            stored_again(case.folder, tmp_path / "sepweight")

        def test_the_laws_hold(self, case: Case, request: Any) -> None:
            if request.node.callspec.params["case"] in family.no_laws:
                pytest.skip(f"{family.why}")
            check_laws(case)

        def test_a_packed_row_computes_and_learns_what_its_texts_do_alone(self, case: Case) -> None:
            check_packed(case.part, [case.ids(1, n)[0].tolist() for n in PACKED])
            check_packed(case.part, [case.ids(1, n)[0].tolist() for n in (9, 9)])

        def test_gradients_are_those_of_torchs_operators(self, case: Case) -> None:
            check_gradients(case.part, case.ids(1, 24)[0].tolist())

        @pytest.mark.parametrize("scheme", ["int8", "int4"])
        def test_quantized_weights_compute_what_they_stand_for(self, case: Case, scheme: Any) -> None:
            check_quantized(case.model, case.ids(2, 24), scheme)

        def test_recorded_steps_are_the_plain_ones(self, case: Case, request: Any) -> None:
            name = request.node.callspec.params["case"]
            model = llm_quant.quantize(load(case.folder, dtype=torch.bfloat16), "int8")
            recorded = llm_quant.level() is not None and not any(fnmatch(name, each) for each in family.unrecorded)
            check_recorded(model, vocab_size=case.model.config.vocab_size, recorded=recorded)

        def test_both_spellings_of_the_configuration_are_read(self, case: Case, tmp_path: Path) -> None:
            check_spellings(case, tmp_path)

        @pytest.mark.parametrize("change", [{"a_key_of_tomorrow": 1}, *family.refused], ids=str)
        def test_what_cannot_be_honoured_is_refused(self, change: Mapping[str, Any]) -> None:
            raw = {**family.config(next(iter(family.cases))), **change}
            with pytest.raises(ValueError, match=r"\w"):
                find(family.model_type).Config.from_hf(raw)

        def test_no_value_breaks_the_reader_or_selects_code(self) -> None:
            config = find(family.model_type).Config
            for raw in _hostile(family):
                try:
                    config.from_hf(raw)
                except ValueError:
                    continue

        def test_presets_come_back_from_their_config_json(self) -> None:
            architecture = find(family.model_type)
            assert architecture.PRESETS
            for name, preset in architecture.PRESETS.items():
                again = architecture.Config.from_hf(json.loads(json.dumps(preset.to_hf())))
                assert again == preset, f"preset {name}"
                with torch.device("meta"):
                    architecture.Model(preset, f"b 0-{min(2, preset.num_layers)}")

    return Suite


@torch.inference_mode()
def check_parity(case: Case, *, chunks: bool = True) -> None:
    """Logits of `long` positions at once, one by one and, where `chunks` says so, in chunks, equal transformers'."""
    ids, tolerance = case.ids(2, case.family.long), case.family.tolerance
    parity.check_logits(case.model, case.reference, ids, decode=24, tolerance=tolerance)
    if chunks:
        cache = case.model.new_cache(2, case.family.long)
        found = torch.cat([case.model(chunk, cache) for chunk in ids.split(CHUNK, dim=1)], dim=1)
        laws.close(found, case.model(ids), "in chunks", tolerance)


@torch.inference_mode()
def check_padded(case: Case) -> None:
    """A right-padded batch and its next position equal what transformers gives for each row alone."""
    rows = [case.ids(1, n)[0].tolist() for n in (3, 11, 1)]
    width, tolerance = max(map(len, rows)), case.family.tolerance
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    cache = case.model.new_cache(len(rows), width + 1)
    logits = case.model(ids, cache, counts=[len(row) for row in rows])
    step = case.model(torch.tensor([[8], [9], [10]]), cache)
    for b, row in enumerate(rows):
        wanted = case.reference(torch.tensor([[*row, 8 + b]]), use_cache=False).logits[0]
        assert_close(logits[b, : len(row)], wanted[:-1], rtol=tolerance, atol=tolerance)
        assert_close(step[b, 0], wanted[-1], rtol=tolerance, atol=tolerance)


def check_laws(case: Case) -> None:
    """The laws of a model, on a case of a family."""
    layers, make = case.model.config.num_layers, case.part
    laws.check_chunks(make, case.ids(2, 13), [1, 6, 2, 4])
    laws.check_slices(make, case.ids(2, 9), sorted({1, layers - 1}))
    laws.check_first_layers(make, case.ids(2, 9), layers - 1)
    laws.check_rows(make, [case.ids(1, n)[0].tolist() for n in (4, 1, 9)])
    laws.check_rollback(make, case.ids(2, 8), case.ids(2, 3), [2, 0])
    laws.check_last_only(make, [case.ids(1, n)[0].tolist() for n in (4, 1, 6)])
    laws.check_static(make, [case.ids(1, n)[0].tolist() for n in (4, 1, 6)], case.ids(3, 9))
    laws.check_meta_build(make, "b 0-1", case.ids(1, 5))
    laws.check_meta_build(make, "f", case.ids(1, 5))
    check_parts(case.model, case.ids(1, 6))


def check_spellings(case: Case, folder: Path) -> None:
    """Ours, transformers' own of today and what is kept in memory give the same Config as the file."""
    config = type(case.model.config)
    wanted = config.from_hf(read_config(case.folder))
    assert config.from_hf(json.loads(json.dumps(wanted.to_hf()))) == wanted, "our own config.json is read otherwise"
    assert config.from_hf(case.reference.config.to_dict()) == wanted, "transformers' dictionary is read otherwise"
    case.reference.config.save_pretrained(folder)
    assert config.from_hf(read_config(folder)) == wanted, "what transformers writes is read otherwise"


def _hostile(family: Family) -> Iterator[dict[str, Any]]:
    """Configurations with one value replaced by something that a stranger might put there, and with one taken out."""
    for case in family.cases:
        raw = family.config(case)
        for key in raw:
            yield {name: value for name, value in raw.items() if name != key}
            yield from ({**raw, key: value} for value in HOSTILE)
