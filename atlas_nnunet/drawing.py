"""A figure that becomes PNG bytes: the same numbers give the same bytes."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def figure(columns: int, width: float, height: float) -> Iterator[tuple[Any, Any, io.BytesIO]]:
    """(figure, axes, PNG bytes once the block is left), in matplotlib's own style.

    nnU-Net draws its progress with another style, and leaves that behind for the whole process.

    Args:
        columns: Number of axes, side by side.
        width: Of the whole, in inches.
        height: Of the whole, in inches.
    """
    from matplotlib import rc_context, rcParamsDefault
    from matplotlib.figure import Figure  # no pyplot: no global state, no display

    stream = io.BytesIO()
    with rc_context(rcParamsDefault):
        drawn = Figure(figsize=(width, height), layout="constrained")
        yield drawn, drawn.subplots(1, columns, squeeze=False)[0], stream
        drawn.savefig(stream, format="png", dpi=110, metadata={"Software": None})
