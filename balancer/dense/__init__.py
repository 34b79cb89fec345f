"""DenseDiffusion (ICCV 2023): attention scores modulated by a layout."""
