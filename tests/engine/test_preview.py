"""The drawing of a layout: size, colours at the right places, readable labels."""

from __future__ import annotations

import pytest
import torch
from realcompo.balancer.errors import RealCompoError
from realcompo.balancer.layouts.layout import Layout, Region
from realcompo.balancer.layouts.mask import Mask
from realcompo.balancer.pictures.layout import draw_layout, preview_size
from realcompo.balancer.pictures.palette import PALETTE
from realcompo.nodes.inspection_layout import PREVIEW, RealCompoLayoutPreview

LEFT = Region("a red star", (0.0, 0.25, 0.5, 1.0))
RIGHT = Region("a blue circle", (0.5, 0.25, 1.0, 1.0))


def test_size_comes_from_widgets_then_image_then_layout() -> None:
    bare, sized = Layout((LEFT,)), Layout((LEFT,), width=768, height=512)
    image = torch.zeros(2, 100, 200, 3)
    assert preview_size(bare) == (512, 512)
    assert preview_size(sized) == (768, 512)
    assert preview_size(sized, image) == (200, 100)
    assert preview_size(sized, image, 64, 32) == (64, 32)
    assert preview_size(sized, width=384) == (384, 256)
    assert preview_size(sized, image, height=50) == (100, 50)


@pytest.mark.parametrize("batch", [0, 1, 3])
def test_output_is_one_picture_in_range(batch: int) -> None:
    image = torch.rand(batch, 40, 60, 3) if batch else None
    out = draw_layout(Layout((LEFT, RIGHT)), 96, 64, image)
    assert out.shape == (1, 64, 96, 3) and out.dtype == torch.float32
    assert out.min() >= 0 and out.max() <= 1


def test_regions_tint_their_own_place_only() -> None:
    image = torch.full((1, 200, 200, 3), 0.5)
    for region, colour in ((LEFT, PALETTE[0]), (RIGHT, PALETTE[1])):
        regions = (LEFT,) if region is LEFT else (LEFT, RIGHT)
        before = draw_layout(Layout(regions[:-1]), 200, 200, image) if len(regions) > 1 else image
        out = draw_layout(Layout(regions), 200, 200, image)
        x = 50 if region is LEFT else 150
        moved = out[0, 150, x] - before[0, 150, x]
        pull = torch.tensor(colour) / 255 - 0.5
        assert torch.equal(moved.sign(), pull.sign())
        assert torch.allclose(out[0, 150, 200 - x], before[0, 150, 200 - x], atol=1 / 255)


def test_frame_lies_on_the_box() -> None:
    image = torch.zeros(1, 200, 400, 3)
    out = (draw_layout(Layout((Region("x", (0.25, 0.25, 0.75, 0.75)),)), 400, 200, image) * 255)[0]
    colour = torch.tensor(PALETTE[0]).float()
    for y, x in [(149, 200), (100, 100), (100, 299)]:
        assert torch.equal(out[y, x].round(), colour)
    for y, x in [(153, 200), (100, 96), (100, 303), (20, 200)]:
        assert not out[y, x].any()


def test_mask_is_drawn_as_its_shape() -> None:
    plane = torch.zeros(10, 10)
    plane[2:8, 2:8] = torch.tril(torch.ones(6, 6))
    image = torch.zeros(1, 200, 200, 3)
    layout = Layout((Region.from_mask("x", Mask.from_tensor(plane)),))
    out = draw_layout(layout, 200, 200, image)[0]
    assert out[140, 70].sum() > 0.5  # below the diagonal
    assert out[90, 130].sum() == 0  # above it, still inside the bounds


def test_a_mask_at_the_pictures_edge_has_its_rim_there_too() -> None:
    plane = torch.zeros(10, 10)
    plane[4:, 5:] = 1.0
    layout = Layout((Region.from_mask("x", Mask.from_tensor(plane)),))
    out = (draw_layout(layout, 200, 200, torch.zeros(1, 200, 200, 3)) * 255)[0].round()
    rim = (out == torch.tensor(PALETTE[0]).float()).all(-1)
    # its four sides, two pixels wide; the label is at the corner of its box
    for side in (rim[198:, 101:199], rim[150:199, 198:], rim[150:199, 100:102]):
        assert side.all()
    assert not rim[150:198, 102:198].any()


def luminance(pixel: torch.Tensor) -> float:
    linear = pixel**2.2
    return float(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])


@pytest.mark.parametrize("backdrop", [0.0, 0.5, 1.0, None])
def test_every_label_has_contrast_on_any_backdrop(backdrop: float | None) -> None:
    shape = (1, 300, 300, 3)
    image = torch.rand(shape) if backdrop is None else torch.full(shape, backdrop)
    for index, colour in enumerate(PALETTE):
        # Regions before it lie elsewhere, so that only the colour changes.
        far = tuple(Region("x", (0.9, 0.9, 1.0, 1.0)) for _ in range(index))
        out = draw_layout(Layout((*far, Region("MMMMMMMM", (0.1, 0.1, 0.8, 0.8)))), 300, 300, image)
        plate = out[0, 30:45, 32:90]
        tones = [luminance(pixel) for pixel in plate.reshape(-1, 3)]
        contrast = (max(tones) + 0.05) / (min(tones) + 0.05)
        assert contrast > 4.5, (colour, contrast)  # WCAG 2, level AA


def test_labels_of_stacked_boxes_do_not_cover_each_other() -> None:
    box = (0.1, 0.1, 0.9, 0.9)
    layout = Layout(tuple(Region("same place", box) for _ in range(3)))
    out = (draw_layout(layout, 400, 400) * 255)[0].round()
    for colour in PALETTE[:3]:
        plate = (out == torch.tensor(colour).float()).all(-1)
        assert plate[30:200, 45:140].sum() > 300


def test_long_phrases_and_tiny_pictures_fit() -> None:
    layout = Layout((Region("word " * 60, (0.7, 0.9, 1.0, 1.0)), Region("", BOX, tokens=(3,))))
    for width, height in [(512, 512), (64, 64), (16, 16), (8, 300)]:
        assert draw_layout(layout, width, height).shape == (1, height, width, 3)


BOX = (0.2, 0.2, 0.4, 0.4)


def test_empty_layout_says_so() -> None:
    grey = draw_layout(Layout(()), 256, 256)
    assert grey[0, 110:146, 80:176].min() < 0.6  # there is text in the middle
    assert grey[0, :60].min() > 0.8


def test_input_image_stays_untouched() -> None:
    image = torch.full((1, 64, 64, 3), 0.5)
    draw_layout(Layout((LEFT,)), 64, 64, image)
    assert bool((image == 0.5).all())


def test_node_refuses_with_its_name() -> None:
    node = RealCompoLayoutPreview()
    (out,) = node.draw(Layout((LEFT,), width=128, height=64))
    assert out.shape == (1, 64, 128, 3)
    with pytest.raises(RealCompoError, match=f"^{PREVIEW}, input 'layout': got a str"):
        node.draw("layout")
    with pytest.raises(RealCompoError, match=f"^{PREVIEW}, input 'image': its shape"):
        node.draw(Layout((LEFT,)), torch.zeros(1, 5, 64, 64))
