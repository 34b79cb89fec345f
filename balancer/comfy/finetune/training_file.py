"""Where a stopped training waits: below the host's output folder, under a name of its own."""

from __future__ import annotations

import json
from pathlib import Path

import folder_paths
import safetensors.torch
from torch import Tensor

from ...errors import RealCompoError
from ...finetune.optimisation import Optimisation
from ...log import LOG
from ...values.tensor_file import read_tensors
from ...values.whole_file import write_whole

FOLDER = "realcompo_training"


class Checkpoint:
    """One training's file; ``name`` keeps trainings apart."""

    def __init__(self, name: str) -> None:
        self.path = Path(folder_paths.get_output_directory(), FOLDER, f"{name}.safetensors")

    def load_into(self, run: Optimisation) -> None:
        """Take up the stopped training, if there is one."""
        if not self.path.exists():
            return
        try:
            about, tensors = read_tensors(self.path)
            run.load(tensors, about)
        except ValueError as error:
            raise RealCompoError(
                "seed", f"the stopped training in {FOLDER}/{self.path.name} cannot be read"
                f" ({error})", "Delete that file in ComfyUI's output folder to start anew",
            ) from error  # fmt: skip
        LOG.info("RealCompo: the training goes on from step %d", run.steps)

    def save(self, run: Optimisation) -> None:
        """Write everything that is needed to go on; never half a file."""
        tensors, about = run.save()
        self._write(self.path, tensors, about)
        LOG.info("RealCompo: the training waits at step %d in %s", run.steps, self.path)

    def save_meanwhile(self, run: Optimisation) -> None:
        """As ``save``, but a full disk does not end a training that is well: it is logged."""
        try:
            self.save(run)
        except RealCompoError as error:
            LOG.error("RealCompo: the training goes on, but cannot be resumed yet: %s", error)

    def save_lora(self, run: Optimisation) -> None:
        """What was learned before a failure, as a LoRA file beside the checkpoint's place."""
        if run.steps:
            path = self.path.with_name(f"{self.path.stem}_failed_at_{run.steps}.safetensors")
            try:
                self._write(path, run.learned(), {"losses": json.dumps(run.losses)})
            except RealCompoError as error:
                # what made the training fail is raised; this stands beside it in the log
                LOG.error("RealCompo: what was learned before it is lost: %s", error)
                return
            LOG.warning("RealCompo: what was learned before the failure is in %s", path)

    def remove(self) -> None:
        """The training has ended well; nothing waits any more."""
        self.path.unlink(missing_ok=True)

    def _write(self, path: Path, tensors: dict[str, Tensor], about: dict[str, str]) -> None:
        def write(part: Path) -> None:
            safetensors.torch.save_file(tensors, str(part), about)

        write_whole({path: write}, "save_every")
