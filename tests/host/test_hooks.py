"""LoRAs as hooks on conditioning, with models that the host keeps in dynamic VRAM.

On the CPU the host makes no such model; these say that they are, and keep the host's rules: no
hook can be hung on them, and the host exchanges them for others that its loader loads anew.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from realcompo.balancer.errors import RealCompoError

from . import pair, tiny
from .test_guider_company import ALONE, SETTINGS

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _host() -> None:
    import comfy.model_patcher

    if not hasattr(comfy.model_patcher, "ModelPatcherDynamic"):
        pytest.skip("this ComfyUI has no dynamic VRAM")


def ordinary(seed: int) -> Any:
    """A loader as the host's are, which can be told to do without dynamic VRAM."""
    model = tiny.tiny_unet(seed)
    model.cached_patcher_init = (lambda seed, disable_dynamic=False: ordinary(seed), (seed,))
    return model


def dynamic(seed: int, known_loader: bool = True) -> Any:
    """A patcher that says it is one of dynamic VRAM."""
    from comfy.model_patcher import ModelPatcher, ModelPatcherDynamic

    class Dynamic(ModelPatcher):
        non_dynamic_delegate_model = None
        patch_hook_weight_to_device = ModelPatcherDynamic.patch_hook_weight_to_device
        get_non_dynamic_delegate = ModelPatcherDynamic.get_non_dynamic_delegate

        def is_dynamic(self) -> bool:
            return True

    model = ordinary(seed)
    model.__class__ = Dynamic
    if not known_loader:
        model.cached_patcher_init = None
    return model


@pytest.fixture
def conds() -> dict[str, Any]:
    text = tiny.conditioning(3)
    delta = tiny.difference(tiny.tiny_unet(1))
    return {"hooked": tiny.with_weight_hook(text, delta), "plain": text}


@pytest.mark.parametrize("one_model", [False, True])
@pytest.mark.parametrize("which", ["realism", "spatial", "both"])
def test_a_hook_on_either_side(noise, conds, which, one_model) -> None:
    """Each branch alone is the host's KSampler with that conditioning; both are loaded at once."""
    import comfy.model_management as management

    first = dynamic(1)
    models = (first, first) if one_model else (first, dynamic(2))
    texts = [conds["hooked" if which in (side, "both") else "plain"] for side in ALONE]
    for place, side in enumerate(ALONE):
        guider = pair.guider(
            *models, ALONE[side], positive=texts[0], spatial_positive=texts[1]
        )  # fmt: skip
        patchers = (guider.model_patcher, guider.companions[0].patcher)
        assert (patchers[0].model is patchers[1].model) == one_model
        assert guider.companions[0].shared == one_model
        for text, patcher in zip(texts, patchers, strict=True):
            assert not (text is conds["hooked"] and patcher.is_dynamic())
        loads: list[set[int]] = []
        with pytest.MonkeyPatch.context() as patch:
            load = management.load_models_gpu
            patch.setattr(
                management, "load_models_gpu",
                lambda wanted, *args, load=load, loads=loads, **options: (
                    loads.append({id(p.model) for p in wanted}), load(wanted, *args, **options)
                )[1],
            )  # fmt: skip
            result = pair.run(guider, noise, steps=3)
        assert loads == [{id(p.model) for p in patchers}]
        expected = pair.run_alone(models[place], noise, steps=3, positive=texts[place])
        assert torch.equal(result, expected)


def test_the_model_for_hooks_is_loaded_once(noise, conds) -> None:
    """The host keeps it with the node's patcher: the next run has it already."""
    model = dynamic(1)
    loads: list[int] = []
    load, given = model.cached_patcher_init
    model.cached_patcher_init = (lambda *a, **k: (loads.append(1), load(*a, **k))[1], given)
    for _ in range(2):
        pair.run(pair.guider(model, model, SETTINGS, positive=conds["hooked"]), noise, steps=2)
    assert loads == [1]


@pytest.mark.parametrize("side", ["realism", "spatial"])
def test_a_hook_that_the_host_cannot_hang_is_refused(conds, side) -> None:
    models = [dynamic(1, side != "realism"), dynamic(2, side != "spatial")]
    texts = [conds["hooked"] if side == name else conds["plain"] for name in ALONE]
    with pytest.raises(RealCompoError, match="hooks need a model outside dynamic VRAM") as caught:
        pair.guider(*models, ALONE["realism"], positive=texts[0], spatial_positive=texts[1])
    assert caught.value.where == f"{side}_model"


# -- real memory of the C library ------------------------------------------------------------------

SCRIPT = """
import gc, os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import hostpack
hostpack.engine_package(); hostpack.start_host(Path(os.environ["COMFYUI_PATH"]))
import comfy_aimdo.control
assert comfy_aimdo.control.init()
import comfy.model_patcher as patchers, torch
from realcompo.balancer.comfy.patchers import copies
from realcompo.balancer.errors import RealCompoError
CARD, RAM = torch.device("cuda", 0), torch.device("cpu")

class Tiny(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.diffusion_model, self.device = torch.nn.Linear(4, 4), RAM

def load(disable_dynamic=False):
    kind = patchers.ModelPatcher if disable_dynamic else patchers.ModelPatcherDynamic
    out = kind(Tiny(), CARD, RAM)
    out.cached_patcher_init = (load, ())
    return out

model = load()
model.cached_patcher_init = None
try:
    copies.on_a_copy(model.clone())
    sys.exit("a model that cannot be loaded again was copied")
except RealCompoError as error:
    assert error.where == "spatial_model", error
model = load()
apart = [copies.on_a_copy(model.clone()) for _ in range(2)]
assert apart[0].is_dynamic() and apart[0].model is apart[1].model is not model.model
pins = [p.model.dynamic_pins[CARD]["weights"][0] for p in (model, apart[0])]
assert pins[0] is not pins[1]
for name in ("backup", "backup_buffers", "object_patches_backup", "pinned", "hook_backup"):
    assert getattr(apart[0], name) is getattr(apart[1], name), name
    assert getattr(apart[0], name) is not getattr(model, name), name
assert id(apart[0]) in apart[0].model.dynamic_patchers
assert id(apart[0]) not in model.model.dynamic_patchers
import weakref
gone = [weakref.ref(m) for m in (model.model, apart[0].model)]
del model, pins
gc.collect()
assert gone[0]() is None, "the copy keeps its model alive"
del apart
gc.collect()
assert gone[1]() is None, "the copy outlives its model"
print("survived")
"""


def test_memory_of_dynamic_vram_has_one_owner() -> None:
    """A second owner aborts the process when it lets go: so in a process of its own."""
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(ROOT / "tools")],
        capture_output=True, text=True, env=dict(os.environ), timeout=300, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert "survived" in ran.stdout
