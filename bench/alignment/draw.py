"""Pictures of the alignment table's rows: drawn, picked among several, drawn again; kept by stage.

Rows share stages: the candidates of best-of-4 begin with the plain row's own pictures, and the fine
stage starts from pictures that another row has. Every stage is a file whose name holds a hash of
all that its pictures depend on, so a stopped run goes on, and changed weights are drawn again.
"""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...balancer.captions.rewards import best_indices
from ...shapes import oracle
from ...shapes.host_models import STYLE_FILES, load_codec, weight_hashes
from ...shapes.pairs import held_out_pairs, pair_scenes
from ...shapes.render import render
from ...shapes.style import features
from ...shapes.world import Scene, random_boxes
from ..kept import claimed, write_arrays
from ..pictures import CFG, SAMPLER, SCHEDULER, STEPS, TEST_SEED, PromptedScene, Studio
from ..rows import fixed
from ..statistics import Gaussian, RowResult
from ..tuned import TUNED, file_hash, lora_file, needed_file
from . import metrics as alignment_metrics
from .fine import fine_key, known_start, refined
from .latent_adaptation import SHAPES_ADAPTATION, adapted
from .metrics import measured
from .rewards import known_reward, reward_key, rewards
from .rows import Row

PACK = Path(__file__).resolve().parents[2]
SCENES = 192
PROMPTS, REPEATS = 24, 4
"""Prompts that are drawn from several noises, for diversity, and from how many."""
REPEAT_STEP, CANDIDATE_STEP = 10_000, 1_000_000
"""Between the seeds of one scene's repeats, and of one picture's candidates."""
DRAWING_SEED = 31_000_000
BATCH = 64
Sample = tuple[int, int]
"""Number of a scene, and which of its repeats."""


class BusyError(Exception):
    """Another process is at this stage."""


@dataclass
class Stage:
    """Pictures (M, 3, 128, 128) in 0..1 of all samples, the seed (M,) of each one's noise, and the
    costs, means per picture."""

    pictures: Tensor
    seeds: np.ndarray
    forwards: float
    backwards: float
    seconds: float

    def save(self, path: Path) -> None:
        """Pictures as bytes, as a user's files have them."""
        rest = {f.name: np.array(getattr(self, f.name)) for f in fields(self)[1:]}
        write_arrays(path, pictures=(self.pictures * 255).round().byte().numpy(), **rest)

    @classmethod
    def load(cls, path: Path) -> Stage:
        """Inverse of ``save``."""
        with np.load(path) as stored:
            costs = (float(stored[name]) for name in ("forwards", "backwards", "seconds"))
            pictures = torch.from_numpy(stored["pictures"]).float() / 255
            return cls(pictures, stored["seeds"], *costs)


@dataclass(frozen=True)
class Part:
    """A stage that a row needs: its file, the files of the stages that it starts from, and how it
    is made from them."""

    path: Path
    needs: tuple[Path, ...]
    make: Callable[[], Stage]


def loaded(paths: Sequence[Path]) -> list[Stage]:
    """Stages from their files."""
    return [Stage.load(path) for path in paths]


