import pytest
import torch

from llm_cli import placement
from llm_cli.placement import check_change, place, settle_threads


def on_cpu(**settings: object) -> placement.Placement:
    return place(**{"stored": torch.float32, "accelerator": "cpu"} | settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "dtype"), list(placement.PRECISIONS.items()))
def test_the_precision_asked_for_is_taken(name: str, dtype: torch.dtype):
    assert on_cpu(precision=name).dtype == dtype


@pytest.mark.parametrize(
    ("fast", "stored", "expected"),
    [
        (True, torch.float32, torch.float32),
        (True, torch.bfloat16, torch.bfloat16),
        (True, torch.float16, torch.bfloat16),
        (False, torch.bfloat16, torch.float32),
        (False, torch.float16, torch.float32),
    ],
)
def test_a_cpu_without_bf16_instructions_runs_half_types_in_fp32(
    monkeypatch: pytest.MonkeyPatch, fast: bool, stored: torch.dtype, expected: torch.dtype
):
    monkeypatch.setattr(placement, "fast_bf16", lambda: fast)
    assert on_cpu(stored=stored).dtype == expected


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"quantize": "nf4"}, ["no quantization 'nf4'", "bnb.nf4"]),
        ({"generate_strategy": "sequential"}, ["generate_strategy='sequential'", "one device"]),
        ({"devices": 4}, ["devices=4", "one device"]),
        ({"devices": 0}, ["devices", "0"]),
        ({"precision": "8-true"}, ["32-true", "8-true"]),
        ({"accelerator": "tpu"}, ["tpu", "cuda"]),
        ({"fixed_kv_cache_size": 0}, ["fixed_kv_cache_size", "0"]),
        ({"fixed_kv_cache_size": "all"}, ["max_model_supported", "all"]),
    ],
)
def test_a_setting_that_is_unknown_or_not_available_says_so(settings: dict[str, object], words: list[str]):
    with pytest.raises(ValueError, match=r".") as error:
        on_cpu(**settings)
    assert all(word in str(error.value) for word in words)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_an_absent_accelerator_is_named():
    with pytest.raises(ValueError, match="'cuda' is not present"):
        on_cpu(accelerator="cuda")


@pytest.mark.parametrize(
    ("stored", "now", "wanted", "refused"),
    [
        (torch.float16, "bf16-true", "32-true", True),
        (torch.float32, "bf16-true", "32-true", True),
        (torch.bfloat16, "16-true", "bf16-true", True),
        (torch.float16, "32-true", "16-true", False),
        (torch.bfloat16, "bf16-true", "32-true", False),
        (torch.float32, "bf16-true", "bf16-true", False),
    ],
)
def test_another_precision_is_refused_where_the_present_one_has_rounded(
    stored: torch.dtype, now: str, wanted: str, refused: bool
):
    """Weights of float16 that had been read as bfloat16 were handed out as float32 with their digits gone."""
    change = (stored, on_cpu(stored=stored, precision=now), on_cpu(stored=stored, precision=wanted))
    if refused:
        with pytest.raises(ValueError, match=r"rounded .* distribute=None"):
            check_change(*change)
    else:
        check_change(*change)


@pytest.mark.parametrize(
    ("width", "wish", "threads"), [(8, None, 1), (8, "2", 2), (8192, None, 2)], ids=["small", "told", "large"]
)
def test_a_small_model_computes_on_one_thread_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, width: int, wish: str | None, threads: int
):
    """The model that ships wrote 6 tokens a second instead of 200 while another process used the processors."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if wish is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", wish)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        settle_threads(torch.nn.Linear(width, width, bias=False, dtype=torch.float32))
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
