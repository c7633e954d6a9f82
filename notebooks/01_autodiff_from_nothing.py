# %% [markdown]
# # 01 · Autodiff from nothing
#
# Every figure and every trained model of this course rests on derivatives. This notebook builds them: a `Tensor` with
# reverse mode in some forty lines, first; then the one that `tinyvit` uses, which does the same and a little more.
#
# **Slides** · deck 2, *Sharpness Aware Minimization (SAM)*, where the update is
# $w \leftarrow w - \alpha \nabla L(w + \hat\delta)$; deck 2, *Leading eigenvalue of Hessian*. The slides take
# $\nabla$ for granted; here is where it comes from. (The README lists the decks.)
#
# **You will be able to**
# 1. derive the pullback of an operation and write it down in one line,
# 2. say why the reverse sweep may visit tensors in the opposite order of their birth,
# 3. undo broadcasting, and prove that you did,
# 4. choose a test that catches a wrong derivative, and name tests that cannot,
# 5. compute a Hessian–vector product in three ways, and say what each costs.
#
# **You need** the chain rule, matrix products, NumPy's broadcasting. **Time** 60 minutes to read and try; the cells
# run in about five seconds.

# %%
import itertools
import os
from pathlib import Path

import numpy as np

import tinyvit
from tinyvit import plots

FAST = os.environ.get("TINYVIT_FAST") == "1"  # set when the notebooks are run as tests
FIGURES = Path("../figures/fast" if FAST else "../figures")
rng = np.random.default_rng(1)

# %% [markdown]
# ## 1 · The derivative of a program
#
# A program that maps $x \in \mathbb{R}^n$ to $y \in \mathbb{R}^m$ has a Jacobian
# $J_{ij} = \partial y_i / \partial x_j$. If the program is a chain of steps, $y = f_3(f_2(f_1(x)))$, the chain rule
# says
#
# $$J = J_3\, J_2\, J_1 .$$
#
# A loss has $m = 1$, so $J_3$ is a single *row*. Multiply from the left and there is only ever a row to carry;
# multiply from the right and there are whole matrices. That is all there is to **reverse mode**. Written with the
# column $\bar y = \partial L / \partial y$, called the *cotangent* of $y$, each step does
#
# $$\bar x = J^{\mathsf T} \bar y .$$
#
# The map $\bar y \mapsto J^{\mathsf T}\bar y$ is the **pullback** of the step (or its vector–Jacobian product, VJP).
# We never build $J$: we find, for each operation, what $J^{\mathsf T}$ does.
#
# The way to find it is always the same: write the change of the loss, and move everything but $dx$ to the other side
# of the inner product. For $Y = XW$,
#
# $$dL = \langle \bar Y, dY\rangle = \langle \bar Y, dX\, W\rangle + \langle \bar Y, X\, dW\rangle
#      = \langle \bar Y W^{\mathsf T}, dX\rangle + \langle X^{\mathsf T}\bar Y, dW\rangle ,$$
#
# so $\bar X = \bar Y W^{\mathsf T}$ and $\bar W = X^{\mathsf T}\bar Y$.

# %% [markdown]
# A tensor has to remember three things: what it was made from, how to pull a cotangent back, and *when* it was made.
# The last one is a number that only grows.

# %%
births = itertools.count()


class Tensor:
    """An array, and how it was made."""

    def __init__(self, data, inputs=(), pullback=None):
        self.data = np.asarray(data, dtype=float)
        self.inputs, self.pullback = inputs, pullback
        self.birth = next(births)

    def __add__(self, other):
        return Tensor(self.data + other.data, (self, other), lambda g: (g, g))

    def __mul__(self, other):
        return Tensor(self.data * other.data, (self, other), lambda g: (g * other.data, g * self.data))

    def __matmul__(self, other):
        return Tensor(self.data @ other.data, (self, other), lambda g: (g @ other.data.T, self.data.T @ g))

    def tanh(self):
        y = np.tanh(self.data)
        return Tensor(y, (self,), lambda g: (g * (1 - y * y),))

    def sum(self):
        return Tensor(np.sum(self.data), (self,), lambda g: (np.full(self.data.shape, g),))


