import pytest
import torch

from llm_blocks import part_layers, require_input


@pytest.mark.parametrize(
    ("part", "begin", "layers", "end"),
    [
        ("f", True, range(8), True),
        ("b", True, range(0), False),
        ("e", False, range(0), True),
        ("b 0-3", True, range(3), False),
        ("3-5", False, range(3, 5), False),
        ("5-8 e", False, range(5, 8), True),
        ("b 0-8 e", True, range(8), True),
        ("3-5 5-8 e", False, range(3, 8), True),
    ],
)
def test_a_part_names_its_layers(part: str, begin: bool, layers: range, end: bool) -> None:
    spec, found = part_layers(part, 8)
    assert (spec.begin, found, spec.end) == (begin, layers, end)


@pytest.mark.parametrize(
    ("part", "rule"),
    [
        ("0-2 4-6", "leaves out layers 2-4"),
        ("b e", "not the 8 layers between"),
        ("2-6 e", "must reach 8, not 6"),
        ("4-9", "has 8"),
        ("nonsense", "nonsense"),
    ],
)
def test_a_part_that_cannot_run_in_one_go_is_refused(part: str, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        part_layers(part, 8)


@pytest.mark.parametrize(
    ("x", "begin"),
    [
        (torch.zeros(2, 3), True),
        (torch.zeros(2, 3, dtype=torch.int64), False),
        (torch.zeros(2, 3, 5), False),
        (torch.zeros(3, dtype=torch.int64), True),
        (torch.zeros(2, 0, dtype=torch.int64), True),
        (torch.zeros(0, 2, dtype=torch.int64), True),
        (torch.zeros(0, 2, 4), False),
        (torch.zeros(2, 3, dtype=torch.bool), True),
    ],
)
def test_input_of_the_wrong_kind_is_refused(x: torch.Tensor, begin: bool) -> None:
    with pytest.raises(ValueError, match=r"takes (ids|hidden states)|no positions"):
        require_input(x, begin=begin, dim=4)
