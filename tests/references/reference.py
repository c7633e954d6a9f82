"""A reference's model: ours, and what the reference calls things."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Reference:
    """A reference's model: ours, and the names.

    arguments  their argument -> ours, where they differ
    values     their argument -> how its value becomes ours
    defaults   settings of ours (by our names) that follow from the others where the file gives none
    names      patterns of their parameter and module names -> ours
    computed   inner values that are no module's output -> how our model gives them
    layouts    inner values whose axes are in another order than ours -> how to put ours in theirs
    """

    model: type
    config: type
    arguments: dict = field(default_factory=dict)
    values: dict = field(default_factory=dict)
    defaults: dict = field(default_factory=dict)
    names: dict = field(default_factory=dict)
    computed: dict = field(default_factory=dict)
    layouts: dict = field(default_factory=dict)
