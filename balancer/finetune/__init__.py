"""Finetuning: adapters beside frozen weights, steps that can be stopped, prompts."""
