"""The engine: layouts, attention maps, losses and the balancer. Pure PyTorch, no ComfyUI."""
