"""Control pictures say what they should, and training sees control as the host applies it."""

from __future__ import annotations

import inspect
import time
from typing import Any

import pytest
import torch
from realcompo.balancer.errors import RealCompoError
from realcompo.balancer.layouts.layout import Layout, Region
from realcompo.nodes.demo import RealCompoShapesHint
from realcompo.shapes.control import (
    CLASS_COLOURS,
    KINDS,
    POINT_NAMES,
    POINTS,
    draw_hints,
    keypoints_of,
    limb_colours,
    scene_of_layout,
    tells_apart,
)
from realcompo.shapes.render import signed_distance
from realcompo.shapes.world import COLOURS, SHAPES, Scene, ShapeObject, make_scenes

BOX = (0.25, 0.3, 0.75, 0.7)


def one(shape: str, box: tuple[float, float, float, float] = BOX, colour: str = "red") -> Scene:
    return Scene((ShapeObject(colour, shape, box),))


def pixel(picture: torch.Tensor, x: float, y: float) -> torch.Tensor:
    """Colour (3,) of a (3, H, W) picture at 0..1 coordinates."""
    _, high, wide = picture.shape
    return picture[:, min(int(y * high), high - 1), min(int(x * wide), wide - 1)]


@pytest.mark.parametrize("size", [(128, 128), (200, 96)])
@pytest.mark.parametrize("shape", SHAPES)
def test_class_maps_are_the_silhouettes(shape: str, size: tuple[int, int]) -> None:
    wide, high = size
    picture = draw_hints([one(shape)], "segmentation", wide, high)[0]
    assert picture.shape == (3, high, wide)
    x = ((torch.arange(wide) + 0.5) / wide - 0.5) / 0.25
    y = ((torch.arange(high) + 0.5) / high - 0.5) / 0.2
    distance = signed_distance(shape, *torch.meshgrid(x, y, indexing="xy"))
    colour = torch.tensor(CLASS_COLOURS[shape]).view(3, 1, 1)
    expected = (distance < 0) * colour
    wrong = (picture != expected).any(0)
    # Only a pixel whose centre lies on the edge to a hundredth of the shape may fall either way.
    assert not (wrong & (distance.abs() > 0.01)).any()
    assert (picture.sum(0) > 0).float().mean() > 0.08


def test_every_class_has_a_colour_of_its_own() -> None:
    assert set(CLASS_COLOURS) == set(SHAPES)
    assert len(set(CLASS_COLOURS.values())) == len(SHAPES)
    assert (0.0, 0.0, 0.0) not in CLASS_COLOURS.values()
    colours = limb_colours()
    assert colours.shape == (len(POINT_NAMES), 3) == (20, 3)
    assert len({tuple(c.tolist()) for c in colours}) == 20 == len(set(POINT_NAMES))


@pytest.mark.parametrize("kind", KINDS)
def test_hints_do_not_know_colours(kind: str) -> None:
    scenes = make_scenes(16, torch.Generator().manual_seed(3))
    repainted = [
        Scene(tuple(ShapeObject(COLOURS[i], o.shape, o.box) for i, o in enumerate(s.objects)))
        for s in scenes
    ]
    assert torch.equal(draw_hints(scenes, kind), draw_hints(repainted, kind))


@pytest.mark.parametrize("kind", KINDS)
def test_batch_equals_singles(kind: str) -> None:
    scenes = make_scenes(12, torch.Generator().manual_seed(8))
    singles = torch.cat([draw_hints([scene], kind, 120, 136) for scene in scenes])
    assert torch.equal(draw_hints(scenes, kind, 120, 136), singles)
    assert draw_hints([], kind).shape == (0, 3, 128, 128)


@pytest.mark.parametrize(
    ("shape", "points"),
    [
        ("circle", [(0.5, 0.3), (0.75, 0.5), (0.5, 0.7), (0.25, 0.5)]),
        ("cross", [(0.5, 0.3), (0.75, 0.5), (0.5, 0.7), (0.25, 0.5)]),
        ("square", [(0.25, 0.3), (0.75, 0.3), (0.75, 0.7), (0.25, 0.7)]),
        ("triangle", [(0.5, 0.3), (0.75, 0.7), (0.25, 0.7)]),
        # Tips of a regular star in its bounding box: cos 36 = .809, cos 72 = .309, sin 36 = .588.
        ("star", [(0.5, 0.3), (0.75, 0.4528), (0.6545, 0.7), (0.3455, 0.7), (0.25, 0.4528)]),
    ],
)
def test_keypoints(shape: str, points: list[tuple[float, float]]) -> None:
    (found,) = keypoints_of(one(shape))
    assert [name for name, _, _ in found] == [n for n in POINT_NAMES if n.startswith(shape)]
    for (_, x, y), wanted in zip(found, points, strict=True):
        assert (x, y) == pytest.approx(wanted, abs=1e-4)
    # They are the drawn shape's own points: on its outline but for the rounding of corners.
    for _, x, y in POINTS[shape]:
        assert abs(float(signed_distance(shape, torch.tensor(x), torch.tensor(y)))) < 0.03