# %% [markdown]
# ### Broadcasting is a linear map, so it has a transpose
#
# In $XW + b$ the bias $b$ has shape $(2,)$ and is added to every row. NumPy copied it without being asked: it applied
# a linear map $B$ that repeats numbers. Its pullback is $B^{\mathsf T}$, which *sums* over the copies. Summing is not
# a convention but the only map with
#
# $$\langle g, B x\rangle = \langle B^{\mathsf T} g, x\rangle \quad\text{for all } g, x,$$
#
# and that identity is a complete test.


# %%
def unbroadcast(g, shape):
    """Sum g over the axes along which an array of this shape was repeated."""
    g = g.sum(axis=tuple(range(g.ndim - len(shape))))  # axes that were not there
    repeated = tuple(i for i, n in enumerate(shape) if n == 1 != g.shape[i])
    return g.sum(axis=repeated, keepdims=True)  # axes of length one


for shape in [(3, 1, 4), (2, 1), (4,), (1,), ()]:
    x, g = rng.normal(size=shape), rng.normal(size=(3, 2, 4))
    difference = np.sum(g * np.broadcast_to(x, g.shape)) - np.sum(unbroadcast(g, shape) * x)
    print(f"{shape!s:10} broadcast to (3, 2, 4): identity holds: {abs(difference) < 1e-12}")

# %% [markdown]
# ### The sweep
#
# Cotangents flow from the output back to the inputs. A tensor may be used several times; the loss then depends on it
# along several paths, and the contributions *add*. So a tensor must not hand its cotangent on before all of it has
# arrived: everything made *from* it must have been visited already. Such an order is called topological, and
# textbooks find it by a depth-first search. We have it for free: **whatever is made from a tensor is younger than the
# tensor**, so sorting by birth, youngest first, is a topological order.


# %%
def history(output):
    """Every tensor behind the output, youngest first."""
    found, stack = {}, [output]
    while stack:
        node = stack.pop()
        if id(node) not in found:
            found[id(node)] = node
            stack.extend(node.inputs)
    return sorted(found.values(), key=lambda node: -node.birth)


def gradients(output, inputs):
    """The derivative of a single number with respect to each input."""
    cotangent = {id(output): np.ones(())}
    for node in history(output):
        arriving = node.pullback(cotangent[id(node)]) if node.pullback else ()
        for x, g in zip(node.inputs, arriving, strict=True):
            cotangent[id(x)] = cotangent.get(id(x), 0) + unbroadcast(g, x.data.shape)
    return [cotangent[id(x)] for x in inputs]


# %% [markdown]
# That is the whole of it. A layer with a bias, and a loss, against differences of the loss itself:

# %%
images, W, b = rng.normal(size=(3, 4)), rng.normal(size=(4, 2)), rng.normal(size=2)


def loss_of(W, b):
    y = (Tensor(images) @ W + b).tanh()
    return (y * y).sum()


leaves = [Tensor(W), Tensor(b)]
dW, db = gradients(loss_of(*leaves), leaves)
step = np.zeros_like(W)
step[2, 1] = 1e-6  # nudge one weight up and down
up, down = (loss_of(Tensor(W + sign * step), Tensor(b)).data for sign in (1, -1))
print(f"dL/dW[2,1] by reverse mode {dW[2, 1]:.6f}, by a difference {(up - down) / 2e-6:.6f}")

# %% [markdown]
# Why must every tensor be visited *once*? Add a number to itself, then the sum to itself, and so on. After fifty
# steps there are $2^{50}$ paths from the output to $x$, more than a year of work if you follow each; the sweep takes
# fifty-one visits.

# %%
x = Tensor(1.0)
y = x
for _ in range(50):
    y = y + y
print("tensors visited:", len(history(y)))
print("derivative is 2^50:", gradients(y, [x])[0] == 2**50)

# %% [markdown]
# ## 2 · Meet the real one
#
# `tinyvit.Tensor` keeps the same three facts under the names `inputs`, `op` (which knows the pullback) and `birth`,
# and `tinyvit.gradients` is the sweep above. The functions have the names they have in NumPy.

