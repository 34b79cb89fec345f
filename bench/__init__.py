"""Quality and cost of the methods against their references, on the embedded world."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"
BENCHES = {
    "alignment": "alignment.main",
    "chain": "chain.main",
    "cost": "cost.main",
    "dense_cost": "speed.dense",
    "finetune_cost": "speed.finetune",
    "quality": "quality.main",
    "random_files": "model_files.main",
    "runner": "runner.main",
}
"""Names that ``python dev.py bench NAME`` takes, and the module in this folder that each runs."""
