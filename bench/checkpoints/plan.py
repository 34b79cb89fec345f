"""What the quality table on own checkpoints is asked for: arguments, files and layouts, checked."""

from __future__ import annotations

import argparse
import json
import math
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from ...balancer.comfy.inputs.types import resolve
from ...balancer.errors import RealCompoError
from ...balancer.layouts.layout import Layout
from .. import RESULTS
from ..pictures import STEPS
from ..rows import QUICK_ROWS, QUICK_STEPS, Row, dense_rows, own_rows
from .published_layouts import read_published
from .studio import LATENT_CELL, ModelFiles

OWN = ("realism", "spatial", "gligen", "layouts")
EXTRA = ("vae", "clip_model", "detector", "seeds", "size", "cfg", "steps")
# DenseDiffusion places things with no model but the one for the look.
ONE_MODEL = ("realism", *(row.method for row in dense_rows() if row.method != "dense-released"))
SEEDS, SIZE, CFG = 2, (512, 512), 7.5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the table on own checkpoints takes; see ``wanted``."""
    group = parser.add_argument_group(
        "own checkpoints",
        "the same rows on your models and layouts; the first four belong together, but for rows of "
        "the realism model alone (realism, dense, ...). --work, --out, "
        "--quick and --rows hold as well (a report is written of the named rows), --scenes and "
        "--threads do not. Pictures are kept by name, size and time of change of the model files.",
    )
    model = "file, or name below ComfyUI's models folder"
    group.add_argument("--realism", metavar="PATH", help=f"checkpoint for the look: {model}")
    group.add_argument("--spatial", metavar="PATH", help="checkpoint that GLIGEN was made for")
    group.add_argument("--gligen", metavar="PATH", help="GLIGEN text box model")
    group.add_argument("--layouts", metavar="PATH", help="JSON list of layouts, each as the layout "
                       "nodes write it, with its prompt; or a folder with captions.json and "
                       "colour pictures as DenseDiffusion's benchmark")  # fmt: skip
    group.add_argument("--vae", metavar="PATH", help="VAE in place of the realism checkpoint's own")
    group.add_argument(
        "--clip-model",
        metavar="NAME",
        help="CLIP model for clip_score: a folder, or in the local cache",
    )
    group.add_argument("--detector", metavar="NAME", help="zero-shot detector such as OWLv2 for "
                       "detector_iou: a folder, or in the local cache")  # fmt: skip
    group.add_argument("--seeds", type=int, metavar="N", help=f"pictures per layout ({SEEDS})")
    group.add_argument("--size", metavar="WxH", help="pixels of the pictures (512x512)")
    group.add_argument("--cfg", type=float, help=f"guidance scale of both models ({CFG})")
    group.add_argument("--steps", type=int, metavar="N", help=f"sampling steps ({STEPS})")


def wanted(choice: argparse.Namespace) -> bool:
    """Whether the user means own checkpoints; also when only a companion was named."""
    return any(getattr(choice, name) is not None for name in (*OWN, *EXTRA))


@dataclass(frozen=True)
class Plan:
    """A run, checked: nothing in it can be refused later but by the models themselves."""

    files: ModelFiles
    layouts: tuple[Layout, ...]
    rows: tuple[Row, ...]
    seeds: int
    size: tuple[int, int]
    steps: int
    cfg: float
    work: Path
    out: Path
    command: str

    @property
    def pictures(self) -> list[tuple[int, int]]:
        """(layout's number, seed) of every picture of a row."""
        return [(n, seed) for n in range(len(self.layouts)) for seed in range(self.seeds)]


def plan_of(choice: argparse.Namespace) -> Plan:
    """Check the arguments, files and layouts. Raises RealCompoError; loads no model."""
    files = _files(choice)
    seeds, steps, cfg = _numbers(choice)
    size = SIZE if choice.size is None else parse_size(choice.size)
    rows = _rows(choice, steps)
    layouts = read_layouts(Path(choice.layouts))
    work = Path(choice.work) / "checkpoints"
    out = work / "report" if Path(choice.out) == RESULTS else Path(choice.out)
    given = {"realism": files.realism.name,
             "spatial": files.spatial.name if files.spatial else None,
             "gligen": files.gligen.name if files.gligen else None,
             "layouts": Path(choice.layouts).name,
             "vae": files.vae.name if files.vae else None,
             "clip-model": choice.clip_model, "detector": choice.detector, "seeds": seeds,
             "size": f"{size[0]}x{size[1]}", "cfg": f"{cfg:g}", "steps": steps}  # fmt: skip
    words = [w for k, v in given.items() if v is not None for w in (f"--{k}", str(v))]
    words += ["--quick"] if choice.quick else []
    words += ["--rows", *(row.method for row in rows)] if choice.rows else []
    command = shlex.join(["python", "dev.py", "bench", "quality", *words])
    return Plan(files, layouts, tuple(rows), seeds, size, steps, cfg, work, out, command)


def _files(choice: argparse.Namespace) -> ModelFiles:
    """The models' files, all that the rows need."""
    missing = [f"--{name}" for name in OWN if getattr(choice, name) is None]
    alone = missing == ["--spatial", "--gligen"] and _needs_one_model(choice.rows)
    if missing and not alone:
        raise RealCompoError(
            missing[0], f"{' and '.join(missing)} not given",
            "Own checkpoints need --realism, --spatial, --gligen and --layouts together; only "
            f"--rows {' '.join(ONE_MODEL)} do without --spatial and --gligen",
        )  # fmt: skip
    return ModelFiles(
        _file(choice.realism, "--realism", "checkpoints"),
        None if alone else _file(choice.spatial, "--spatial", "checkpoints"),
        None if alone else _file(choice.gligen, "--gligen", "gligen"),
        None if choice.vae is None else _file(choice.vae, "--vae", "vae"),
    )


def _numbers(choice: argparse.Namespace) -> tuple[int, int, float]:
    """Seeds, steps and guidance scale."""
    usual = QUICK_STEPS if choice.quick else STEPS
    steps = usual if choice.steps is None else choice.steps
    seeds = SEEDS if choice.seeds is None else choice.seeds
    cfg = CFG if choice.cfg is None else choice.cfg
    for name, value in (("--steps", steps), ("--seeds", seeds)):
        if value < 1:
            raise RealCompoError(name, f"{value} is too few", "Give at least 1")
    if not (math.isfinite(cfg) and 0 <= cfg <= 100):
        raise RealCompoError("--cfg", f"{cfg} is outside 0 to 100", "7.5 is usual for SD1.5")
    return seeds, steps, cfg


def _rows(choice: argparse.Namespace, steps: int) -> list[Row]:
    """The rows that are named, or all; of a quick run the quick table's."""
    rows = own_rows(steps)
    if choice.quick:
        rows = [row for row in rows if row.method in QUICK_ROWS]
    if choice.rows:
        unknown = sorted(set(choice.rows) - {row.method for row in rows})
        if unknown:
            known = ", ".join(row.method for row in rows)
            raise RealCompoError("--rows", f"there is no row {unknown[0]}", f"Name some of {known}")
        rows = [row for row in rows if row.method in choice.rows]
    return rows


def _needs_one_model(named: list[str] | None) -> bool:
    """Whether rows were named, and all of them by the realism model alone."""
    return bool(named) and set(named or ()) <= set(ONE_MODEL)


def _file(given: str, option: str, kind: str) -> Path:
    """The named file: a path, or a name in the host's folder of that kind of models."""
    path = Path(given).expanduser()
    if path.is_file():
        return path.resolve()
    try:
        import folder_paths

        found = folder_paths.get_full_path(kind, given)
    except ImportError:
        found = None
    if found is None:
        raise RealCompoError(option, f"there is no file '{given}'", "Give the path of the model")
    return Path(found).resolve()


def parse_size(text: str) -> tuple[int, int]:
    """(width, height) of '512x768'. Raises RealCompoError for sides that no latent has."""
    match = re.fullmatch(r"(\d+)x(\d+)", text.strip().lower())
    sides = (int(match[1]), int(match[2])) if match else (0, 0)
    if any(side < 64 or side % LATENT_CELL for side in sides):
        raise RealCompoError(
            "--size", f"'{text}' is no picture size",
            f"Give width x height such as 512x512, in multiples of {LATENT_CELL} from 64",
        )  # fmt: skip
    return sides


def read_layouts(path: Path) -> tuple[Layout, ...]:
    """The layouts of a JSON list, or of a folder in DenseDiffusion's published form, every one with
    a prompt that names its regions' phrases.

    Raises RealCompoError naming the layout by its number, from 1.
    """

    def refuse(problem: str, remedy: str) -> RealCompoError:
        return RealCompoError("--layouts", problem, remedy)

    try:
        if path.is_dir():
            values = [layout.to_dict() for layout in read_published(path)]
        else:
            values = json.loads(path.read_text(encoding="utf-8"))
    except RealCompoError:
        raise
    except (OSError, ValueError) as error:
        raise refuse(f"'{path}' cannot be read ({error})", "Give a JSON file") from error
    if not isinstance(values, list) or not values:
        raise refuse(f"'{path.name}' is no list of layouts", "Put layouts between [ and ]")
    layouts: list[Layout] = []
    for number, value in enumerate(values, 1):
        name = f"'{path.name}', layout {number}"
        try:
            layout = Layout.from_dict(value)
            resolve(layout)
        except RealCompoError as error:
            raise refuse(f"{name}: {error.problem}", error.remedy) from error
        if not layout.prompt.strip() or not all(region.phrase for region in layout.regions):
            raise refuse(
                f"{name} lacks its prompt or a region's phrase",
                "GLIGEN and the judges need both: name them in the layout",
            )
        if layout in layouts:
            raise refuse(
                f"{name} is layout {layouts.index(layout) + 1} again",
                "Remove it: a picture that counts twice would make the intervals too narrow",
            )
        layouts.append(layout)
    return tuple(layouts)
