"""A step as a message: what a page decodes is what the record holds, in one transfer."""

from __future__ import annotations

import json
from base64 import b64decode
from typing import Any

import pytest
import torch
from realcompo.balancer.layouts.layout import Layout, Region
from realcompo.balancer.layouts.mask import Mask
from realcompo.balancer.realcompo.live import (
    MAP_SIDE,
    MIX_SIDE,
    region_messages,
    step_message,
    to_host,
)
from realcompo.balancer.realcompo.trace import StepRecord
from torch import Tensor


def record(height: int = 16, width: int = 24, cells: int = 8, regions: int = 3) -> StepRecord:
    made = StepRecord(4, 2.5, "balance", torch.rand(2, 1, height, width))
    for name in ("realism", "spatial"):
        setattr(made, f"shares_{name}", torch.rand(2, regions))
        setattr(made, f"loss_{name}", torch.rand(2))
        setattr(made, f"maps_{name}", (torch.rand(2, regions, cells, 2 * cells) / 77).half())
    return made


def grid(message: dict[str, Any]) -> Tensor:
    planes = torch.frombuffer(bytearray(b64decode(message["data"])), dtype=torch.uint8)
    return planes.reshape(-1, message["height"], message["width"])


def test_the_message_holds_the_first_sample_and_is_json() -> None:
    made = record()
    message = json.loads(json.dumps(step_message(made, 3)))
    assert (message["step"], message["sigma"], message["phase"]) == (4, 2.5, "balance")
    torch.testing.assert_close(
        grid(message["mix"])[0].float() / 255, made.mix[0, 0], atol=0.5 / 255 + 1e-6, rtol=0
    )
    for name in ("realism", "spatial"):
        part = message["models"][name]
        shares = getattr(made, f"shares_{name}")[0].tolist()
        assert part["shares"] == pytest.approx(shares, abs=1e-5)
        assert part["loss"] == pytest.approx(float(getattr(made, f"loss_{name}")[0]), abs=1e-5)
        maps = getattr(made, f"maps_{name}")[0].float()
        peaks = maps / maps.amax(dim=(-2, -1), keepdim=True)
        sent = grid(part["maps"])
        assert sent.shape == maps.shape and sent.amax(dim=(-2, -1)).tolist() == [255] * 3
        torch.testing.assert_close(sent.float() / 255, peaks, atol=0.5 / 255 + 1e-6, rtol=0)


def test_it_leaves_the_device_once_and_small() -> None:
    seen: list[Tensor] = []

    def fetch(data: Tensor) -> bytes:
        seen.append(data)
        return to_host(data)

    message = step_message(record(256, 160, 128, 10), 10, fetch)
    assert len(seen) == 1 and seen[0].dtype == torch.uint8 and seen[0].ndim == 1
    assert (message["mix"]["height"], message["mix"]["width"]) == (MIX_SIDE, 40)
    assert message["models"]["realism"]["maps"]["width"] == MAP_SIDE
    assert len(json.dumps(message)) < 24_000


def test_a_shrunk_mix_is_the_mean_of_its_cells() -> None:
    made = StepRecord(0, 1.0, "mix", torch.rand(1, 1, 128, 256))
    sent = grid(step_message(made, 0)["mix"])[0].float() / 255
    mean = made.mix[0, 0].reshape(32, 4, 64, 4).mean(dim=(1, 3))
    torch.testing.assert_close(sent, mean, atol=0.5 / 255 + 1e-6, rtol=0)


def test_steps_without_a_look_and_regions_that_only_others_have() -> None:
    bare = step_message(StepRecord(0, 9.0, "spatial", torch.zeros(2, 1, 8, 8)), 3)
    assert bare["models"] == {}
    assert set(b64decode(bare["mix"]["data"])) == {0}
    fewer = step_message(record(), 2)
    assert len(fewer["models"]["spatial"]["shares"]) == 2
    assert grid(fewer["models"]["spatial"]["maps"]).shape[0] == 2


def test_numbers_that_json_does_not_know() -> None:
    made = record()
    assert made.loss_realism is not None and made.maps_realism is not None
    made.loss_realism[0] = float("nan")
    made.maps_realism[0, 1] = 0.0
    message = step_message(made, 3)
    assert message["models"]["realism"]["loss"] == 0.0
    json.dumps(message, allow_nan=False)
    assert int(grid(message["models"]["realism"]["maps"])[1].max()) == 0


def test_regions_come_with_their_shapes() -> None:
    painted = torch.zeros(8, 8)
    painted[2:4, 4:8] = 1.0
    layout = Layout(
        (
            Region("a star", (0.0, 0.25, 0.5, 1.0)),
            Region("", (0, 0, 1, 1), mask=Mask.from_tensor(painted), tokens=(3,)),
        )
    )
    box, mask = json.loads(json.dumps(region_messages(layout)))
    assert box == {"phrase": "a star", "box": [0.0, 0.25, 0.5, 1.0]}
    assert mask["phrase"] == "2"
    covered = grid(mask["mask"])[0].float() / 255
    assert float(covered.mean()) == pytest.approx(8 / 64, abs=0.01)
    assert float(covered[20, 40]) == 1.0 and float(covered[20, 20]) == 0.0
