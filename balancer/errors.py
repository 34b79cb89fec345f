"""The one error type that a user sees: which node, which input, what to do."""

from __future__ import annotations


class RealCompoError(ValueError):
    """Bad input, said in one sentence that names the node, the input and the remedy.

    ``node`` is the name shown on the node (may be empty inside the engine, which does not know
    who called it), ``where`` the input, ``problem`` what is wrong with it and ``remedy`` what the
    user can do. Engine code raises it with an empty node; nodes fill it in with ``at``.
    """

    def __init__(self, where: str, problem: str, remedy: str, node: str = "") -> None:
        self.node, self.where, self.problem, self.remedy = node, where, problem, remedy
        place = f"{node}, input '{where}'" if node else f"Input '{where}'"
        super().__init__(f"{place}: {problem}. {remedy.rstrip('.')}.")

    def at(self, node: str, where: str | None = None) -> RealCompoError:
        """The same error, said by ``node`` (of its input ``where``, if that has another name)."""
        return RealCompoError(where or self.where, self.problem, self.remedy, node or self.node)