@pytest.mark.parametrize("size", [(128, 128), (256, 160)])
@pytest.mark.parametrize("shape", SHAPES)
def test_skeletons(shape: str, size: tuple[int, int]) -> None:
    picture = draw_hints([one(shape)], "keypoints", *size)[0]
    colours = limb_colours()
    (found,) = keypoints_of(one(shape))
    for name, x, y in found:
        colour = colours[POINT_NAMES.index(name)]
        assert torch.equal(pixel(picture, x, y), colour)
        # Half way to the centre: the limb.
        assert torch.equal(pixel(picture, (x + 0.5) / 2, (y + 0.5) / 2), colour)
    seen = {tuple(c) for c in picture.flatten(1).T.tolist()}
    own = {tuple(colours[POINT_NAMES.index(name)].tolist()) for name, _, _ in found}
    assert seen == own | {(0.0, 0.0, 0.0)}


def test_later_objects_are_on_top() -> None:
    low, high = ShapeObject("red", "cross", BOX), ShapeObject("blue", "circle", BOX)
    for first, second in ((low, high), (high, low)):
        picture = draw_hints([Scene((first, second))], "segmentation")[0]
        assert pixel(picture, 0.5, 0.5).tolist() == list(CLASS_COLOURS[second.shape])


def test_objects_at_the_edge_are_cut() -> None:
    whole = draw_hints([one("square", (0.0, 0.0, 1.0, 1.0))], "segmentation")[0]
    assert (whole[1] == 1).float().mean() > 0.99
    for kind in KINDS:
        edge = draw_hints([one("star", (0.7, 0.75, 1.0, 1.0))], kind)[0]
        assert edge[:, :80].sum() == 0 and edge[:, 96:].sum() > 0


def test_unknown_kind() -> None:
    with pytest.raises(ValueError, match="segmentation, keypoints"):
        draw_hints([], "depth")


@pytest.mark.parametrize("kind", KINDS)
def test_hints_are_drawn_fast_enough_to_train_on(kind: str) -> None:
    scenes = make_scenes(96, torch.Generator().manual_seed(5))
    draw_hints(scenes[:2], kind)
    start = time.process_time()
    draw_hints(scenes, kind)
    assert len(scenes) / (time.process_time() - start) >= 300


def test_tells_apart() -> None:
    def scene(*pairs: str) -> Scene:
        return Scene(tuple(ShapeObject(*pair.split(), BOX) for pair in pairs))

    assert tells_apart(scene("red circle", "red square", "blue star"))
    assert tells_apart(scene("red circle", "red circle"))
    assert not tells_apart(scene("red circle", "blue star", "blue circle"))


def test_scene_of_layout() -> None:
    boxes = [(0.1, 0.1, 0.4, 0.4), (0.5, 0.5, 0.9, 0.9), (0.0, 0.6, 0.3, 1.0)]
    phrases = ["a red star", "two Blue crosses,", "the small orange triangle"]
    regions = tuple(Region(p, b) for p, b in zip(phrases, boxes, strict=True))
    scene = scene_of_layout(Layout(regions))
    assert [(o.colour, o.shape) for o in scene.objects] == [
        ("red", "star"), ("blue", "cross"), ("orange", "triangle"),
    ]  # fmt: skip
    assert [o.box for o in scene.objects] == boxes


@pytest.mark.parametrize(
    "phrase", ["a corgi", "a red thing", "a star", "a red circle and a blue star", "a pinkish star"]
)
def test_phrases_outside_the_demo_are_refused(phrase: str) -> None:
    node = RealCompoShapesHint()
    layout = Layout((Region("a red star", BOX), Region(phrase, BOX)))
    with pytest.raises(RealCompoError, match="one colour and one shape") as caught:
        node.draw(layout, "segmentation", 128, 128)
    assert phrase in str(caught.value)
    assert str(caught.value).startswith("Shapes Demo Hint, input 'layout'")


@pytest.mark.parametrize(
    ("layout", "kind", "where"),
    [(None, "keypoints", "layout"), (Layout(()), "keypoints", "layout"),
     (Layout((Region("a red star", BOX),)), "depth", "kind")],
)  # fmt: skip
def test_bad_input_of_the_hint_node(layout: Any, kind: str, where: str) -> None:
    with pytest.raises(RealCompoError, match=f"^Shapes Demo Hint, input '{where}'"):
        RealCompoShapesHint().draw(layout, kind, 128, 128)


@pytest.mark.parametrize("kind", KINDS)
def test_hint_node_draws_the_layout(kind: str) -> None:
    layout = Layout((Region("a red star", BOX),))
    (image,) = RealCompoShapesHint().draw(layout, kind, 160, 96)
    assert image.shape == (1, 96, 160, 3)
    assert torch.equal(image.movedim(-1, 1), draw_hints([one("star")], kind, 160, 96))


