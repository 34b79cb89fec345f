"""A setting says the same at the node, on its help page and in the engine."""

from __future__ import annotations

import re
from typing import Any

from realcompo.balancer.realcompo.settings import BalancerSettings, plain_settings
from realcompo.balancer.values.setting_fields import settings_of

from .sources import ROOT

ROW = re.compile(r"^\| `(\w+)` \| (\w+) \| (.*) \|$", re.MULTILINE)
# noise that only a preset has
WITHOUT_WIDGET = {"initial_noise", "noise_seed"}


def _inputs(info: dict[str, Any]) -> dict[str, tuple[Any, dict[str, Any]]]:
    return {**info["input"]["required"], **info["input"]["optional"]}


def test_every_number_of_the_balancer_has_its_widget(infos: dict[str, Any]) -> None:
    inputs = _inputs(infos["RealCompoBalancer"])
    known = settings_of(BalancerSettings)
    assert set(known) - WITHOUT_WIDGET == set(inputs) - {"preset"}
    for name, (_, setting) in known.items():
        assert setting.options["tooltip"]
        if name not in WITHOUT_WIDGET:
            assert list(inputs[name]) == list(setting.widget), name


def test_the_balancers_page_says_what_its_widgets_say(infos: dict[str, Any]) -> None:
    text = (ROOT / "js" / "docs" / "RealCompoBalancer.md").read_text(encoding="utf-8")
    text = text.split("## Outputs")[0]
    kinds = {name: "choice" if isinstance(spec[0], list) else spec[0]
             for name, spec in _inputs(infos["RealCompoBalancer"]).items()}  # fmt: skip
    assert ROW.findall(text) == [
        (name, kinds[name], spec[1]["tooltip"])
        for name, spec in _inputs(infos["RealCompoBalancer"]).items()
    ]


def test_a_workflow_from_before_the_optional_numbers_mixes_as_it_did(pack: Any) -> None:
    node = pack.NODE_CLASS_MAPPINGS["RealCompoBalancer"]()
    old = {"rate": 2.0, "rate_end": 2.0, "normalize_rate": True, "memory": 0.0, "smoothing": 0,
           "initial_mix": 0.3, "region_prior": 0.0, "prior_until": 0.0, "spatial_only": 0.0,
           "start": 0.0, "end": 1.0, "every": 1}  # fmt: skip
    (made,) = node.settings(preset="custom", mode="fixed", **old)
    assert (made.realism_only, made.match_background) == (0.0, 0.0)
    assert vars(made) == vars(plain_settings(mode="fixed", **old))
