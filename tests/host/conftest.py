"""Models and noise that most tests of the guider use."""

from __future__ import annotations

import pytest
import torch

from . import tiny


@pytest.fixture(scope="module")
def models():
    return tiny.tiny_unet(1), tiny.tiny_unet(2)


@pytest.fixture(scope="module")
def noise() -> torch.Tensor:
    return tiny.latent_noise(5)
