"""The only door to ComfyUI: everything in this folder may import the host, nothing outside may."""
