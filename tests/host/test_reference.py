"""The material the guider is measured with must itself be right: reference, models, counter."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from realcompo.bench.true_models import fused_attention
from realcompo.tests.host import tiny
from realcompo.tests.host.counting import counting
from realcompo.tests.host.reference import (
    Branch,
    ReferenceResult,
    _branch,
    abar_of,
    box_mask,
    branch_shares,
    compose,
    ddim,
    map_size,
    predict,
    reading,
    reference_run,
    run_unet,
)
from torch import Tensor

pytestmark = pytest.mark.older_hosts

BOXES = [(0.0, 0.1, 0.45, 0.9), (0.5, 0.3, 1.0, 0.8)]
TOKENS: list[tuple[int, ...]] = [(2,), (5, 6)]
GROUNDED = [(1, 6, 4, 1, 0), (2, 4, 8, 5, 8)]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def realism() -> Any:
    return tiny.tiny_unet(1)


@pytest.fixture(scope="module")
def spatial() -> Any:
    return tiny.tiny_unet(2)


@pytest.fixture(scope="module")
def gligen(spatial: Any) -> Any:
    network = tiny.tiny_gligen(spatial, 3)
    return network, [(tiny.pooled_phrase(p), h, w, y, x) for p, h, w, y, x in GROUNDED]


def levels(patcher: Any, steps: int = 3) -> Tensor:
    from comfy.samplers import calculate_sigmas

    return calculate_sigmas(patcher.model.model_sampling, "normal", steps)


def text(seed: int) -> Tensor:
    return tiny.conditioning(seed)[0][0]


def run(realism: Any, spatial: Any, **changes: Any) -> ReferenceResult:
    given: dict[str, Any] = {
        "boxes": BOXES,
        "tokens": TOKENS,
        "noise": tiny.latent_noise(0),
        "sigmas": levels(realism),
        "cfg": 3.0,
        **changes,
    }
    given.setdefault("rho", [1000.0] * (len(given["sigmas"]) - 1))
    return reference_run(realism, spatial, text(11), text(12), **given)


def sample(patcher: Any, positive: Any, negative: Any, **changes: Any) -> Tensor:
    """The host's own DDIM for one model."""
    from comfy.samplers import KSampler

    with torch.inference_mode():
        sampler = KSampler(
            patcher,
            steps=changes.get("steps", 3),
            device=patcher.load_device,
            sampler="ddim",
            scheduler="normal",
            denoise=changes.get("denoise", 1.0),
            model_options=patcher.model_options,
        )
        noise = tiny.latent_noise(0, batch=changes.get("batch", 1))
        latent = changes.get("latent", torch.zeros_like(noise))
        return sampler.sample(
            noise, positive, negative, cfg=3.0, latent_image=latent, disable_pbar=True, seed=1
        )


def relative_error(got: Tensor, wanted: Tensor) -> float:
    return float((got - wanted).abs().max() / wanted.std())


class Step:
    """One balanced step by hand: predictions at z once, then the loss of any two maps."""

    def __init__(self, realism: Any, spatial: Any, gligen: Any = None, double: bool = False):
        noise = tiny.latent_noise(0)
        self.sigma, self.sigma_next = (float(s) for s in levels(realism)[:2])
        self.text = _branch(realism, text(11), text(12), noise.shape)
        self.sp = _branch(spatial, text(11), text(12), noise.shape, gligen)
        self.z = noise
        if double:
            self.z = noise.double()
            for branch in (self.text, self.sp):
                branch.unet.double()
                for layer in branch.unet.modules():
                    if hasattr(layer, "dtype"):
                        layer.dtype = torch.float64
                branch.positive = branch.positive.double()
        self.eps = [predict(b, self.z, self.sigma, True) for b in (self.text, self.sp)]

    def probe(self, coe_text: Tensor, coe_sp: Tensor) -> Tensor:
        xi = compose(coe_text, coe_sp)
        mixed = xi[0] * self.eps[0] + xi[1] * self.eps[1]
        return ddim(self.z, mixed, self.sigma, self.sigma_next)

    def part(self, branch: Branch, probe: Tensor) -> Tensor:
        return (1.0 - branch_shares(branch, probe, self.sigma, BOXES, TOKENS, 2)).sum()

    def loss(self, coe_text: Tensor, coe_sp: Tensor) -> Tensor:
        probe = self.probe(coe_text, coe_sp)
        return self.part(self.text, probe) + self.part(self.sp, probe)

    def maps(self) -> list[Tensor]:
        generator = torch.Generator().manual_seed(5)
        one = self.z[:, :1]
        return [
            (0.5 * torch.randn(one.shape, generator=generator)).to(one).requires_grad_(True)
            for _ in range(2)
        ]


