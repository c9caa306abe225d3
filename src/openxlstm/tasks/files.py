"""What tasks about files share."""

from dataclasses import dataclass
from typing import ClassVar

from openxlstm.errors import UserError
from openxlstm.tasks.task import Task


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

    def check_source(self) -> None:
        """Raise UserError where no files are named."""
        if not self.source:
            raise UserError(f"task {self.name} needs --data: {self.needs}")