# %%
weight, bias = tinyvit.Tensor(W, requires_grad=True), tinyvit.Tensor(b, requires_grad=True)
y = tinyvit.tanh(images @ weight + bias)
loss = tinyvit.sum(y * y)
real = tinyvit.gradients(loss, [weight, bias])
print("the same gradients:", all(np.allclose(a, b) for a, b in zip(real, [dW, db], strict=True)))

# %% [markdown]
# Because a tensor *is* the node of the graph, the graph can be drawn. Read it from the leaves (round) down to the
# loss:

# %%
graph = tinyvit.draw(loss, format="svg", names={"x": images, "W": weight, "b": bias, "y": y})
listing = tinyvit.draw(loss)
_ = plots.save(graph, FIGURES / "01_graph.svg", {"loss": loss.item(), "nodes": len(listing.splitlines())})
graph

# %% [markdown]
# What it does beyond ours:
#
# * **Equations and kernels.** A softmax is *defined* as a composition of small operations, and *computed* by a fast
#   kernel with a hand-written pullback. Drawn with `open=True`, a kernel unfolds into its definition:

# %%
scores = tinyvit.Tensor(rng.normal(size=(2, 3)), requires_grad=True)
print(tinyvit.draw(tinyvit.softmax(scores), names={"scores": scores}))
print()
print(tinyvit.draw(tinyvit.softmax(scores), names={"scores": scores}, open=True))

# %% [markdown]
# * **Any order.** Pullbacks are written in operations too, so a gradient is a computation with a graph of its own,
#   which can be differentiated again. `tinyvit.grad` turns a function into its derivative; it nests:

# %%
derivative = tinyvit.tanh
for order in range(1, 4):
    derivative = tinyvit.grad(derivative)
    print(f"derivative {order} of tanh at 0: {derivative(np.array(0.0)) + 0:.0f}")

# %% [markdown]
# ### The pullback of softmax
#
# One pullback deserves to be derived by hand, because attention is built on it. With
# $s_i = e^{x_i} / \sum_k e^{x_k}$,
#
# $$\frac{\partial s_i}{\partial x_j} = s_i(\delta_{ij} - s_j), \qquad J = \operatorname{diag}(s) - s s^{\mathsf T},
# \qquad J^{\mathsf T} g = s \odot (g - \langle g, s\rangle) .$$
#
# The matrix has $n^2$ entries, the pullback takes about $4n$ operations. For the 197 tokens of a ViT that is a factor
# of fifty, in every row of every head.

# %%
s = tinyvit.softmax(rng.normal(size=197))
g = rng.normal(size=197)
J = np.diag(s) - np.outer(s, s)
print("numbers in the Jacobian:", J.size, "  in the pullback:", s.size)
print("same result:", np.allclose(J.T @ g, s * (g - g @ s)))

# %% [markdown]
# ## 3 · Trust, but measure: how to test a derivative
#
# Take the slope of the loss along a direction, $\varphi(t) = L(w + t v)$. Three ways to get $\varphi'(0)$ without a
# pullback, with what Taylor's formula says of them:
#
# $$\begin{aligned}
# \text{forward difference} \quad
# & \frac{\varphi(\varepsilon) - \varphi(0)}{\varepsilon} & &= \varphi' + \tfrac12 \varphi''\varepsilon + \dots \\[4pt]
# \text{central difference} \quad
# & \frac{\varphi(\varepsilon) - \varphi(-\varepsilon)}{2\varepsilon}
# & &= \varphi' + \tfrac16 \varphi'''\varepsilon^2 + \dots \\[4pt]
# \text{complex step} \quad
# & \frac{\operatorname{Im} \varphi(i\varepsilon)}{\varepsilon} & &= \varphi' - \tfrac16 \varphi'''\varepsilon^2 + \dots
# \end{aligned}$$
#
# The two differences subtract numbers that are nearly equal. Each carries a rounding error of about
# $u\lvert\varphi\rvert$, where $u = 2^{-53}$ for a double, and that is divided by $\varepsilon$. So halving
# $\varepsilon$ helps until rounding takes over; the best one can do is an error of about $\sqrt u \approx 10^{-8}$
# (forward) or $u^{2/3} \approx 10^{-11}$ (central). The complex step subtracts nothing and has no such limit. The
# third derivative, for the theory in the figure, we have at hand.

