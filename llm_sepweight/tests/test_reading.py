"""How tensors come off the disk: mapped, converted, or straight into a buffer."""

import json
import threading

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import llm_sepweight
from llm_sepweight import WeightsError
from llm_sepweight.dtypes import DTYPES


def bits(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_every_dtype_is_read_bit_for_bit_both_ways(tmp_path, dtype):
    raw = torch.randint(0, 2 if dtype == torch.bool else 256, (3 * 5 * dtype.itemsize,), dtype=torch.uint8)
    tensor = raw.view(dtype).reshape(3, 5)
    llm_sepweight.write_safetensors(tmp_path / "x.safetensors", {"w": tensor})
    with llm_sepweight.open(tmp_path / "x.safetensors") as weights:
        assert torch.equal(bits(weights.read("w")), raw)
        out = torch.empty(3, 5, dtype=dtype)
        assert weights.read("w", out=out) is out
        assert torch.equal(bits(out), raw)


def test_files_we_write_are_those_of_the_safetensors_library(tmp_path, tensors):
    path = tmp_path / "x.safetensors"
    llm_sepweight.write_safetensors(path, tensors, metadata={"format": "pt"})
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert {key: file.get_tensor(key).shape for key in file.keys()} == {k: t.shape for k, t in tensors.items()}  # noqa: SIM118
        assert all(torch.equal(file.get_tensor(key), tensor) for key, tensor in tensors.items())
    header = int.from_bytes(path.read_bytes()[:8], "little")
    assert (8 + header) % 4096 == 0


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,)])
def test_scalars_and_empty_tensors(tmp_path, shape):
    tensor = torch.ones(shape, dtype=torch.bfloat16)
    llm_sepweight.write_safetensors(tmp_path / "x.safetensors", {"w": tensor})
    with llm_sepweight.open(tmp_path / "x.safetensors") as weights:
        assert weights.info("w").shape == shape
        assert torch.equal(weights.read("w"), tensor)
        assert torch.equal(weights.read("w", out=torch.zeros(shape)), tensor.float())


def test_reading_without_conversion_is_a_map_and_writing_to_it_spares_the_file(sharded, tensors):
    name = "model.layers.0.mlp.up.weight"
    with llm_sepweight.open(sharded) as weights:
        mapped = weights.read(name)
        assert mapped.data_ptr() == weights.read(name).data_ptr()
        mapped.zero_()
    with llm_sepweight.open(sharded) as weights:
        assert torch.equal(weights.read(name), tensors[name])


def test_tensors_outlive_the_weights(sharded, tensors):
    """Closing a map under a living tensor would crash the process."""
    with llm_sepweight.open(sharded) as weights:
        kept = {name: weights.read(name) for name in weights.names}
    del weights
    assert all(torch.equal(kept[name], tensor) for name, tensor in tensors.items())


def test_reading_after_close_opens_the_file_again(sharded, tensors):
    weights = llm_sepweight.open(sharded)
    weights.close()
    assert torch.equal(weights.read("lm_head.weight"), tensors["lm_head.weight"])
    weights.close()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_conversion_equals_torchs_own(sharded, tensors, dtype):
    with llm_sepweight.open(sharded) as weights:
        for name, tensor in tensors.items():
            out = torch.empty(tensor.shape, dtype=dtype)
            assert torch.equal(weights.read(name, dtype=dtype), tensor.to(dtype))
            assert torch.equal(weights.read(name, out=out), tensor.to(dtype))


def test_out_may_be_a_slice_a_transpose_or_a_parameter(sharded, tensors):
    name = "lm_head.weight"
    with llm_sepweight.open(sharded) as weights:
        buffer = torch.zeros(4, 7)
        weights.read(name, out=buffer.t())
        assert torch.equal(buffer, tensors[name].t())
        rows = torch.zeros(9, 4)
        weights.read(name, out=rows[1:8])
        assert torch.equal(rows[1:8], tensors[name])
        assert not rows[0].any()
        assert not rows[8].any()
        parameter = torch.nn.Parameter(torch.zeros(7, 4))
        assert weights.read(name, out=parameter) is parameter
        assert torch.equal(parameter.data, tensors[name])


def test_out_of_another_shape_or_dtype_is_refused(sharded):
    with llm_sepweight.open(sharded) as weights:
        with pytest.raises(WeightsError, match=r"lm_head.*\(7, 4\).*\(4, 7\)"):
            weights.read("lm_head.weight", out=torch.empty(4, 7))
        with pytest.raises(ValueError, match="contradicts out="):
            weights.read("lm_head.weight", out=torch.empty(7, 4), dtype=torch.float16)


def test_the_meta_device_gives_shape_without_data(sharded):
    with llm_sepweight.open(sharded) as weights:
        assert weights.read("lm_head.weight", device="meta").is_meta


def test_unaligned_tensors_are_copied(tmp_path):
    """Other writers may leave a header of any length, and then nothing in the file is aligned."""
    header = json.dumps({"w": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}}).encode()
    header += b" " * (1 - (8 + len(header)) % 4 + 4)
    assert (8 + len(header)) % 4 == 1
    values = torch.tensor([1.0, 2.0, 3.0])
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + values.numpy().tobytes())
    with llm_sepweight.open(path) as weights:
        read = weights.read("w")
        assert torch.equal(read, values)
        assert read.data_ptr() % 4 == 0


def test_a_bool_of_another_value_than_one_is_true(tmp_path):
    """torch computes nonsense with bools that are neither 0 nor 1."""
    header = json.dumps({"w": {"dtype": "BOOL", "shape": [3], "data_offsets": [0, 3]}}).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes([0, 1, 255]))
    with llm_sepweight.open(path) as weights:
        for read in (weights.read("w"), weights.read("w", out=torch.empty(3, dtype=torch.bool))):
            assert read.view(torch.uint8).tolist() == [0, 1, 1]


def test_a_file_that_changes_while_open_is_noticed(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"w": torch.ones(4)}, path)
    weights = llm_sepweight.open(tmp_path)
    path.unlink()
    save_file({"w": torch.ones(2), "v": torch.ones(2)}, path)
    with pytest.raises(WeightsError, match="changed since it was opened"):
        weights.read("w")


def test_threads_may_read_one_file_at_once(tmp_path):
    tensors = {f"t{i}": torch.full((1000,), float(i)) for i in range(32)}
    save_file(tensors, tmp_path / "model.safetensors")
    wrong = []

    def work(names):
        for name in names:
            out = weights.read(name, out=torch.empty(1000))
            if not torch.equal(out, tensors[name]):
                wrong.append(name)

    with llm_sepweight.open(tmp_path) as weights:
        threads = [threading.Thread(target=work, args=(list(tensors)[i::4],)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_mixed_dtypes_are_written_aligned_so_that_all_are_mapped(tmp_path):
    tensors = {"a": torch.ones(3, dtype=torch.uint8), "b": torch.ones(3), "c": torch.ones(1, dtype=torch.bfloat16)}
    llm_sepweight.write_safetensors(tmp_path / "x.safetensors", tensors)
    with llm_sepweight.open(tmp_path / "x.safetensors") as weights:
        for name, tensor in tensors.items():
            first = weights.read(name)
            assert torch.equal(first, tensor)
            assert first.data_ptr() == weights.read(name).data_ptr()