@pytest.fixture
def controlled() -> Any:
    from realcompo.shapes.host_models import build_control, build_model
    from realcompo.shapes.train_control import Controlled, start_control
    from realcompo.shapes.train_diffusion import initialise

    torch.manual_seed(6)
    unet, control = build_model().diffusion_model, build_control()
    initialise(unet)
    with torch.no_grad():
        # A UNet at its start gives zeros only: nothing could be told from its output.
        for parameter in unet.parameters():
            parameter.add_(0.03 * torch.randn_like(parameter))
    start_control(control, unet)
    return Controlled(unet, control)


def batch() -> dict[str, torch.Tensor]:
    make = torch.Generator().manual_seed(12)
    t = torch.tensor([900, 300])
    return {
        "x": torch.randn(2, 16, 16, 16, generator=make), "t": t,
        "context": torch.randn(2, 77, 64, generator=make),
    }  # fmt: skip


def scenes() -> list[Scene]:
    return make_scenes(2, torch.Generator().manual_seed(4))


def test_control_starts_as_the_encoder_and_adds_nothing(controlled: Any) -> None:
    given = batch()
    controlled.hint = draw_hints(scenes(), "segmentation")
    with torch.no_grad():
        out = controlled(**given)
        plain = controlled.unet(given["x"], given["t"].float(), context=given["context"])
    assert torch.equal(out, plain) and out.std() > 0.01
    own = controlled.control.state_dict()
    shared = {k: v for k, v in controlled.unet.state_dict().items() if k in own}
    assert len(shared) > 60 and all(torch.equal(own[k], v) for k, v in shared.items())


def test_training_learns_control_and_leaves_the_unet_alone(controlled: Any) -> None:
    from realcompo.balancer.comfy.host.compat import adds_in_place

    if adds_in_place():
        pytest.skip("training needs a ComfyUI from June 2025 on: this one adds in place")
    from realcompo.shapes.train_control import KEPT_RANDOM
    from realcompo.shapes.train_maps import WordMaps

    given = batch()
    before = {k: v.clone() for k, v in controlled.unet.state_dict().items()}
    first = {k: v.clone() for k, v in controlled.control.state_dict().items()}
    learned = [p for p in controlled.control.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=2e-3)
    controlled.hint = draw_hints(scenes(), "keypoints")
    target = torch.randn(given["x"].shape, generator=torch.Generator().manual_seed(2))
    errors = []
    for _ in range(6):
        maps = WordMaps()
        error = (controlled(**given, maps=maps) - target).square().mean()
        taught = [m.requires_grad for m in maps.each]
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(float(error.detach()))
    assert errors[-1] < errors[0]
    # Maps before the control cannot be taught, those after it can.
    assert taught == [False, False, True, True, True]
    assert all(torch.equal(before[k], v) for k, v in controlled.unet.state_dict().items())
    moved = {k for k, v in controlled.control.state_dict().items() if not torch.equal(first[k], v)}
    assert set(first) - moved == {k for k in first if k.startswith(KEPT_RANDOM)}


def test_control_in_training_is_control_in_the_host(controlled: Any) -> None:
    """The same weights behind the host's wrapper, applied by the host's model, guided batch too."""
    import comfy.controlnet
    from realcompo.shapes.host_models import build_model

    with torch.no_grad():
        for parameter in controlled.control.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    base = build_model()
    base.diffusion_model.load_state_dict(controlled.unet.state_dict())
    base.eval()
    given, hint = batch(), draw_hints(scenes(), "keypoints")
    wrapper = comfy.controlnet.ControlNet(controlled.control, load_device=torch.device("cpu"))
    wrapper = wrapper.copy().set_cond_hint(hint, 1.0, (0.0, 1.0))
    sampling = base.model_sampling
    wrapper.pre_run(base, sampling.percent_to_sigma)
    # Each prompt of a guided batch has its half, as the host lays it out.
    x, t = given["x"].repeat(2, 1, 1, 1), given["t"][:1].repeat(4)
    context = torch.cat((given["context"], given["context"].flip(0)))
    sigma = sampling.sigmas[t]
    scaled = x * (sigma.view(-1, 1, 1, 1) ** 2 + 1).sqrt()
    options = (
        [{}] if "transformer_options" in inspect.signature(wrapper.get_control).parameters else []
    )
    controlled.hint = hint
    with torch.no_grad():
        control = wrapper.get_control(scaled, sigma, {"c_crossattn": context}, 2, *options)
        denoised = base.apply_model(scaled, sigma, c_crossattn=context, control=control)
        noise = controlled(x, t, context)
        plain = controlled.unet(x, t.float(), context=context)
    expected = scaled - noise * sigma.view(-1, 1, 1, 1)
    assert torch.allclose(denoised, expected, atol=1e-5, rtol=1e-5)
    assert (noise - plain).abs().max() > 0.01
