"""Every node's inputs are looked at, and every node's errors name it, in one place."""

from __future__ import annotations

from typing import Any

import hostpack


def test_every_node_class_is_checked_under_the_name_that_it_is_shown_by() -> None:
    pack: Any = hostpack.load_pack()
    shown = {key: getattr(node, "SHOWN_AS", None) for key, node in pack.NODE_CLASS_MAPPINGS.items()}
    assert shown == dict(pack.NODE_DISPLAY_NAME_MAPPINGS)
    for key, node in pack.NODE_CLASS_MAPPINGS.items():
        run = vars(node)[node.FUNCTION]
        assert run.__wrapped__.__module__.rpartition(".")[0].endswith("nodes"), key
