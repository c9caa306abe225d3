"""Reading another project's config file: what it says, and what of it we can serve."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openxlstm.errors import UserError, missing_extra
from openxlstm.models.tensors import one_line, read_json

CONFIG_FILES = ("config.json", "config.yaml", "config.yml")

_MISSING: Any = object()


class Settings:
    """A mapping out of a config file whose errors name the file and the setting, such as `config.yaml: mlstm_block.mlstm.bias`.

    `take` reads a value; `check_all_known` then complains about what nobody took.
    """

    def __init__(self, values: Mapping[str, Any], source: Path, prefix: str = "") -> None:
        self.values = values
        self.source = source
        self.prefix = prefix
        self._taken: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return self.values.get(name) is not None

    def fail(self, name: str, message: str) -> UserError:
        """An error about one setting."""
        return UserError(f"{self.source}: {self.prefix}{name} {message}")

    def take(self, name: str, kind: type, default: Any = _MISSING) -> Any:
        """The value, checked to be a `kind`; None counts as absent. Raises UserError when absent without a default."""
        self._taken.add(name)
        value = self.values.get(name)
        if value is None:
            if default is _MISSING:
                raise self.fail(name, "is missing")
            return default
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
            raise self.fail(name, f"must be {kind.__name__}, got {value!r}")
        if isinstance(value, (int, float)) and value < 0:
            raise self.fail(name, f"must not be negative, got {value!r}")
        return value

    def section(self, name: str) -> "Settings | None":
        """A nested mapping, or None."""
        self._taken.add(name)
        value = self.values.get(name)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise self.fail(name, f"must be a mapping, got {value!r}")
        return Settings(value, self.source, f"{self.prefix}{name}.")

    def ignore(self, *names: str) -> None:
        """Settings that change nothing about what the weights compute."""
        self._taken.update(names)

    def check_all_known(self) -> None:
        """Raise UserError for a setting that was neither taken nor ignored: it might change what the weights compute."""
        for name in self.values:
            if name not in self._taken and not str(name).startswith("_"):
                raise self.fail(str(name), "is not a setting that this format has")


def read_settings(folder: Path) -> Settings:
    """The config in a folder, JSON or YAML; a YAML of a whole run is entered at its `model`. Raises UserError."""
    for name in CONFIG_FILES:
        file = folder / name
        if not file.is_file():
            continue
        values = read_json(file) if name.endswith(".json") else _read_yaml(file)
        inner = values.get("model")
        return Settings(inner if isinstance(inner, dict) and "num_blocks" in inner else values, file)
    raise UserError(f"{folder}: no config here (looked for {', '.join(CONFIG_FILES)})")


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        import yaml
    except ImportError:
        raise missing_extra("pyyaml", "train", f"reading {file}") from None
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{file}: not readable as YAML: {one_line(error)}") from None
    if not isinstance(values, dict):
        raise UserError(f"{file}: expected a mapping, got {type(values).__name__}")
    return values
