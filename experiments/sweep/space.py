"""What a sweep searches: fields of the configuration, and the values that each may take."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args, get_origin

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import Trial

from experiments.errors import UserError, check_name
from experiments.train import HINTS

EXPECTED = "expected FIELD=VALUE,VALUE,… or FIELD=LOW:HIGH[:log]"
BOOLS = {"true": True, "false": False}


class Field(NamedTuple):
    """A field that is searched.

    Attributes:
        name: of `Hyperparameters`.
        text: its values as they are written on the command line, in one form for one meaning.
        distribution: the values, as Optuna has them.
    """

    name: str
    text: str
    distribution: BaseDistribution

    @property
    def is_choice(self) -> bool:
        """Whether the field takes one of a few names."""
        return get_origin(HINTS[self.name]) is Literal

    def suggest(self, trial: Trial) -> Any:
        """The value of a trial: the one that it has, or else a new one."""
        match self.distribution:
            case CategoricalDistribution(choices=choices):
                return trial.suggest_categorical(self.name, choices)
            case IntDistribution(low=low, high=high, log=log):
                return trial.suggest_int(self.name, low, high, log=log)
            case FloatDistribution(low=low, high=high, log=log):
                return trial.suggest_float(self.name, low, high, log=log)
            case other:
                raise TypeError(other)

    def ends(self) -> Sequence[Any]:
        """The values of a list, or the ends of a range: if they are allowed, all are."""
        match self.distribution:
            case CategoricalDistribution(choices=choices):
                return choices
            case IntDistribution(low=low, high=high) | FloatDistribution(low=low, high=high):
                return low, high
            case other:
                raise TypeError(other)

    def listed(self) -> Sequence[Any] | None:
        """All values, if they can be listed: those of a list, and whole numbers on a linear scale.

        Examples:
            >>> parse_field("num_layers=1:5").listed()
            range(1, 6)
            >>> parse_field("beta=0.5:0.9").listed() is None
            True
        """
        match self.distribution:
            case CategoricalDistribution(choices=choices):
                return choices
            case IntDistribution(low=low, high=high, log=False):
                return range(low, high + 1)
            case _:
                return None


def parse_search(search: Sequence[str]) -> list[Field]:
    """The fields of ``--search``.

    Raises:
        UserError: none is given, one twice, or one that `parse_field` refuses.
    """
    if not search:
        raise UserError(f"--search: {EXPECTED}, once for each field to search; got none")
    fields = [parse_field(text) for text in search]
    for field in fields:
        if sum(field.name == other.name for other in fields) > 1:
            raise UserError(f"--search: {field.name} is given more than once")
    return fields


def parse_field(text: str) -> Field:
    """A field and its values.

    Raises:
        UserError: an unknown field, values that are none of its kind, or a range without an inside.

    Examples:
        >>> parse_field("beta=.5,0.9").text
        '0.5,0.9'
        >>> parse_field("learning-rate=1e-4:1e-2:log").distribution
        FloatDistribution(high=0.01, log=True, low=0.0001, step=None)
    """
    name, equals, values = text.partition("=")
    name = name.strip().replace("-", "_")
    if not equals:
        raise UserError(f"--search {text}: {EXPECTED}")
    try:
        check_name("field", name, HINTS)
        if name == "user_share":
            raise UserError("scores of different users cannot be compared")
        if ":" in values and HINTS[name] is not str:
            return _parse_range(name, values.split(":"))
        return _parse_list(name, values.split(","))
    except UserError as error:
        raise UserError(f"--search {text}: {error}") from error


def _parse_list(name: str, words: list[str]) -> Field:
    if not all(word.strip() for word in words):
        raise UserError("expected one or more values with commas between them, none of them empty")
    values = [_parse_value(name, word.strip()) for word in words]
    if len(set(values)) < len(values):
        raise UserError("expected different values")
    return Field(name, ",".join(map(str, values)), CategoricalDistribution(values))


def _parse_range(name: str, words: list[str]) -> Field:
    kind = HINTS[name]
    if kind not in (int, float):
        raise UserError(f"{name} is no number, so it takes a list of values and no range")
    if len(words) > 3 or words[2:] not in ([], ["log"]):
        raise UserError("expected a range as LOW:HIGH or LOW:HIGH:log")
    low, high = (_parse_value(name, word.strip()) for word in words[:2])
    log = len(words) == 3
    if not low < high:
        raise UserError(f"expected LOW below HIGH, got {low} and {high}")
    if log and low <= 0:
        raise UserError(f"a logarithmic range begins above 0, got {low}")
    shape = IntDistribution if kind is int else FloatDistribution
    text = ":".join([str(low), str(high), *words[2:]])
    return Field(name, text, shape(low, high, log=log))


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


def grid_cells(fields: Sequence[Field]) -> list[dict[str, Any]]:
    """All combinations of the fields' values, the last field's changing first.

    Raises:
        UserError: the values of a field cannot be listed.

    Examples:
        >>> grid_cells([parse_field("beta=0.5,0.9"), parse_field("num_layers=1:2")])[1]
        {'beta': 0.5, 'num_layers': 2}
    """
    listed: list[Sequence[Any]] = []
    for field in fields:
        values = field.listed()
        if values is None:
            raise UserError(
                f"--search {field.name}={field.text}: a grid takes lists of values and LOW:HIGH of "
                "whole numbers; list the values, or choose --sampler random or tpe"
            )
        listed.append(values)
    names = [field.name for field in fields]
    return [dict(zip(names, cell, strict=True)) for cell in itertools.product(*listed)]
