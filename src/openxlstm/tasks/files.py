"""What tasks about files share."""

import hashlib
from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from numpy.typing import NDArray

from openxlstm.errors import UserError
from openxlstm.tasks.task import SPLITS, Split, Task


@dataclass(frozen=True, kw_only=True)
class FileTask(Task):
    """A task whose samples are in files, which do not come with Python.

    source: where the files are.
    """

    needs: ClassVar[str]
    """What `source` should name."""

    source: str = ""

    @property
    def trained(self) -> str:
        return self.reports[0]

    @abstractmethod
    def content(self, split: Split) -> Iterable[NDArray[Any]]:
        """What the samples of a part are made of, inputs and answers, an array after the other, so that `fingerprint` changes
        with any of them. They, or the last one, must tell how many samples there are."""

    @property
    def fingerprint(self) -> str:
        """A hash of the content of all three parts: scores change with those for validation and test too."""
        return digest(array for split in SPLITS for array in self.content(split))

    def check_source(self) -> None:
        """Raise UserError where no files are named."""
        if not self.source:
            raise UserError(f"task {self.name} needs --data: {self.needs}")


def digest(arrays: Iterable[NDArray[Any]]) -> str:
    """A hash of arrays and their shapes: where one ends and the next begins counts."""
    found = hashlib.blake2b(digest_size=8)
    for array in arrays:
        found.update(str(array.shape).encode() + array.tobytes())
    return found.hexdigest()
