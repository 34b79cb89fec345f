"""What every training stage shares: time budget, resumable checkpoints, averaged weights, log."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .train_data import atomic_save

WARM_UP = 200
DECAY_SHARE = 0.3
SAVE_SECONDS = 60.0


class Average:
    """Exponential moving average of parameters, .999 with the warm-up (1 + n) / (10 + n)."""

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        self.live = list(parameters)
        self.values = [p.detach().clone() for p in self.live]
        self.steps = 0

    @torch.no_grad()
    def update(self) -> None:
        """Move a step towards the live weights."""
        self.steps += 1
        keep = min(0.999, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(  # pyright: ignore[reportPrivateImportUsage]
            self.values, [p.detach() for p in self.live], 1 - keep
        )

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange live and averaged values; call again to undo."""
        for live, value in zip(self.live, self.values, strict=True):
            held = live.detach().clone()
            live.copy_(value)
            value.copy_(held)


class Run:
    """One stage: iterate over it for steps; it saves, plans the learning rate and stops in time.

    The learning rate rises over 200 steps, stays, and falls linearly over the last 30 % of the
    budget. The budget is ``minutes`` of training time (summed over resumed runs), or ``steps``,
    which makes a run repeatable to the bit on one machine.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        module: nn.Module,
        rate: float,
        seed: int,
        minutes: float,
        steps: int | None,
        resume: bool,
        images: int,
    ) -> None:
        self.name, self.folder, self.module, self.rate = name, folder, module, rate
        self.seconds, self.limit, self.images = minutes * 60, steps, images
        self.step, self.spent, self.seen = 0, 0.0, 0
        self.generator = torch.Generator().manual_seed(seed)
        parameters = [p for p in module.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            parameters, lr=rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True
        )
        self.parameters = parameters
        self.average = Average(parameters)
        self.path = folder / f"{name}.pt"
        self.recent: dict[str, list[float]] = {}
        if resume and self.path.exists():
            self._restore(torch.load(self.path))

    def _restore(self, saved: dict[str, Any]) -> None:
        self.module.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        for value, stored in zip(self.average.values, saved["average"], strict=True):
            value.copy_(stored)
        self.average.steps = saved["average_steps"]
        self.generator.set_state(saved["generator"])
        self.step, self.spent, self.seen = saved["step"], saved["spent"], saved["images"]

    def save(self) -> None:
        """Checkpoint of everything that continuing needs."""
        atomic_save(
            {
                "model": self.module.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "average": self.average.values,
                "average_steps": self.average.steps,
                "averaged_model": self.averaged_state(),
                "generator": self.generator.get_state(),
                "step": self.step,
                "spent": self.spent,
                "images": self.seen,
            },
            self.path,
        )

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The averaged weights in place of the live ones, for as long as this lasts."""
        self.average.swap()
        try:
            yield
        finally:
            self.average.swap()

    def averaged_state(self) -> dict[str, Tensor]:
        """State dict with the averaged weights in place of the live ones."""
        with self.averaged():
            return {key: value.detach().clone() for key, value in self.module.state_dict().items()}

    def progress(self) -> float:
        """0..1 of the budget."""
        if self.limit is not None:
            return min(1.0, self.step / self.limit)
        return min(1.0, self.spent / self.seconds)

    def steps(self) -> Iterator[int]:
        """Yield step numbers until the budget is used; saves about once a minute and at the end."""
        last = saved = time.monotonic()
        while self.progress() < 1:
            left = (1 - self.progress()) / DECAY_SHARE
            factor = min(1.0, (self.step + 1) / WARM_UP, left)
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate * factor
            yield self.step
            now = time.monotonic()
            self.spent += now - last
            last = now
            self.step += 1
            self.seen += self.images
            if now - saved > SAVE_SECONDS:
                self.save()
                saved = now
        self.save()

    def update(self, loss: Tensor, values: Mapping[str, Tensor | float]) -> None:
        """Backward, clip at norm 1, optimiser step, average; remembers values for the log."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.average.update()
        for key, value in values.items():
            self.recent.setdefault(key, []).append(float(value))
        if self.step % 100 == 99:
            row = {"step": self.step + 1, "images": self.seen + self.images}
            row |= {"seconds": round(self.spent, 1)}
            row |= {k: round(sum(v) / len(v), 5) for k, v in self.recent.items()}
            with (self.folder / f"{self.name}.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            self.recent.clear()