# %%
inputs, labels = rng.normal(size=(6, 4)), np.array([0, 1, 2, 0, 1, 2])
w, v, head = rng.normal(size=(4, 5)), rng.normal(size=(4, 5)), rng.normal(size=(5, 3))


def loss(w):
    """A network with one hidden layer."""
    return tinyvit.cross_entropy(tinyvit.tanh(inputs @ w) @ head, labels)


def along(t):
    return loss(w + t * v)


zero = np.array(0.0)
first = tinyvit.grad(along)
second = tinyvit.grad(first)
third = tinyvit.grad(second)
slope, bend, twist = (float(d(zero)) for d in (first, second, third))

# %%
eps = np.logspace(0, -15, 31)
estimates = {
    "forward difference": [(along(e) - along(0.0)) / e for e in eps],
    "central difference": [(along(e) - along(-e)) / (2 * e) for e in eps],
    "complex step": [np.imag(along(1j * e)) / e for e in eps],
}
errors = {name: np.abs(np.array(found) - slope) for name, found in estimates.items()}
u = 2.0**-53
theory = {
    "½|φ″|ε": (eps, abs(bend) * eps / 2),
    "⅙|φ‴|ε²": (eps[:18], abs(twist) * eps[:18] ** 2 / 6),
    "u|φ|/ε": (eps[6:], u * abs(along(0.0)) / eps[6:]),
}

# %%
curves = {name: (eps, np.maximum(error, 1e-17)) for name, error in errors.items()}
figure = plots.lines(curves, theory=theory, x="step ε", y="error of the slope", log="xy")
numbers = {"eps": eps, "errors": errors, "derivatives": [slope, bend, twist], "value": along(0.0)}
_ = plots.save(figure, FIGURES / "01_finite_differences.png", numbers)
figure

# %% [markdown]
# Read it from the right. While truncation rules, the errors fall with slope 1 and slope 2, on the dashed lines; then
# the differences run into the wall of rounding (dash-dotted), and the complex step goes on until the double is exact.
# In numbers:


# %%
def order(error, big=1e-2, small=1e-3):
    """The power of ε that the error falls with, between two steps."""
    at = {e: error[np.argmin(abs(eps - e))] for e in (big, small)}
    return np.log10(at[big] / at[small])


for name, error in errors.items():
    print(f"{name:20} falls like ε^{order(error):.1f}")
print("complex step with ε = 1e-15, wrong by less than 1e-14:", errors["complex step"][-1] < 1e-14)

# %% [markdown]
# ## 4 · A blind spot
#
# A convenient test sets the cotangent to ones: differentiate the *sum* of the output. For softmax that sum is 1
# whatever the input, so its true gradient is zero, and a backward that returns nonsense which happens to vanish for
# $g = (1, …, 1)$ passes. The same happens to LayerNorm with gain 1, whose outputs sum to zero. Here are right and
# wrong pullbacks of both:


# %%
def dot(a, b):
    return np.sum(a * b, axis=-1, keepdims=True)


def softmax_rule(rule):
    return tinyvit.softmax, lambda g, x: rule(g, tinyvit.softmax(x))


def normalise(x):
    return tinyvit.layer_norm(x, eps=0.0)


def norm_rule(rule):
    return normalise, lambda g, x: rule(g, normalise(x)) / np.std(x, axis=-1, keepdims=True)


SUSPECTS = {
    "softmax: right": softmax_rule(lambda g, s: s * (g - dot(g, s))),
    "softmax: returns zeros": softmax_rule(lambda g, s: 0 * g),
    "softmax: three times too large": softmax_rule(lambda g, s: 3 * s * (g - dot(g, s))),
    "softmax: outer s forgotten": softmax_rule(lambda g, s: g - dot(g, s)),
    "softmax: diagonal of J only": softmax_rule(lambda g, s: s * (1 - s) * g),
    "LayerNorm: right": norm_rule(lambda g, y: g - g.mean(-1, keepdims=True) - y * dot(g, y) / y.shape[-1]),
    "LayerNorm: variance path forgotten": norm_rule(lambda g, y: g - g.mean(-1, keepdims=True)),
    "LayerNorm: mean path forgotten": norm_rule(lambda g, y: g - y * dot(g, y) / y.shape[-1]),
}

