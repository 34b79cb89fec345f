"""Attention that stands in for the host's: all that the host tells its own reaches it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from realcompo.balancer.attention.maps import RegionMaps

from . import tiny
from .test_attention_look import read


def drawn(*size: int) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(sum(size)))


@pytest.mark.parametrize("given", [{}, {"scale": 0.7}, {"enable_gqa": True}, "both"])
@pytest.mark.parametrize("split", [False, True])
def test_scale_and_grouped_heads_are_the_hosts(given, split) -> None:
    from comfy.ldm.modules import attention
    from realcompo.balancer.comfy.attention.host_attention import joint_attention

    if not hasattr(attention, "_reshape_qkv_to_heads"):
        pytest.skip("this ComfyUI's attention has neither argument")
    given = {"scale": 0.7, "enable_gqa": True} if given == "both" else given
    own = 2 if "enable_gqa" in given else 4
    query, key, value = drawn(2, 9, 32), drawn(2, 7, 8 * own), drawn(2, 7, 8 * own) * 2
    if split:
        query, key, value = (
            t.reshape(2, t.shape[1], -1, 8).transpose(1, 2) for t in (query, key, value)
        )
    expected = attention.attention_pytorch(query, key, value, 4, skip_reshape=split, **given)
    result = joint_attention(query, key, value, 4, skip_reshape=split, **given)
    torch.testing.assert_close(result, expected)


@pytest.mark.parametrize("own", [4, 2])
def test_a_joint_map_is_read_with_the_calls_scale(own) -> None:
    from realcompo.balancer.comfy.attention.host_attention import AttentionCall
    from realcompo.balancer.comfy.attention.joint import JointSite, _Mark, _read

    image, text = 4, 3
    query, key = drawn(1, image + text, 32), drawn(1, image + text, 8 * own)
    heads = [t.reshape(1, -1, t.shape[2] // 8, 8).transpose(1, 2) for t in (query, key)]
    heads[1] = heads[1].repeat_interleave(4 // own, dim=1)
    weights = torch.eye(text)
    maps = RegionMaps(weights)
    mark = _Mark(JointSite(("double_block", 0), 1, True), image, text, True)
    call = AttentionCall.of(query, key, key, 4, scale=0.7, enable_gqa=own != 4)
    assert _read(maps, (2, 2), mark, call)
    chances = (0.7 * heads[0] @ heads[1].transpose(-2, -1)).softmax(dim=-1)
    expected = chances[:, :, :image, image:].mean(dim=1).transpose(1, 2).reshape(1, text, 2, 2)
    torch.testing.assert_close(maps.mean(), expected, rtol=1e-5, atol=1e-6)


def test_a_models_own_attention_is_asked_where_maps_are_read() -> None:
    """The host's per-model setting of the attention is in force in the readers' layers too."""
    from realcompo.balancer.comfy.host.compat import has_attention_override

    if not has_attention_override():
        pytest.skip("this ComfyUI has one attention for all models")
    model = tiny.tiny_unet(1)
    asked: list[Any] = []

    def counted(function: Any, *args: Any, **options: Any) -> torch.Tensor:
        asked.append(function)
        return function(*args, **options)

    model.model_options["transformer_options"]["optimized_attention_override"] = counted
    read(model, levels=(0.5,))
    assert len(asked) == 2 * sum(
        type(module).__name__ == "BasicTransformerBlock" for module in model.model.modules()
    )
