"""Fields of a JSON specification: read by name, with type, default and range."""

import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


class Fields:
    """The fields of one JSON object. Every error names the file and the field.

    Args:
        held: the object.
        where: file, and place in it.
        folder: to which paths are relative.

    Raises:
        ValueError: not an object.
    """

    def __init__(self, held: Any, where: str, folder: Path):
        if not isinstance(held, Mapping):
            raise ValueError(f"{where}: {json.dumps(held)[:60]} is not an object of fields")
        self._held, self.where, self._folder = dict(held), where, folder
        self._asked: list[str] = []
        self._flags: frozenset[str] = frozenset()

    def override(self, changes: Mapping[str, Any]) -> None:
        """Puts other values in the place of fields, as flags do."""
        self._held |= changes
        self._flags = frozenset(changes)

    def has(self, name: str) -> bool:
        """Whether a field is there."""
        return name in self._held

    def _take(self, name: str, kind: type | tuple[type, ...], default: Any, wanted: str) -> Any:
        self._asked.append(name)
        value = self._held.get(name)
        if value is None:
            return default
        # A bool is an int to Python, but not to who writes it in place of a number.
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise ValueError(f"{self.where}: {name}={json.dumps(value)[:60]} is not {wanted}")
        return value

    def text(self, name: str, default: str | None = None) -> str | None:
        """A string."""
        return self._take(name, str, default, "a string")

    def choice(self, name: str, known: Sequence[str]) -> str:
        """One of some strings, which must be there."""
        value = self.text(name)
        if value is None or value not in known:
            raise ValueError(f"{self.where}: {name}={value!r} must be one of {list(known)}")
        return value

    def switch(self, name: str, default: bool) -> bool:
        """True or false."""
        return self._take(name, bool, default, "true or false")

    def whole(
        self, name: str, default: int, low: int | None = None, high: int | None = None
    ) -> int:
        """A whole number within a range, in which the default need not lie."""
        value = self._take(name, int, None, "a whole number")
        return default if value is None else self._within(name, value, low, high)

    def number(
        self, name: str, default: float | int, low: float | int, high: float | int
    ) -> float | int:
        """A number within a range."""
        return self._within(name, self._take(name, (int, float), default, "a number"), low, high)

    def _within(self, name: str, value: Any, low: Any, high: Any) -> Any:
        if (low is not None and value < low) or (high is not None and value > high):
            span = f"{low}..{high}" if high is not None else f"at least {low}"
            raise ValueError(f"{self.where}: {name}={value} must be {span}")
        return value

    def path(self, name: str) -> str | None:
        """A file, relative to the specification."""
        value = self.text(name)
        if value is None:
            return None
        path = (self._folder / Path(value).expanduser()).resolve()
        if not path.is_file():
            raise ValueError(f"{self.where}: {name}: there is no file {path}")
        return str(path)

    def prompt(self) -> str | None:
        """`prompt`, or the text in `prompt_path`.

        Raises:
            ValueError: both.
        """
        text, path = self.text("prompt"), self.path("prompt_path")
        if text is not None and path is not None:
            raise ValueError(f"{self.where}: give prompt or prompt_path, not both")
        return text if path is None else Path(path).read_text("utf-8").strip()

    def part(self, name: str) -> "Fields":
        """The fields of an object within; without it, of an empty one."""
        held = self._take(name, object, {}, "an object")
        return Fields(held, f"{self.where}: {name}", self._folder)

    def parts(self, name: str) -> dict[str, "Fields"]:
        """The objects by name within an object, which must be there and not empty."""
        held = self._take(name, dict, {}, "an object of samples by name")
        if not held:
            raise ValueError(f"{self.where}: {name} is missing or empty")
        return {
            key: Fields(value, f"{self.where}: {name}: {key}", self._folder)
            for key, value in held.items()
        }

    def end(self) -> None:
        """Raises a ValueError for a field that nobody asked for."""
        for name in self._held:
            if name not in self._asked and name in self._flags:
                raise ValueError(f"--{name}: {self.where} has no such field; drop the flag")
            if name not in self._asked:
                near = difflib.get_close_matches(name, self._asked, n=1)
                hint = f"did you mean {near[0]}?" if near else f"known: {sorted(self._asked)}"
                raise ValueError(f"{self.where}: unknown field {name}; {hint}")


def read_objects(path: Path) -> list[Fields]:
    """The objects of a .json file (one, or a list of them) or of a .jsonl file (one a line).

    Raises:
        ValueError: not JSON, or not UTF-8; says where.
    """

    def parse(text: str, where: str) -> Any:
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"{where}: not JSON ({error})") from error

    try:
        text, folder = path.read_text("utf-8-sig"), path.resolve().parent
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 ({error})") from error
    if path.suffix == ".jsonl":
        # Not splitlines(): JSON strings may hold U+2028 and others at which that breaks lines.
        lines = [(i + 1, line) for i, line in enumerate(text.split("\n")) if line.strip()]
        found = [Fields(parse(line, f"{path}:{i}"), f"{path}:{i}", folder) for i, line in lines]
    else:
        held = parse(text, str(path))
        several = held if isinstance(held, list) else [held]
        found = [
            Fields(each, f"{path}: [{i}]" if isinstance(held, list) else str(path), folder)
            for i, each in enumerate(several)
        ]
    if not found:
        raise ValueError(f"{path}: holds no sample")
    return found
