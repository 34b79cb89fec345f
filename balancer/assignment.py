"""Who gets whom, one each, for the largest sum: the assignment problem."""

from __future__ import annotations

from collections.abc import Sequence


def assign(worth: Sequence[Sequence[float]]) -> list[int | None]:
    """For every row the column that it gets, None for none, so that the sum of worths is largest.

    A worth of 0 or less means that the two do not fit and are never put together. The Hungarian
    method by shortest augmenting paths: exact, rows * rows * columns steps.
    """
    rows = len(worth)
    real = len(worth[0]) if rows else 0
    # a column of its own for every row that goes without
    cost = [[-max(value, 0.0) for value in row] + [0.0] * rows for row in worth]
    columns = real + rows
    infinite = float("inf")
    over_rows, over_columns = [0.0] * (rows + 1), [0.0] * (columns + 1)
    holder = [0] * (columns + 1)
    for row in range(1, rows + 1):
        holder[0], column = row, 0
        least, before = [infinite] * (columns + 1), [0] * (columns + 1)
        done = [False] * (columns + 1)
        while holder[column]:
            done[column] = True
            at, step, following = holder[column], infinite, 0
            for other in range(1, columns + 1):
                if done[other]:
                    continue
                reduced = cost[at - 1][other - 1] - over_rows[at] - over_columns[other]
                if reduced < least[other]:
                    least[other], before[other] = reduced, column
                if least[other] < step:
                    step, following = least[other], other
            for other in range(columns + 1):
                if done[other]:
                    over_rows[holder[other]] += step
                    over_columns[other] -= step
                else:
                    least[other] -= step
            column = following
        while column:
            holder[column], column = holder[before[column]], before[column]
    found: list[int | None] = [None] * rows
    for column in range(1, real + 1):
        row = holder[column] - 1
        if row >= 0 and worth[row][column - 1] > 0:
            found[row] = column - 1
    return found
