"""Which module each bench is: ``python dev.py bench NAME``."""

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
"""Names as users type them, and the modules in ``bench/`` whose ``main`` they run."""