def test_models_are_made_of_inference_tensors_and_repeatable(realism: Any, gligen: Any) -> None:
    control = tiny.tiny_controlnet(4)
    for module in (realism.model, gligen[0].model, control.control_model):
        assert tiny.is_inference_built(module)
    twin, other = tiny.tiny_unet(1), tiny.tiny_unet(2)
    for name, weight in realism.model.state_dict().items():
        assert torch.equal(weight, twin.model.state_dict()[name])
    weights = [p.model.diffusion_model.out[2].weight for p in (realism, other)]
    assert not torch.equal(*weights)
    assert not torch.nn.Linear(2, 2).weight.is_inference()


@pytest.mark.parametrize(
    ("count", "factor", "sites"), [(2, 1, 3), (2, 2, 4), (3, 1, 3), (3, 2, 3), (3, 4, 4)]
)
def test_attention_exists_at_every_factor(count: int, factor: int, sites: int) -> None:
    patcher = tiny.tiny_unet(1, levels=count)
    noise = tiny.latent_noise(0, height=16, width=13)
    branch = _branch(patcher, text(11), text(12), noise.shape)
    height, width = map_size(16, 13, factor)
    with reading(branch.unet, height * width) as maps:
        predict(branch, noise, 1.0, True)
    assert [m.shape for m in maps] == [(1, 2, height * width, 77)] * sites
    for m in maps:
        torch.testing.assert_close(m.sum(dim=-1), torch.ones_like(m[..., 0]))


def test_hooked_maps_and_shares_equal_those_of_the_hosts_patch(realism: Any) -> None:
    noise = tiny.latent_noise(0)
    branch = _branch(realism, text(11), text(12), noise.shape)
    patched: list[Tensor] = []

    def replace(q: Tensor, k: Tensor, v: Tensor, extra: dict[str, Any]) -> Tensor:
        n, d = extra["n_heads"], extra["dim_head"]
        q, k, v = (t.view(t.shape[0], -1, n, d).transpose(1, 2) for t in (q, k, v))
        weights = torch.softmax(q @ k.mT * d**-0.5, dim=-1)
        if q.shape[2] == 64:
            patched.append(weights)
        return (weights @ v).transpose(1, 2).flatten(2)

    keys = [("input", 1), ("input", 3), ("middle", 0), *(("output", i) for i in range(4))]
    options = {"patches_replace": {"attn2": dict.fromkeys(keys, replace)}}
    with torch.no_grad(), reading(branch.unet, 64) as maps:
        timestep = branch.timestep_of(torch.tensor([2.0])).float()
        branch.unet(noise, timestep, context=branch.positive, transformer_options=options)
    assert len(maps) == len(patched) == 4
    for hooked, wanted in zip(maps, patched, strict=True):
        torch.testing.assert_close(hooked, wanted)

    # Two heads at every site: one mean over all (site, head) pairs, then tokens, then the ratio.
    grid = torch.cat(patched, dim=1).mean(dim=1).view(8, 8, 77)
    picked = [grid[:, :, 2], grid[:, :, 5] + grid[:, :, 6]]
    rows = [slice(0, 7), slice(2, 6)]
    columns = [slice(0, 3), slice(4, 8)]
    wanted_shares = [p[r, c].sum() / p.sum() for p, r, c in zip(picked, rows, columns, strict=True)]
    with torch.no_grad():
        shares = branch_shares(branch, noise, 2.0, BOXES, TOKENS, 2)
    torch.testing.assert_close(shares[0], torch.stack(wanted_shares))


