"""The alignment table: realism models before and after finetuning, on pairs no finetuning saw."""
