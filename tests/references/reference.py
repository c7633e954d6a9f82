"""A reference's model: ours, and what the reference calls things."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from references.operators import last


@dataclass(frozen=True)
class Reference:
    """A reference's model: ours, and the names.

    arguments  their argument -> ours, where they differ
    values     their argument -> how its value becomes ours
    defaults   settings of ours (by our names) that follow from the others where the file gives none
    names      patterns of their parameter and module names -> ours; or what makes such a table of our config
    head       the parameter that tells how many classes there are, where no argument does
    computed   patterns of inner values that are no module's output -> how our model and the match give them
    outputs    their outputs that are inner values of ours -> the name
    fixed      their arguments that we know one value of; another is not built
    takes      what makes our input of theirs; images become channels-last
    gives      what makes their outputs of ours
    maps_last  a pattern of the inner maps that are channels-last in the reference too
    layouts    inner values whose axes are in another order than ours -> how to put ours in theirs
    """

    model: type
    config: type
    arguments: dict = field(default_factory=dict)
    values: dict = field(default_factory=dict)
    defaults: dict = field(default_factory=dict)
    names: dict | Callable = field(default_factory=dict)
    head: str | None = None
    computed: dict = field(default_factory=dict)
    outputs: dict = field(default_factory=dict)
    fixed: dict = field(default_factory=dict)
    takes: Callable = last
    gives: Callable = lambda y: y
    maps_last: str = r"(?!)"
    layouts: dict = field(default_factory=dict)