def test_other_kinds_of_model_sample(spatial: Any) -> None:
    pooled = [tiny.conditioning(s, pooled=1280) for s in (11, 12)]
    assert torch.isfinite(sample(tiny.tiny_sdxl(3), *pooled)).all()
    vector = [tiny.conditioning(s, pooled=24) for s in (11, 12)]
    assert torch.isfinite(sample(tiny.tiny_unet(3, adm=24), *vector)).all()
    plain = [tiny.conditioning(s) for s in (11, 12)]
    steered = [tiny.with_control(plain[0], tiny.tiny_controlnet(4), 9), plain[1]]
    assert not torch.equal(sample(spatial, *plain), sample(spatial, *steered))


def test_flux_type_runs_and_has_no_cross_attention() -> None:
    patcher = tiny.tiny_flux(3)
    (context, extra), *_ = tiny.conditioning(11, dim=48, pooled=32)
    with torch.inference_mode():
        out = patcher.model.apply_model(
            tiny.latent_noise(0, channels=16),
            torch.tensor([0.7]),
            c_crossattn=context,
            y=extra["pooled_output"],
            guidance=torch.tensor([3.5]),
        )
    assert out.shape == (1, 16, 16, 16) and torch.isfinite(out).all()
    assert not [n for n, _ in patcher.model.named_modules() if n.endswith("attn2")]


def test_real_sd15_has_the_known_number_of_operations() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    model = tiny.meta_sd15()
    latent, context = (torch.empty(s, device="meta") for s in ((1, 4, 64, 64), (1, 77, 768)))
    with fused_attention(), FlopCounterMode(display=False) as flops:
        model.diffusion_model(latent, torch.empty(1, device="meta"), context=context)
    assert flops.get_total_flops() == pytest.approx(803.3e9, rel=1e-3)


@pytest.mark.parametrize(
    ("box", "rows", "columns"),
    [
        ((0.0, 0.0, 1.0, 1.0), range(8), range(8)),
        ((0.25, 0.5, 0.5, 1.0), range(4, 8), range(2, 4)),
        ((0.3, 0.3, 0.31, 0.31), range(2, 3), range(2, 3)),
        ((0.999, 0.0, 1.0, 0.1), range(1), range(7, 8)),
        ((1.0, 1.0, 1.0, 1.0), range(7, 8), range(7, 8)),
    ],
)
def test_box_covers_the_cells_of_its_floors(box: Any, rows: range, columns: range) -> None:
    wanted = torch.zeros(8, 8)
    for row in rows:
        wanted[row, columns.start : columns.stop] = 1.0
    assert torch.equal(box_mask(box, 8, 8), wanted)


@pytest.mark.parametrize("kind", ["eps", "v"])
def test_spatial_only_run_is_the_hosts_ddim(realism: Any, kind: str) -> None:
    model = tiny.tiny_unet(2, model_type=kind)
    wanted = sample(model, tiny.conditioning(11), tiny.conditioning(12))
    result = run(realism, model, spatial_only_steps=3)
    assert result.losses == [] and result.steps == []
    assert relative_error(result.latent, wanted) < 1e-4


def test_the_same_model_twice_is_the_hosts_ddim_whatever_the_mix(realism: Any) -> None:
    wanted = sample(realism, tiny.conditioning(11), tiny.conditioning(12))
    result = run(realism, realism)
    assert result.steps == [0, 1, 2]
    assert relative_error(result.latent, wanted) < 1e-4
    for g_text, _ in result.gradients:
        assert float(g_text.abs().max()) < 1e-9


