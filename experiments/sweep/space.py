"""The space of a sweep: the settings that it searches, and the values of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args, get_origin

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import Trial

from experiments.errors import ArgumentError, UserError, check_name
from experiments.options import HINTS
from experiments.settings import ProtocolSettings, fields_of

EXPECTED = "expected FIELD=VALUE,VALUE,… or FIELD=LOW:HIGH[:log]"
BOOLS = {"true": True, "false": False}


class Field(NamedTuple):
    """A setting that is searched.

    Attributes:
        name: a name in `Settings.flat`.
        text: the values as on the command line, normalised: equal values have equal texts.
        values: the values of a list, or the two ends of a range. A range is allowed if its ends
            are.
        scale: the scale of a range; ``None`` for a list.
    """

    name: str
    text: str
    values: tuple[Any, ...]
    scale: Literal["linear", "log"] | None = None

    @property
    def distribution(self) -> BaseDistribution:
        """The values as a distribution of Optuna.

        Examples:
            >>> parse_field("learning-rate=1e-4:1e-2:log").distribution
            FloatDistribution(high=0.01, log=True, low=0.0001, step=None)
        """
        if self.scale is None:
            return CategoricalDistribution(self.values)
        shape = IntDistribution if HINTS[self.name] is int else FloatDistribution
        return shape(*self.values, log=self.scale == "log")

    def suggest(self, trial: Trial) -> None:
        """Gives the trial a value, unless it has one."""
        if self.scale is None:
            trial.suggest_categorical(self.name, self.values)
        else:
            suggest = trial.suggest_int if HINTS[self.name] is int else trial.suggest_float
            suggest(self.name, *self.values, log=self.scale == "log")

    def listed(self) -> list[Any]:
        """Lists all values, for a grid.

        Raises:
            UserError: they cannot be listed.

        Examples:
            >>> parse_field("num_layers=1:5").listed()
            [1, 2, 3, 4, 5]
        """
        if self.scale is None:
            return list(self.values)
        if self.scale == "linear" and HINTS[self.name] is int:
            return list(range(self.values[0], self.values[1] + 1))
        raise ArgumentError(
            "search",
            "a grid takes lists of values and LOW:HIGH of whole numbers; list the values, or "
            "choose the sampler random or tpe",
            f"{self.name}={self.text}",
        )


def parse_search(search: Sequence[str]) -> list[Field]:
    """Reads the fields of a search.

    Raises:
        UserError: no field is given, one is given twice, or `parse_field` cannot read one.
    """
    if not search:
        raise ArgumentError("search", f"{EXPECTED}, once for each field to search; got none")
    fields = [parse_field(text) for text in search]
    names = [field.name for field in fields]
    for name in names:
        if names.count(name) > 1:
            raise ArgumentError("search", f"{name} is given more than once")
    return fields


def parse_field(text: str) -> Field:
    """Reads a field and its values.

    Raises:
        UserError: the field is unknown, values are of another kind, or the range is empty.

    Examples:
        >>> parse_field("beta=.5,0.9").text
        '0.5,0.9'
    """
    name, equals, values = text.partition("=")
    name = name.strip().replace("-", "_")
    if not equals:
        raise ArgumentError("search", EXPECTED, text)
    try:
        check_name("field", name, HINTS)
        if name == "user_share":
            raise UserError("scores of different users cannot be compared")
        if name in fields_of(ProtocolSettings):
            raise UserError("scores of different splits cannot be compared")
        if ":" in values and HINTS[name] is not str:
            return _parse_range(name, values.split(":"))
        return _parse_list(name, values.split(","))
    except UserError as error:
        raise ArgumentError("search", str(error), text) from error


def _parse_list(name: str, words: list[str]) -> Field:
    if not all(word.strip() for word in words):
        raise UserError("expected one or more values with commas between them, none of them empty")
    values = [_parse_value(name, word.strip()) for word in words]
    if len(set(values)) < len(values):
        raise UserError("expected different values")
    return Field(name, ",".join(map(str, values)), tuple(values))


def _parse_range(name: str, words: list[str]) -> Field:
    if HINTS[name] not in (int, float):
        raise UserError(f"{name} is no number, so it takes a list of values and no range")
    if len(words) > 3 or words[2:] not in ([], ["log"]):
        raise UserError("expected a range as LOW:HIGH or LOW:HIGH:log")
    low, high = (_parse_value(name, word.strip()) for word in words[:2])
    if not low < high:
        raise UserError(f"expected LOW below HIGH, got {low} and {high}")
    if words[2:] and low <= 0:
        raise UserError(f"a logarithmic range begins above 0, got {low}")
    text = ":".join([str(low), str(high), *words[2:]])
    return Field(name, text, (low, high), "log" if words[2:] else "linear")


def _parse_value(name: str, word: str) -> Any:
    kind = HINTS[name]
    if get_origin(kind) is Literal:
        check_name("value", word, get_args(kind))
        return word
    if kind is bool:
        check_name("value", word.lower(), BOOLS)
        return BOOLS[word.lower()]
    try:
        return kind(word)
    except ValueError as error:
        expected = "whole numbers" if kind is int else "numbers"
        raise UserError(f"{name} takes {expected}, got {word!r}") from error
