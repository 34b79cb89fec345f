"""Where a stopped training waits: below the host's output folder, under a name of its own."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import folder_paths
import safetensors
import safetensors.torch

from ..errors import RealCompoError
from ..training import Optimisation

FOLDER = "realcompo_training"


class Checkpoint:
    """One training's file; ``name`` tells trainings apart."""

    def __init__(self, name: str) -> None:
        self.path = Path(folder_paths.get_output_directory(), FOLDER, f"{name}.safetensors")

    def load_into(self, run: Optimisation) -> None:
        """Take up the stopped training, if there is one."""
        if not self.path.exists():
            return
        try:
            with safetensors.safe_open(str(self.path), "pt") as file:
                about = dict(file.metadata() or {})
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            run.load(tensors, about)
        except (OSError, KeyError, ValueError, RuntimeError, safetensors.SafetensorError) as error:
            raise RealCompoError(
                "seed", f"the stopped training in {FOLDER}/{self.path.name} cannot be read"
                f" ({error})", "Delete that file in ComfyUI's output folder to start anew",
            ) from error  # fmt: skip
        logging.info("RealCompo: the training goes on from step %d", run.steps)

    def save(self, run: Optimisation) -> None:
        """Write everything that is needed to go on; never half a file."""
        tensors, about = run.save()
        self._write(self.path, tensors, about)
        logging.info("RealCompo: the training waits at step %d in %s", run.steps, self.path)

    def save_lora(self, run: Optimisation) -> None:
        """What was learned before a failure, as a LoRA file beside the checkpoint's place."""
        if run.steps:
            path = self.path.with_name(f"{self.path.stem}_failed_at_{run.steps}.safetensors")
            self._write(path, run.learned(), {"losses": json.dumps(run.losses)})
            logging.warning("RealCompo: what was learned before the failure is in %s", path)

    def remove(self) -> None:
        """The training has ended well; nothing waits any more."""
        self.path.unlink(missing_ok=True)

    def _write(self, path: Path, tensors: dict, about: dict[str, str]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        safetensors.torch.save_file(tensors, str(part), about)
        os.replace(part, path)