class Job:
    """A run's scenes, its studios, and the folder that its stages go to.

    ``tuned``: folders that LoRA files are looked for in before the pack's own.
    """

    def __init__(
        self,
        folder: Path,
        scenes: int = SCENES,
        prompts: int = PROMPTS,
        repeats: int = REPEATS,
        steps: int = STEPS,
        tuned: Sequence[Path] = (),
    ) -> None:
        where = tuple(path.resolve() for path in tuned)
        self.about: dict[str, Any] = {
            "scenes": scenes, "prompts": prompts, "repeats": repeats, "steps": steps,
            "tuned": where,
        }  # fmt: skip
        """What makes the same job in another folder."""
        self.scenes: list[Scene] = pair_scenes(held_out_pairs(), scenes, TEST_SEED)
        self.samples: list[Sample] = [(number, 0) for number in range(scenes)]
        prompts = min(prompts, scenes)
        again = [(number, r) for r in range(1, repeats) for number in range(prompts)]
        self.groups = [
            [number, *(scenes + r * prompts + number for r in range(repeats - 1))]
            for number in range(prompts)
        ]
        self.samples += again
        self.folder, self.steps, self.tuned = folder, steps, tuple(tuned)
        folder.mkdir(parents=True, exist_ok=True)
        self._studios: dict[tuple[str, str | None, float], Studio] = {}

    def studio(self, row: Row) -> Studio:
        """The realism model of a row's style, finetuned if the row says so; loaded once."""
        known = row.style, row.lora, row.until
        if known not in self._studios:
            lora = None if row.lora is None else needed_file(row.lora, self.tuned)
            self._studios[known] = Studio(row.style, lora=lora, until=row.until)
        return self._studios[known]

    def prompts(self, studio: Studio, seeds: Sequence[int]) -> list[PromptedScene]:
        """Every sample's prompt, to be drawn from the noise of its seed."""
        known = studio.ask(self.scenes, TEST_SEED)
        pairs = zip(self.samples, seeds, strict=True)
        return [replace(known[number], seed=int(seed)) for (number, _), seed in pairs]

    def seeds(self, candidate: int) -> list[int]:
        """Seeds of all samples; those of candidate 0 and repeat 0 count up from ``TEST_SEED``."""
        first = TEST_SEED + candidate * CANDIDATE_STEP
        return [first + number + r * REPEAT_STEP for number, r in self.samples]

    def _key(self, name: str, *about: Any) -> Path:
        text = json.dumps([*about, self.samples[-1], len(self.samples)], sort_keys=True)
        return self.folder / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.npz"

    def _weights(self, row: Row) -> list[str]:
        hashes = weight_hashes()
        names = (STYLE_FILES[row.style], "text", "codec")
        used = [hashes[f"{name}.safetensors"] for name in names]
        return used + ([file_hash(needed_file(row.lora, self.tuned))] if row.lora else [])

    def drawn_path(self, row: Row, candidate: int) -> Path:
        """File of the pictures as they are first drawn."""
        name = row.method if row.drawings else Path(row.lora or row.base).stem
        if row.drawings:
            about: list[Any] = ["drawings", row.style, weight_hashes()["codec.safetensors"]]
        else:
            about = [self._weights(row), self.steps, CFG, SAMPLER, SCHEDULER, TEST_SEED, candidate]
        if row.adapted:
            about.append(asdict(SHAPES_ADAPTATION))
        if row.until < 1.0:
            about.append(["until", row.until])
        return self._key(name, *about)

    def picked_path(self, row: Row) -> Path:
        """File of the pictures that the reward chose."""
        if row.best_of == 1:
            return self.drawn_path(row, 0)
        every = [self.drawn_path(row, candidate).name for candidate in range(row.best_of)]
        return self._key(f"best-{row.reward}", every, reward_key(row.reward or ""))

    def path(self, row: Row) -> Path:
        """File of the row's pictures."""
        if row.fine is None:
            return self.picked_path(row)
        return self._key(f"fine-{row.fine}", self.picked_path(row).name, fine_key(row.fine))

    def scored_path(self, row: Row) -> Path:
        """File of the row's scores by the present judges."""
        judges = [file_hash(Path(str(module.__file__))) for module in (alignment_metrics, oracle)]
        judges.append(weight_hashes()["style.safetensors"])
        mark = hashlib.sha256("".join(judges).encode()).hexdigest()[:8]
        return self.folder / f"{self.path(row).stem}-{mark}.scored"

    def missing(self, row: Row) -> str | None:
        """What a row lacks to be made, in words; None if nothing."""
        if row.lora is not None and lora_file(row.lora, self.tuned) is None:
            return f"there is no finetuned model '{row.lora}' in {TUNED.relative_to(PACK)}"
        if row.reward is not None and not known_reward(row.reward):
            return f"there is no reward '{row.reward}'"
        if row.fine is not None and not known_start(row.fine):
            return f"there is no fine stage from '{row.fine}'"
        return None

    def parts(self, row: Row) -> list[Part]:
        """The row's stages, each after those that it starts from."""
        make = "_drawings" if row.drawings else "_sampled"

        def drawn(candidate: int) -> Callable[[], Stage]:
            return lambda: getattr(self, make)(row, candidate)

        first = [self.drawn_path(row, candidate) for candidate in range(row.best_of)]
        found = [Part(path, (), drawn(candidate)) for candidate, path in enumerate(first)]
        kept, path = self.picked_path(row), self.path(row)
        if row.best_of > 1:
            found.append(Part(kept, tuple(first), lambda: self._best(row, loaded(first))))
        if row.fine is not None:
            found.append(Part(path, (kept,), lambda: self._refined(row, Stage.load(kept))))
        return found

    def make(self, row: Row) -> Stage:
        """The row's pictures, drawn if they are not there yet; BusyError if another process is at
        a stage of theirs."""
        for part in self.parts(row):
            if not part.path.exists():
                with claimed(part.path) as ours:
                    if not ours:
                        raise BusyError(part.path.name)
                    part.make().save(part.path)
        # always from the file: another process would see bytes, too
        return Stage.load(self.path(row))

    def _sampled(self, row: Row, candidate: int) -> Stage:
        seeds = self.seeds(candidate)
        studio = self.studio(row)
        prompts = self.prompts(studio, seeds)
        if row.adapted:
            drawn = adapted(studio, prompts, SHAPES_ADAPTATION, steps=self.steps)
        else:
            drawn = studio.draw(prompts, fixed(1.0), steps=self.steps)
        return Stage(drawn.pictures, np.array(seeds), drawn.forwards, drawn.backwards,
                     drawn.seconds)  # fmt: skip

    def _drawings(self, row: Row, candidate: int) -> Stage:
        """Drawings of the prompts, everything else about them by chance."""
        rng = random.Random(DRAWING_SEED)
        scenes = [_moved(self.scenes[number], rng) for number, _ in self.samples]
        pictures = _after_codec(scenes, row.style, DRAWING_SEED)
        return Stage(pictures, np.zeros(len(scenes), int), 0.0, 0.0, 0.0)

    def _best(self, row: Row, every: Sequence[Stage]) -> Stage:
        began = time.perf_counter()
        scenes = [self.scenes[number] for number, _ in self.samples]
        values = torch.stack([rewards(row.reward or "", s.pictures, scenes) for s in every])
        best = [best_indices(each.tolist())[0] for each in values.unbind(1)]
        spent = (time.perf_counter() - began) / len(scenes)
        return Stage(
            torch.stack([every[c].pictures[n] for n, c in enumerate(best)]),
            np.array([every[c].seeds[n] for n, c in enumerate(best)]),
            sum(s.forwards for s in every), sum(s.backwards for s in every),
            sum(s.seconds for s in every) + spent,
        )  # fmt: skip

    def _refined(self, row: Row, coarse: Stage) -> Stage:
        studio = self.studio(row)
        prompts = self.prompts(studio, [int(seed) for seed in coarse.seeds])
        drawn = refined(studio, prompts, coarse.pictures, row.fine or "noise", self.steps)
        return Stage(
            drawn.pictures, coarse.seeds, coarse.forwards + drawn.forwards,
            coarse.backwards + drawn.backwards, coarse.seconds + drawn.seconds,
        )  # fmt: skip

    def scored(self, row: Row) -> RowResult:
        """The scores of a row's pictures, judged once."""
        path = self.scored_path(row)
        if not path.exists():
            stage = self.make(row)
            costs = {
                f"{name}_per_image": getattr(stage, name)
                for name in ("forwards", "backwards", "seconds")
            }
            measured(
                row.method, row.style, self.scenes, stage.pictures, self.groups, costs,
                row.recipe(),
            ).save(path)  # fmt: skip
        # two rows may be of the same pictures, as best-of-1 and the plain row
        return replace(RowResult.load(path), method=row.method, settings=row.recipe())

    def reference(self, style: str, count: int) -> Gaussian:
        """Statistics of other drawings of held-out pairs in a style."""
        path = self._key(f"reference-{style}", count, weight_hashes()["style.safetensors"],
                         weight_hashes()["codec.safetensors"])  # fmt: skip
        if not path.exists():
            scenes = pair_scenes(held_out_pairs(), count, DRAWING_SEED + 1)
            looks = features(_after_codec(scenes, style, DRAWING_SEED + 1))
            write_arrays(path, features=looks.double().numpy())
        with np.load(path) as stored:
            return Gaussian.fit(stored["features"])


def _moved(scene: Scene, rng: random.Random) -> Scene:
    boxes = random_boxes(rng, len(scene.objects))
    things = zip(scene.objects, boxes, strict=True)
    return replace(scene, objects=tuple(replace(thing, box=box) for thing, box in things))


@torch.no_grad()
def _after_codec(scenes: Sequence[Scene], style: str, seed: int) -> Tensor:
    """Drawings of scenes after the codec: the best that a model of its latents can do."""
    codec, generator = load_codec(), torch.Generator().manual_seed(seed)
    parts = []
    for start in range(0, len(scenes), BATCH):
        clean = render(scenes[start : start + BATCH], style, generator)
        parts.append(((codec.decode(codec.encode(clean * 2 - 1)) + 1) / 2).clamp(0, 1))
    return torch.cat(parts)
