"""Training can be stopped and resumed without a trace, and learns where it should."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from torch import nn

from realcompo.shapes.train_run import Run
from realcompo.shapes.world import make_scenes


def run(folder: Path, resume: bool, stop: int | None) -> tuple[dict[str, torch.Tensor], int]:
    """Fit a line for twelve steps, or stop in the middle as a crash would, after a checkpoint."""
    torch.manual_seed(1)
    module = nn.Linear(3, 1)
    job = Run("line", folder, module, 1e-2, 2, 5.0, 12, resume, 8)
    for step in job.steps():
        if step == stop:
            job.save()
            break
        x = torch.randn(8, 3, generator=job.generator)
        loss = (module(x) - x.sum(1, keepdim=True)).square().mean()
        job.update(loss, {"loss": float(loss.detach())})
    return job.averaged_state(), job.seen


def test_resumed_run_equals_an_unbroken_one(tmp_path: Path) -> None:
    whole, images = (
        run(tmp_path / "a", False, None) if (tmp_path / "a").mkdir() is None else ({}, 0)
    )
    (tmp_path / "b").mkdir()
    run(tmp_path / "b", False, 5)
    parts, seen = run(tmp_path / "b", True, None)
    assert images == seen == 96
    for key, value in whole.items():
        assert torch.equal(value, parts[key])


def test_rate_warms_up_and_decays(tmp_path: Path) -> None:
    job = Run("rate", tmp_path, nn.Linear(1, 1), 1.0, 1, 1.0, 1000, False, 1)
    rates = [job.optimizer.param_groups[0]["lr"] for _ in job.steps()]
    assert rates[0] == pytest.approx(1 / 200) and rates[300] == 1.0
    assert rates[850] == pytest.approx(0.5, abs=0.01) and rates[-1] < 0.01


def test_map_shares() -> None:
    from realcompo.shapes.train_diffusion import map_shares

    boxes = torch.zeros(1, 4, 4)
    boxes[0, 0] = torch.tensor([0.0, 0.0, 0.5, 0.5])
    owners = torch.tensor([[-1, 0, 0]])
    maps = torch.full((1, 16, 3), 1 / 3)
    maps[0, :, 2] = 0
    maps[0, 0, 2] = 1
    (share,) = map_shares([maps], boxes, owners)
    assert share[0].tolist() == pytest.approx([0, 0.25, 1])


def test_a_few_steps_lower_the_error(tmp_path: Path) -> None:
    from realcompo.balancer.comfy.compat import adds_in_place
    from realcompo.shapes.train_diffusion import Trainee, alphas_cumprod, encode_scenes
    from realcompo.shapes.train_text import CaptionTokens

    if adds_in_place():
        pytest.skip("training needs a ComfyUI from June 2025 on: this one adds in place")
    torch.manual_seed(4)
    model = Trainee(True)
    scenes = make_scenes(4, torch.Generator().manual_seed(2))
    _, _, boxes = encode_scenes(CaptionTokens(), scenes, random.Random(1))
    clean, noise = torch.randn(4, 16, 8, 8), torch.randn(4, 16, 8, 8)
    t = torch.tensor([900, 700, 500, 100])
    alpha = alphas_cumprod()[t].view(-1, 1, 1, 1)
    noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
    context, phrases = torch.randn(4, 77, 64), torch.randn(4, 4, 64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    errors = []
    for _ in range(12):
        error = (model(noisy, t, context, phrases, boxes) - noise).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(float(error.detach()))
    assert errors[-1] < 0.9 * errors[0]
    unused = [n for n, p in model.named_parameters() if p.grad is None]
    assert unused == []