def test_grounded_spatial_model_is_the_hosts_ddim(realism: Any, spatial: Any, gligen: Any) -> None:
    positive = tiny.with_gligen(tiny.conditioning(11), *gligen)
    wanted = sample(spatial, positive, tiny.conditioning(12))
    assert not torch.equal(wanted, sample(spatial, tiny.conditioning(11), tiny.conditioning(12)))
    result = run(realism, spatial, gligen=gligen, spatial_only_steps=3)
    assert relative_error(result.latent, wanted) < 1e-4
    null = run(realism, spatial, gligen=gligen, spatial_only_steps=3, negative_grounding="null")
    assert relative_error(null.latent, wanted) > 1e-2


def test_partly_denoised_picture_is_the_hosts_ddim(realism: Any, spatial: Any) -> None:
    picture = 5.0 * tiny.latent_noise(40)
    wanted = sample(
        spatial, tiny.conditioning(11), tiny.conditioning(12), denoise=0.5, latent=picture
    )
    sigmas = levels(spatial, 6)[-4:]
    result = run(realism, spatial, sigmas=sigmas, spatial_only_steps=3, latent_image=picture)
    assert relative_error(result.latent, wanted) < 1e-4


def test_zero_rate_is_the_hosts_euler_on_the_mean_of_both(realism: Any, spatial: Any) -> None:
    from comfy.k_diffusion.sampling import sample_euler

    sigmas = levels(realism)

    def denoise(x: Tensor, sigma: Tensor, **kwargs: Any) -> Tensor:
        cond, uncond = (
            sum(p.model.apply_model(x, sigma, c_crossattn=text(s)) for p in (realism, spatial)) / 2
            for s in (11, 12)
        )
        return uncond + 3.0 * (cond - uncond)

    with torch.inference_mode():
        start = tiny.latent_noise(0) * torch.sqrt(1 + sigmas[0] ** 2)
        final = sample_euler(denoise, start, sigmas, disable=True)
        wanted = realism.model.process_latent_out(final)
    result = run(realism, spatial, rho=[0.0] * 3)
    assert relative_error(result.latent, wanted) < 1e-4
    assert all(torch.equal(m, torch.full_like(m, 0.5)) for m in result.mix)


def test_weights_sum_to_one_and_gradients_oppose(realism: Any, spatial: Any, gligen: Any) -> None:
    result = run(realism, spatial, gligen=gligen)
    for (coe_text, coe_sp), (g_text, g_sp), mix in zip(
        result.coefficients, result.gradients, result.mix, strict=True
    ):
        assert float(g_text.abs().max()) > 0
        torch.testing.assert_close(g_text, -g_sp, rtol=1e-4, atol=1e-9)
        xi = compose(coe_text, coe_sp)
        torch.testing.assert_close(xi.sum(dim=0), torch.ones_like(mix))
        torch.testing.assert_close(mix, torch.sigmoid(coe_text - coe_sp))
    for loss, shares in zip(result.losses, result.shares, strict=True):
        assert shares.shape == (1, 2, 2)
        assert bool(((shares > 0) & (shares < 1)).all())
        torch.testing.assert_close(loss, (1 - shares).sum(dim=(1, 2)))


def test_autograd_agrees_with_finite_differences(realism: Any, spatial: Any) -> None:
    step = Step(realism, spatial, double=True)
    coe_text, coe_sp = step.maps()
    g_text, g_sp = torch.autograd.grad(step.loss(coe_text, coe_sp), [coe_text, coe_sp])
    generator = torch.Generator().manual_seed(6)
    direction = torch.randn(coe_text.shape, generator=generator).double()
    with torch.no_grad():
        for which, gradient in enumerate((g_text, g_sp)):
            shift = [direction * 1e-4 * (which == k) for k in range(2)]
            up = step.loss(coe_text + shift[0], coe_sp + shift[1])
            down = step.loss(coe_text - shift[0], coe_sp - shift[1])
            slope = float((up - down) / 2e-4)
            assert slope == pytest.approx(float((gradient * direction).sum()), rel=1e-4)


