"""A file of tensors is written as the format's own library reads it, whole or not at all, once."""

from __future__ import annotations

import math
import os
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
from realcompo.balancer.errors import RealCompoError
from realcompo.bench.model_files import tensor_file
from realcompo.bench.model_files.tensor_file import Entry
from safetensors import safe_open
from safetensors.torch import load_file


def _entry(tensor: torch.Tensor) -> Entry:
    return Entry(tuple(tensor.shape), tensor.dtype, lambda: tensor)


TENSORS = {
    "matrix": torch.arange(12.0).view(3, 4), "half": torch.randn(5).half(),
    "brain": torch.randn(2, 3).bfloat16(), "eight": torch.randn(7).to(torch.float8_e4m3fn),
    "ids": torch.arange(3), "text": torch.tensor([123, 125], dtype=torch.uint8),
    "gate": torch.tensor(0.5), "turned": torch.randn(3, 2).t(),
}  # fmt: skip


def test_the_formats_library_reads_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    entries = {name: _entry(tensor) for name, tensor in TENSORS.items()}
    hole = Entry((4, 5), torch.float16, None)
    tensor_file.write(path, {**entries, "hole": hole}, {tensor_file.RECIPE: "so"})
    read = load_file(path)
    assert not read.pop("hole").any() and read.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name].float(), tensor.float()), name
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {tensor_file.RECIPE: "so"}
    table, begin = tensor_file.header(path)
    table.pop("__metadata__")
    starts = {name: begin + told["data_offsets"][0] for name, told in table.items()}
    widths = {**{name: t.dtype.itemsize for name, t in TENSORS.items()}, "hole": 2}
    assert all(starts[name] % widths[name] == 0 for name in starts)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.skipif(not hasattr(os.stat_result, "st_blocks"), reason="no blocks are told here")
def test_zeros_take_no_room_on_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    tensor_file.write(path, {"hole": Entry((2**25,), torch.float32, None)}, {})
    if path.stat().st_blocks * 512 > 2**20:
        pytest.skip("this disk knows no holes in files")
    assert path.stat().st_size > 2**27


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    tensor_file.write(path, {"a": _entry(torch.ones(2))}, {})
    before = path.read_bytes()

    def fails() -> torch.Tensor:
        raise KeyboardInterrupt

    entries = {"a": _entry(torch.ones(2)), "b": Entry((2,), torch.float16, fails)}
    with pytest.raises(KeyboardInterrupt):
        tensor_file.write(path, entries, {})
    with pytest.raises(ValueError, match="b: .*not as announced"):
        tensor_file.write(path, {"b": Entry((3,), torch.float32, lambda: torch.ones(2))}, {})
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_full_disk_is_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 2**20))
    path = tmp_path / "a.safetensors"
    big = Entry((2**28,), torch.float32, lambda: torch.zeros(2**28))
    with pytest.raises(RealCompoError, match=r"a.safetensors needs 1\.0 GiB .* has 0\.0 GiB left"):
        tensor_file.write(path, {"a": big}, {})
    assert not list(tmp_path.iterdir())


def _random_files() -> Any:
    pytest.importorskip("comfy.samplers", reason="files are made of the host's networks")
    from realcompo.bench.model_files import main as random_files

    return random_files


def test_a_random_file_is_made_once_and_the_same_everywhere(tmp_path: Path) -> None:
    files = _random_files()
    one = files.write("lora_sd15", tmp_path / "a")
    other = files.write("lora_sd15", tmp_path / "b", name="mine")
    assert other.name == "mine.safetensors" and one.read_bytes() == other.read_bytes()
    assert files.write("lora_sd15", tmp_path / "c", seed=2).read_bytes() != one.read_bytes()
    whole = one.read_bytes()
    os.utime(one, (0, 0))
    assert files.write("lora_sd15", tmp_path / "a").stat().st_mtime == 0
    # cut short, and of another recipe under the same name
    one.write_bytes(whole[:-1])
    assert files.write("lora_sd15", tmp_path / "a").read_bytes() == whole
    files.write("lora_sd15", tmp_path / "b", name="mine", seed=2)
    assert other.read_bytes() != whole
    assert all(t.isfinite().all() for t in load_file(one).values())


def test_what_cannot_be_written_is_told(tmp_path: Path) -> None:
    from realcompo.bench.kept import claimed

    files = _random_files()
    with pytest.raises(RealCompoError, match="'kind': sd16 cannot be written. Use sd15, sdxl"):
        files.write("sd16", tmp_path)
    with pytest.raises(RealCompoError, match="'dtype': torch.int64 cannot be .* torch.float16"):
        files.write("vae", tmp_path, dtype=torch.int64)
    with pytest.raises(RealCompoError, match="int3 cannot be written. Use comfy_quant"):
        files.write("unet_sd15", tmp_path, quantised="int3")
    with pytest.raises(RealCompoError, match="vae has no U-Net to quantise"):
        files.write("vae", tmp_path, quantised="metadata")
    busy = pytest.raises(RealCompoError, match="another process is writing .*Try again")
    with claimed(tmp_path / "mine.safetensors"), busy:
        files.write("lora_sd15", tmp_path, name="mine")


@pytest.mark.parametrize(
    "kind, bytes_each, published",
    [("sd15", 4, 4_265_146_304), ("sdxl", 2, 6_938_078_334)],
    ids=["v1-5-pruned-emaonly", "sd_xl_base_1.0"],
)
def test_true_size_checkpoints_are_as_large_as_the_published(
    kind: str, bytes_each: int, published: int
) -> None:
    """But for the header and a table of the noise schedule."""
    contents = _random_files().KINDS[kind](False)
    numbers = sum(math.prod(tensor.shape) for tensor in contents.tensors.values())
    assert numbers * bytes_each == pytest.approx(published, rel=1e-4)
    assert numbers * bytes_each < published
