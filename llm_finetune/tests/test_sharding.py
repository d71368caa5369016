"""What is sharded by itself, and what isn't however it is asked for."""

from typing import Any

import pytest
import torch

from llm_finetune import Lora, OptimizerSettings, Settings, Train, launch, started, with_lora
from llm_finetune.parallel import World
from llm_finetune.sharding import is_wanted
from llm_quant import quantize

TWO = World(size=2)


def _settings(shard: Any = "auto", **optimizer: Any) -> Settings:
    return Settings(train=Train(shard=shard), optimizer=OptimizerSettings(**optimizer))


def test_one_process_and_false_shard_nothing(make_model: Any) -> None:
    assert not is_wanted(make_model(), _settings(True), World())
    assert not is_wanted(make_model(), _settings(False), TWO)
    assert is_wanted(make_model(), _settings(True), TWO)
    assert is_wanted(make_model(), _settings(), TWO) == torch.cuda.is_available()


def test_what_cannot_be_parted_is_refused_by_name(make_model: Any) -> None:
    with pytest.raises(ValueError, match=r"train\.shard is true, but the layers of a quantized model aren't parted"):
        is_wanted(quantize(make_model(), "int8"), _settings(True), TWO)
    model = make_model().requires_grad_(True)
    with pytest.raises(ValueError, match="but Muon needs whole matrices"):
        is_wanted(model, _settings(True, name="Muon"), TWO)
    with_lora(Lora(r=1)).prepare(model)  # adapters are whole in each process
    assert is_wanted(model, _settings(True, name="Muon"), TWO)


def test_processes_in_step_have_equally_many_micro_batches() -> None:
    def shares(count: int, *, in_step: bool) -> list[list[tuple[int, bool]]]:
        return [list(World(rank=rank, size=2, in_step=in_step).share(count)) for rank in range(2)]

    assert shares(3, in_step=False) == [[(0, True), (2, True)], [(1, True)]]
    assert shares(3, in_step=True) == [[(0, True), (2, True)], [(1, True), (0, False)]]
    assert shares(0, in_step=True) == [[], []]


def test_numbers_of_processes_that_cannot_be_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(ValueError, match=r"are 2 processes, and one was started; .* torchrun --nnodes=1"), started(2):
        pass
    with pytest.raises(ValueError, match="at least 1"), started(0):
        pass
    with pytest.raises(ValueError, match="several machines start by torchrun"):
        launch(["true"], 2, 2)
    with started() as device:
        assert device.type == ("cuda" if torch.cuda.is_available() else "cpu")