def test_both_branches_pull_and_the_closed_form_holds(
    realism: Any, spatial: Any, gligen: Any
) -> None:
    step = Step(realism, spatial, gligen)
    coe_text, coe_sp = step.maps()
    probe = step.probe(coe_text, coe_sp)
    parts = [
        torch.autograd.grad(step.part(b, probe), probe, retain_graph=True)[0]
        for b in (step.text, step.sp)
    ]
    assert min(float(part.abs().max()) for part in parts) > 0
    (g_text,) = torch.autograd.grad(step.loss(coe_text, coe_sp), [coe_text])

    abar, abar_next = abar_of(step.sigma), abar_of(step.sigma_next)
    k = (1 - abar_next) ** 0.5 - (abar_next * (1 - abar) / abar) ** 0.5
    xi = compose(coe_text, coe_sp).detach()
    pull = (sum(parts) * (step.eps[0] - step.eps[1])).sum(dim=1, keepdim=True)
    torch.testing.assert_close(g_text, k * xi[0] * xi[1] * pull, rtol=1e-4, atol=1e-8)


def test_run_takes_the_step_made_by_hand(realism: Any, spatial: Any, gligen: Any) -> None:
    step = Step(realism, spatial, gligen)
    even = torch.zeros_like(step.z[:, :1])
    probe = step.probe(even, even).requires_grad_(True)
    parts = [step.part(branch, probe) for branch in (step.text, step.sp)]
    (pull,) = torch.autograd.grad(sum(parts), probe)
    result = run(realism, spatial, gligen=gligen, sigmas=levels(realism)[:2])
    torch.testing.assert_close(result.probes[0], probe.detach())
    torch.testing.assert_close(result.losses[0], torch.stack(parts).sum(dim=0, keepdim=True))
    torch.testing.assert_close(result.probe_gradients[0], pull, rtol=1e-4, atol=1e-8)
    wanted = [-1000.0 * g for g in result.gradients[0]]
    torch.testing.assert_close(list(result.coefficients[0]), wanted)


def test_small_step_lowers_the_loss(realism: Any, spatial: Any) -> None:
    step = Step(realism, spatial)
    coe_text, coe_sp = step.maps()
    before = step.loss(coe_text, coe_sp)
    g_text, g_sp = torch.autograd.grad(before, [coe_text, coe_sp])
    rate = 0.3 / float(g_text.abs().max())
    with torch.no_grad():
        after = step.loss(coe_text - rate * g_text, coe_sp - rate * g_sp)
        uphill = step.loss(coe_text + rate * g_text, coe_sp + rate * g_sp)
    assert float(after) < before.item() < float(uphill)


def test_batch_equals_its_samples_alone(realism: Any, spatial: Any, gligen: Any) -> None:
    noise, sigmas = tiny.latent_noise(0, batch=2), levels(realism, 2)
    batch = run(realism, spatial, gligen=gligen, noise=noise, sigmas=sigmas)
    for k in range(2):
        alone = run(realism, spatial, gligen=gligen, noise=noise[k : k + 1], sigmas=sigmas)
        assert relative_error(batch.latent[k : k + 1], alone.latent) < 1e-3
        for many, one in zip(batch.losses, alone.losses, strict=True):
            torch.testing.assert_close(many[k : k + 1], one, rtol=1e-4, atol=1e-5)
    assert not torch.equal(batch.losses[0][0], batch.losses[0][1])


