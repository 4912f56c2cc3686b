"""Progress of a training: the trainer tells, whoever runs it may show; neither knows the other."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
from typing import Protocol

from tqdm import tqdm


class Progress(Protocol):
    """What a trainer tells."""

    def begin(self, done: int, total: int) -> None:
        """Iterations behind us (more than 0 after a resume), and all of them."""

    def step(self) -> None:
        """One training iteration is over."""

    def epoch(self, **values: float) -> None:
        """An epoch is over; its loss and Dice, by name."""

    def note(self, text: str) -> None:
        """Something that a user must see now, not only in the log."""


class Silent:
    """Nobody looks: nnU-Net's own command prints its own lines."""

    def begin(self, done: int, total: int) -> None: ...

    def step(self) -> None: ...

    def epoch(self, **values: float) -> None: ...

    def note(self, text: str) -> None: ...


class Bar:
    """A progress bar on stderr, slow enough for a log file where that is no terminal."""

    def __init__(self, describe: str) -> None:
        self.describe = describe
        self.bar: tqdm | None = None

    def begin(self, done: int, total: int) -> None:
        every_s = 0.5 if sys.stderr.isatty() else 10.0
        self.bar = tqdm(
            desc=self.describe, total=total, initial=done, unit="it", mininterval=every_s
        )

    def step(self) -> None:
        if self.bar is not None:
            self.bar.update()

    def epoch(self, **values: float) -> None:
        if self.bar is not None:
            self.bar.set_postfix({k: f"{v:.3f}" for k, v in values.items()}, refresh=False)

    def note(self, text: str) -> None:
        tqdm.write(f"note: {text}", file=sys.stderr)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


_shown: ContextVar[Progress] = ContextVar("atlas_nnunet_progress", default=Silent())  # noqa: B039


def current() -> Progress:
    """Whom a trainer tells."""
    return _shown.get()


@contextmanager
def training_bar(describe: str) -> Iterator[None]:
    """Show a bar, and keep the host's lines for its log file, which has all of them."""
    bar = Bar(describe)
    token = _shown.set(bar)
    try:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
            yield
    finally:
        _shown.reset(token)
        bar.close()


@contextmanager
def silence() -> Iterator[None]:
    """Keep the host's lines off the console: another process of this training shows them."""
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        yield
