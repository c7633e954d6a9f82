"""Floor 2, the alphabet: facts about arrays, each with its pullback in a line of algebra.

Read ``elementwise`` first; then ``shape``, ``reduce``, ``contract``; ``operators`` says that ``x + y`` means
``add(x, y)``.
"""

from tinyvit.primitives import operators  # noqa: F401 - attaches the operators to Tensor
