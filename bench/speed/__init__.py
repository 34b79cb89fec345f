"""Seconds and memory of single methods: dense attention, and a step of finetuning."""
