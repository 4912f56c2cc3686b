"""Errors the user can put right.

    AtlasError
      RegistryError     datasets.json says something impossible
      LabelMapError     a mask holds a value nobody has named, or a coding cannot be built
      GeometryError     image and mask do not lie on the same grid
      SourceError       a source folder or file cannot be read as its card says
      PlanError         a plan lacks what a stage needs, or holds what it cannot use
      TransferError     a checkpoint and a plan do not fit together
      EvaluationError   predictions and references cannot be compared
      ComparisonError   runs cannot be set against one another
      TrainingError     a training stopped: bad gradients, no memory, a broken file
      CollectedError    several of them, found in one pass

Anything else that escapes is a bug of ours and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Sequence


class AtlasError(Exception):
    """What went wrong, where, and what to do about it.

    Args:
        what: The fact, with the offending values.
        do: The next action, in the imperative, runnable where possible.
        where: The file, case or parameter concerned.
    """

    def __init__(self, what: str, *, do: str, where: str = "") -> None:
        super().__init__(what)
        self.what, self.do, self.where = what, do, where

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        return f"{place}{self.what}\n  -> {self.do}"

    def __reduce__(self) -> tuple:
        """Survive the way home from a worker process, keyword arguments and all."""
        return _rebuild, (type(self), self.what, self.do, self.where)


def _rebuild(kind: type[AtlasError], what: str, do: str, where: str) -> AtlasError:
    return kind(what, do=do, where=where)


class RegistryError(AtlasError): ...


class LabelMapError(AtlasError): ...


class GeometryError(AtlasError): ...


class SourceError(AtlasError): ...


class PlanError(AtlasError): ...


class TransferError(AtlasError): ...


class EvaluationError(AtlasError): ...


class ComparisonError(AtlasError): ...


class TrainingError(AtlasError, SystemExit):
    """A training that cannot continue.

    It is also a SystemExit: `nnUNetv2_train` catches nothing, and Python then prints this message
    without a traceback and exits with code 1. Whoever calls a trainer from Python catches it as any
    other error.
    """

    def __init__(self, what: str, *, do: str, where: str = "") -> None:
        super().__init__(what, do=do, where=where)
        self.code = f"\nerror: {self}"  # Python prints a code that is a text, and exits with 1


class CollectedError(AtlasError):
    """Everything that is wrong, found in one pass, so that it is put right in one pass."""

    def __init__(self, problems: Sequence[AtlasError]) -> None:
        super().__init__(f"{len(problems)} problem(s)", do="put each right and run again")
        self.problems = tuple(problems)

    def __str__(self) -> str:
        return "\n".join([self.what, *(f"{i}. {p}" for i, p in enumerate(self.problems, 1))])

    def __reduce__(self) -> tuple:
        return CollectedError, (self.problems,)
