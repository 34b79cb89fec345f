"""The pack's one logger: a child of the root, so that the host's handlers and level hold for it.

The host prints a message as it is (``%(message)s``), so every message says whose it is.
"""

from __future__ import annotations

import logging

LOG = logging.getLogger("realcompo")