# %% [markdown]
# A test accuses a pullback when $\langle J^{\mathsf T} g, v\rangle$ differs from the slope of
# $\langle g, f(x + tv) \rangle$. We run it twenty times for each suspect: with ones, and with a random $g$.


# %%
def accuses(f, pullback, x, g, v, h=1e-5):
    slope = np.sum(g * (f(x + h * v) - f(x - h * v))) / (2 * h)
    return abs(slope - np.sum(pullback(g, x) * v)) > 1e-5


def caught(f, pullback, cotangent, trials=20):
    """The share of trials in which the test accuses."""
    draws = [rng.normal(size=(2, 3, 5)) for _ in range(trials)]  # x and v, three rows of five
    return np.mean([accuses(f, pullback, x, cotangent(x.shape), v) for x, v in draws])


COTANGENTS = {"ones": np.ones, "random": lambda shape: rng.normal(size=shape)}
shares = np.array([[caught(*suspect, make) for make in COTANGENTS.values()] for suspect in SUSPECTS.values()])

# %%
figure = plots.heat_maps({"share of trials in which the test accuses": shares}, list(SUSPECTS), list(COTANGENTS),
                         x="cotangent of the test", written=".0%", limits=(0, 1), cell=(0.95, 0.36))  # fmt: skip
numbers = {"suspects": list(SUSPECTS), "tests": list(COTANGENTS), "shares": shares}
_ = plots.save(figure, FIGURES / "01_blind_spots.png", numbers)
figure

# %% [markdown]
# Four wrong backwards pass the test with ones, every time; a random cotangent catches all six, and accuses neither of
# the right ones. The rules that follow cost nothing:
# **random cotangents, uneven shapes, random gains and offsets, double precision.** `tinyvit.check_op` does this and
# more, and says in words what is wrong:


# %%
@tinyvit.equation
def my_softmax(x):
    e = tinyvit.exp(x)
    return e / tinyvit.sum(e, axis=-1, keepdims=True)


@my_softmax.kernel
def _(x):
    s = tinyvit.softmax(x)
    return s, lambda g: (g - dot(g, s),)  # the outer s is forgotten


try:
    tinyvit.check_op(my_softmax, rng.normal(size=(3, 5)))
except tinyvit.OpError as error:
    print(str(error).split(";")[0].split(" — ")[0])

# %% [markdown]
# ## 5 · Beyond the gradient: the Hessian times a vector
#
# Deck 2 speaks of the *leading eigenvalue of the Hessian*, and SAM steps along $\nabla L(w + \hat\delta)$. Both need
# $H = \nabla^2 L$, which for a ViT-B has $(86\cdot10^6)^2$ entries. What they really need is $Hv$, and that costs
# about as much as a few gradients. Three ways:
#
# $$Hv \approx \frac{\nabla L(w + \varepsilon v) - \nabla L(w - \varepsilon v)}{2\varepsilon}, \qquad
# Hv = \nabla \langle \nabla L(w), v\rangle, \qquad Hv = \operatorname{Im} \nabla L(w + i h v) / h .$$
#
# The first subtracts and suffers as in section 3. The second differentiates the sweep itself (*reverse over
# reverse*). The third runs the sweep once, on complex numbers, with a step so small ($h = 10^{-20}$) that its
# truncation error is invisible.

# %%
gradient = tinyvit.grad(loss)
H = tinyvit.hessian(loss, w)  # small enough here to be had in full: (4, 5, 4, 5)
exact = np.tensordot(H, v, axes=2)
scale = np.linalg.norm(exact)
exact_errors = {}
for method in ("reverse", "complex"):
    exact_errors[method] = np.linalg.norm(tinyvit.hvp(loss, w, v, method=method) - exact) / scale
    print(f"{method:8} agrees with the full Hessian to 1e-14: {exact_errors[method] < 1e-14}")
print("the Hessian is symmetric:", np.allclose(H, np.transpose(H, (2, 3, 0, 1))))