def test_options_change_what_they_name(realism: Any, spatial: Any) -> None:
    sigmas = levels(realism, 2)
    plain = run(realism, spatial, sigmas=sigmas)
    following = run(realism, spatial, sigmas=sigmas[:2], probe_timestep="next")
    assert not torch.equal(plain.losses[0], following.losses[0])
    assert torch.equal(plain.probes[0], following.probes[0])

    restarted = run(realism, spatial, sigmas=sigmas, accumulate=False)
    assert torch.equal(plain.coefficients[0][0], restarted.coefficients[0][0])
    last, g_last = restarted.coefficients[-1][0], restarted.gradients[-1][0]
    torch.testing.assert_close(last, -1000.0 * g_last)
    total = sum(g for g, _ in plain.gradients)
    torch.testing.assert_close(plain.coefficients[-1][0], -1000.0 * total)

    late = run(realism, spatial, sigmas=sigmas, spatial_only_steps=1)
    assert late.steps == [1] and len(late.mix) == 1
    whole = run(realism, spatial, sigmas=sigmas[:2], boxes=[(0.0, 0.0, 1.0, 1.0)], tokens=[(3,)])
    assert float(whole.losses[0].abs().max()) < 1e-5
    assert float(whole.gradients[0][0].abs().max()) < 1e-7
    with pytest.raises(ValueError, match="one rate per step"):
        run(realism, spatial, rho=[1.0])
    with pytest.raises(ValueError, match="factor 8"):
        run(realism, spatial, sigmas=sigmas[:2], map_factor=8)


def test_counter_sees_full_and_left_passes_and_changes_nothing(realism: Any) -> None:
    conds = tiny.conditioning(11), tiny.conditioning(12)
    network = realism.model.diffusion_model
    plain = sample(realism, *conds, batch=2)
    with counting(one=realism, same=realism) as counts:
        counted = sample(realism, *conds, batch=2)
    assert torch.equal(plain, counted)
    one = counts.models["one"]
    assert one is counts.models["same"] and counts.total("full") == one.full
    assert (one.full_samples, one.partial, one.stray_layers) == (3 * 2 * 2, 0, 0)
    assert "forward" not in network.__dict__ and not network.input_blocks[0][0]._forward_pre_hooks

    class Stop(BaseException):
        pass

    def stop(*args: Any) -> None:
        raise Stop

    handle = network.middle_block[0].register_forward_pre_hook(stop)
    with torch.inference_mode(), counting(one=realism) as counts, pytest.raises(Stop):
        realism.model.apply_model(
            tiny.latent_noise(0, batch=3), torch.ones(3), c_crossattn=text(11).expand(3, -1, -1)
        )
    handle.remove()
    one = counts.models["one"]
    assert (one.full, one.partial, one.partial_samples) == (0, 1, 3)

    with torch.inference_mode(), counting(one=realism) as counts:
        network.input_blocks[0][0](tiny.latent_noise(0))
    assert counts.models["one"].stray_layers == 1


def test_counter_counts_a_backward_within_a_backward_once() -> None:
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            with torch.enable_grad():
                x = ctx.saved_tensors[0].detach().requires_grad_(True)
                return torch.autograd.grad(x * x, x, grad)[0]

    x = torch.tensor(3.0, requires_grad=True)
    with counting() as counts:
        torch.autograd.grad(Square.apply(x), x)
    assert counts.backward == 1
    with counting() as counts:
        Square.apply(x).backward()
        (2 * x).backward()
    assert counts.backward == 2 and float(x.grad) == 8.0


def test_counter_sees_the_literal_cost_of_a_balanced_step(realism: Any, spatial: Any) -> None:
    """The reference works on copies, so its passes are counted on branches put back as models."""
    step = Step(realism, spatial)

    class Holder:
        def __init__(self, branch: Branch):
            self.model = self
            self.diffusion_model = branch.unet

    maps = step.maps()
    with counting(text=Holder(step.text), sp=Holder(step.sp)) as counts:
        loss = step.loss(*maps)
        torch.autograd.grad(loss, maps, retain_graph=True)
        loss.backward()
        with torch.no_grad():
            run_unet(step.sp, step.z, step.sigma, step.sp.positive, None)
    assert counts.backward == 2
    assert (counts.models["text"].full, counts.models["sp"].full) == (1, 2)
    assert counts.total("full_samples") == 3