# %%
product_errors = [np.linalg.norm((gradient(w + e * v) - gradient(w - e * v)) / (2 * e) - exact) / scale for e in eps]
names = {"reverse": "∇⟨∇L, v⟩", "complex": "Im ∇L(w + ihv) / h"}
others = {names[method]: (eps, np.full(len(eps), max(error, 1e-17))) for method, error in exact_errors.items()}
figure = plots.lines({"difference of gradients": (eps, product_errors)}, theory=others,
                     x="step ε", y="relative error of Hv", log="xy")  # fmt: skip
numbers = {"eps": eps, "errors": product_errors, "exact": exact_errors}
_ = plots.save(figure, FIGURES / "01_hessian_vector.png", numbers)
figure

# %% [markdown]
# What has this to do with SAM? Expand its gradient:
# $\nabla L(w + \delta) = \nabla L(w) + H\delta + O(\lVert\delta \rVert^2)$. SAM adds a Hessian–vector product to the
# gradient without ever naming the Hessian. If so, what is left after the two terms must shrink *four*-fold when
# $\delta$ is halved:

# %%
delta = 1e-3 * gradient(w) / np.linalg.norm(gradient(w))  # as on the slide, with ε = 0.001


def remainder(d):
    return np.linalg.norm(gradient(w + d) - gradient(w) - tinyvit.hvp(loss, w, d))


print(f"halving δ divides the remainder by {remainder(delta) / remainder(delta / 2):.1f}")

# %% [markdown]
# ## Exercise
#
# Give *our* `Tensor` (section 1) the two operations that softmax lacks: `exp` and division. Derive both pullbacks as
# in section 1, fill in the dots, and run the check, which uses what you learnt in section 4.


# %%
def exp(x):
    """e to the power of every number of a Tensor x."""
    ...


def divide(a, b):
    """a / b for two Tensors."""
    ...


# %%
a, b = (Tensor(rng.uniform(0.5, 1.5, size=shape)) for shape in [(3, 4), (3, 1)])
if exp(a) is None or divide(a, b) is None:
    print("nothing to check yet")
else:
    found = gradients((divide(exp(a), b) * Tensor(g := rng.normal(size=(3, 4)))).sum(), [a, b])
    e = g * np.exp(a.data)
    wanted = [e / b.data, -np.sum(e, axis=1, keepdims=True) / b.data**2]
    print("exp and divide are right:", all(np.allclose(f, w) for f, w in zip(found, wanted, strict=True)))

# %% [markdown]
# **Then** write softmax and log-softmax with their pullbacks, stable for large scores: that is **exercise 04**. In a
# terminal, `tinyvit exercises start my_exercises` writes the files, and `pytest my_exercises` grades them and says
# what is wrong with a wrong answer.
#
# ## Three questions
#
# 1. Reverse mode carries a row through the chain rule from the left. For which shapes of program would it be cheaper
#    to carry a column from the right (*forward mode*), and why is a network's loss not one of them?
#
#    <details><summary>Answer</summary>
#
#    One sweep gives a column of $J$ forwards and a row backwards: for all of $J$, forward mode takes $n$ sweeps and
#    reverse mode $m$, so forward mode wins if $n < m$. A loss has $m = 1$, and $n$ is the number of weights, often
#    millions.
#
#    </details>
#
# 2. LayerNorm with gain 1 hides a forgotten variance path from the test with ones. Does it still, when the gain
#    $\gamma$ is random? Work out $\langle 1, y\rangle$ in both cases.
#
#    <details><summary>Answer</summary>
#
#    With gain 1, $\langle 1, y\rangle$ is the same for every $x$, and both rules return the right zero. With a random
#    gain it is $\langle\gamma, \hat x\rangle$ plus a constant: $\gamma$ plays the random cotangent, and the mistake
#    shows.
#
#    </details>
#
# 3. A finite-difference test in float32 has $u = 2^{-24}$. What is the smallest error that a central difference can
#    reach, and why do all tests of this package run in float64?
#
#    <details><summary>Answer</summary>
#
#    About $u^{2/3} = 2^{-16} \approx 1.5\cdot10^{-5}$, where float64 reaches about $2\cdot10^{-11}$. A test has to
#    tolerate its own error, and one that tolerates $10^{-5}$ also passes small mistakes, such as a misplaced
#    $\epsilon$.
#
#    </details>
#
# **Next** · 03, attention as a soft look-up, where the softmax's pullback decides whether a network can learn.
