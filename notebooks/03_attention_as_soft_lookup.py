# %% [markdown]
# # 03 · Attention as a soft look-up
#
# A dictionary returns the value whose key *equals* the query. Attention returns a mixture of all values, weighted by
# how well their keys *match* the query. Everything else in this notebook follows from that sentence: what queries,
# keys and values are, why the match is divided by $\sqrt d$, why there are several heads, and why tokens need
# positions.
#
# **Slides** · deck 1, *Scaled Dot-Product Attention*, *Multi-Head Attention*; deck 3, the look-up table *Goat,
# Squirrel, Dolphin, Mouse*, *Self-attention head*, *Multihead self-attention*, *The animal didn't cross the street…*;
# deck 5, *Attention Scores Between 2 Words*, *Toy Example*. (The README lists the decks.)
#
# **You will be able to**
# 1. write attention as one equation and say what each letter does,
# 2. derive the factor $1/\sqrt d$, and predict the entropy of attention with and without it,
# 3. explain why a saturated softmax cannot learn,
# 4. split attention into heads and say what that buys,
# 5. prove that attention does not know the order of its tokens, and read attention maps out of a model.
#
# **You need** notebook 01 (the pullback of softmax), variance, entropy. **Time** 60 minutes to read and try; the
# cells run in about five seconds.

# %%
import os
from pathlib import Path

import numpy as np

import tinyvit
from tinyvit import plots

FAST = os.environ.get("TINYVIT_FAST") == "1"  # set when the notebooks are run as tests
FIGURES = Path("../figures/fast" if FAST else "../figures")
rng = np.random.default_rng(3)

# %% [markdown]
# ## 1 · From a dictionary to attention
#
# Deck 3 introduces keys and values with four animals. Describe each by four features: that is its **key**. What we
# want to know, the number of legs, is its **value**. A **query** says which features we are after.

# %%
ANIMALS = ["Goat", "Squirrel", "Dolphin", "Mouse"]
keys = np.array([  # hooves, climbs, swims, small
    [1, 1, 0, 0],
    [0, 1, 0, 1],
    [0, 0, 1, 0],
    [0, 0, 0, 1],
], dtype=float)  # fmt: skip
legs = np.array([[4.0], [4.0], [0.0], [4.0]])

QUERIES = {"hooves?": [1, 0, 0, 0], "swims?": [0, 0, 1, 0], "small climber?": [0, 1, 0, 1], "small?": [0, 0, 0, 1],
           "anything": [0, 0, 0, 0]}  # fmt: skip
queries = np.array(list(QUERIES.values()), dtype=float)

# %% [markdown]
# The match of query $q$ with key $k_j$ is their inner product, the number of wishes granted. Softmax turns matches
# into weights, and the answer is the weighted mean of the values:
#
# $$a_j = \frac{e^{\beta\, q\cdot k_j}}{\sum_{m} e^{\beta\, q\cdot k_m}}, \qquad \text{answer} = \sum_j a_j v_j .$$
#
# The number $\beta$ sets how strict the look-up is: $\beta \to \infty$ is a dictionary (ties share), $\beta = 0$ a
# plain mean. In the package, $\beta$ is called `scale`.

# %%
panels = {f"β = {beta}": tinyvit.softmax(beta * queries @ keys.T) for beta in (1, 5)}
figure = plots.heat_maps(panels, list(QUERIES), ANIMALS, y="query", label="weight", written=".2f", limits=(0, 1),
                         cell=(0.78, 0.45))  # fmt: skip
_ = plots.save(figure, FIGURES / "03_retrieval.png", {"queries": queries, "keys": keys, "weights": panels})
figure

# %%
strict = tinyvit.scaled_dot_product_attention(queries, keys, legs, scale=5.0)
for query, answer in zip(QUERIES, strict[:, 0], strict=True):
    print(f"{query:15} has {answer:.2f} legs")

# %% [markdown]
# "Swims?" gets nearly no legs; "anything" gets the mean of all four animals, three. No row of the table is ever
# *selected*: every weight is positive, so the answer is a smooth function of queries, keys and values, and all three
# can be learnt by gradient descent. In **self-attention** each token makes all three from its own features:
#
# $$q_i = z_i U_q, \quad k_i = z_i U_k, \quad v_i = z_i U_v, \qquad
# \operatorname{SA}(z) = \operatorname{softmax}\!\Big(\frac{Q K^{\mathsf T}}{\sqrt d}\Big) V .$$

# %% [markdown]
# ### Spot the slip
#
# The slide *Self-attention head* of deck 3 explains the softmax: "*select the best matching querys to their cosine
# difference*", among keys "*which are all other embeddings*". Three things are not as the equation has them. Decide
# which, then run the cell.

# %%
q = np.array([[0, 0, 1.0, 1.0]])  # small, and swims
loud = keys * np.array([[1], [1], [1], [3.0]])  # the mouse shouts: the same direction, three times the length
before, after = tinyvit.softmax(q @ keys.T), tinyvit.softmax(q @ loud.T)
print("cosine of query and mouse, before and after:",
      *(round(float((q @ k / np.linalg.norm(q) / np.linalg.norm(k))[0]), 3) for k in (keys[3], loud[3])))  # fmt: skip
print("weight of the mouse, before and after:      ", *(round(float(a[0, 3]), 3) for a in (before, after)))
A = tinyvit.softmax(keys @ keys.T)  # the animals look at each other
print("each query's weights sum to 1:", np.allclose(A.sum(axis=1), 1), "  each key's:", np.allclose(A.sum(axis=0), 1))
U_q, U_k = np.eye(4), np.roll(np.eye(4), 1, axis=0)  # now each animal asks for something else than it offers
print("weight of each animal for itself, q = k:    ", *(f"{a:.2f}" for a in np.diag(A)))
B = tinyvit.softmax(keys @ U_q @ (keys @ U_k).T)
print("the same, queries and keys of different U:  ", *(f"{b:.2f}" for b in np.diag(B)))

# %% [markdown]
# The match is an inner product, not a cosine: the *length* of a key matters. Softmax distributes one query over
# **keys**, not the other way round. And the keys are those of *all* tokens, a token's own among them. How much a token
# looks at itself is for $U_q$ and $U_k$ to decide: with $q = k$, as here, it matches itself well, since
# $q \cdot q = \lVert q\rVert^2$; with different $U$ it need not.
#
# ## 2 · Why divide by $\sqrt d$?
#
# Suppose that the $d$ numbers of a query and of the keys are independent, with mean 0 and variance 1. Then
#
# $$\mathbb E[q\cdot k] = 0, \qquad
# \operatorname{Var}[q\cdot k] = \sum_{c=1}^{d} \mathbb E[q_c^2]\,\mathbb E[k_c^2] = d .$$
#
# Scores grow like $\sqrt d$: a wider head has a larger $\beta$, which nobody chose. What that does can be predicted.
# For $n$ keys whose scores are normal with variance $\sigma^2$, sums over many keys become expectations, and the
# entropy of the weights is
#
# $$\mathcal H = \log \sum_j e^{s_j} - \sum_j a_j s_j \;\approx\; \log n + \frac{\sigma^2}{2} - \sigma^2
# = \log n - \frac{\sigma^2}{2},$$
#
# because $\mathbb E[e^{s}] = e^{\sigma^2/2}$ and $\mathbb E[s\,e^{s}] = \sigma^2 e^{\sigma^2/2}$. With the factor,
# $\sigma = 1$: attention lies half a nat below uniform, at *every* width. Without it, $\sigma^2 = d$: the formula
# has the entropy used up when $d = 2\log n$, about 8 for 64 keys.

# %%
n, trials = 64, 200
widths = 2 ** np.arange(0, 11)


def scores(d):
    """Products of random queries with n random keys each."""
    q, k = rng.normal(size=(trials, 1, d)), rng.normal(size=(trials, n, d))
    return np.sum(q * k, axis=-1)


def entropy(a):
    return float(np.mean(-np.sum(a * np.log(np.maximum(a, 1e-300)), axis=-1)))


products = {d: scores(d) for d in widths}
attention = {"with 1/√d": [tinyvit.softmax(s / np.sqrt(d)) for d, s in products.items()],
             "without": [tinyvit.softmax(s) for s in products.values()]}  # fmt: skip

# %%
entropies = {name: [entropy(a) for a in of_widths] for name, of_widths in attention.items()}
uniform = np.log(n)
theory = {"log n − ½": (widths, np.full(len(widths), uniform - 0.5)),
          "log n − d/2": (widths[:4], uniform - widths[:4] / 2),
          "log n, uniform": (widths, np.full(len(widths), uniform))}  # fmt: skip
curves = {name: (widths, values) for name, values in entropies.items()}
figure = plots.lines(curves, theory=theory, x="width d of queries and keys", y="entropy of attention (nats)", log="x")
numbers = {"widths": widths, "keys": n, "entropies": entropies, "uniform": uniform}
_ = plots.save(figure, FIGURES / "03_entropy.png", numbers)
figure

# %% [markdown]
# The scaled curve settles on the prediction. The unscaled one starts in the predicted direction, and then falls more
# slowly: as soon as a few keys carry the whole sum, an expectation over "many" keys is no longer a good picture of
# it. It ends near zero all the same. At $d = 1$ there is nothing to scale, and both curves start at the same point.
#
# ### And in a fresh model?
#
# Variance 1 was an assumption. What a LayerNorm puts out has it, but $q = zU_q$ has variance $Ds^2$ if the entries of
# $U_q$ have variance $s^2$. So has $k$, the scores have $\sigma = Ds^2$ whatever $d$ is, and
# $\log N - \mathcal H \approx (Ds^2)^2/2$ (`capture`, which collects the weights, comes in section 6):


# %%
def missing(model, images):
    """log N minus the entropy of attention, for each block."""
    with tinyvit.capture(model, "blocks.*.attn.weights") as seen:
        model(images)
    return [np.log(a.shape[-1]) - tinyvit.analysis.attention_entropy(a.data).mean() for a in seen.values()]


noise = np.random.default_rng(0).normal(size=(1, 224, 224, 3))
digits = tinyvit.data.digits(seed=0).test.images[:20].astype(float)
for name, images, places in (("vit_tiny_patch16_224", noise, 3), ("vit_digits", digits, 2)):
    model = tinyvit.create_model(name, rng=np.random.default_rng(0)).astype(float)
    sigma = model.pos_embed.shape[-1] * model.blocks[0].attn.qkv.weight.data.var()
    print(f"{name:20}  σ = {sigma:.2f}, predicted {sigma**2 / 2:.{places}f}, found in the first three blocks:",
          *(f"{gap:.{places}f}" for gap in missing(model, images)[:3]))  # fmt: skip

# %% [markdown]
# Real models start from small weights: with $s = 0.02$, a ViT-Ti begins three *thousandths* of a nat below uniform.
# `vit_digits` starts from larger ones, $Ds^2 = 1$, yet misses less than half a nat: tokens of one image are alike, and
# what all keys share shifts all scores alike, which softmax does not see. So $1/\sqrt d$ does not *put* the entropy
# anywhere; it keeps the width of a head from moving it. And a map of a fresh model is nearly flat.
#
# ### A saturated softmax cannot learn
#
# From notebook 01: the pullback of softmax is $s \odot (g - \langle g, s\rangle)$, with the Jacobian
# $\operatorname{diag}(s) - s s^{\mathsf T}$. Its $n$ eigenvalues are *gains*, factors that
# directions of $g$ pass with; none is negative, and the trace, $1 - \sum_j s_j^2$, is their sum. For weights near
# uniform it is near 1; if one weight is $1 - \delta$ it is about $2\delta$, and every gain is at most that. Do not read
# it as a single gain: near uniform each is only about $1/n$. (For $n = 64$, uniform weights have trace 0.98 and largest
# gain 0.016; one weight of 0.999 and equal others have 0.002 and 0.001.) For normal scores with $\sigma = 1$ we expect
# $\sum_j s_j^2 \approx e/n$.

# %%
through = {
    name: [float(np.median(1 - np.sum(a * a, axis=-1))) for a in of_widths] for name, of_widths in attention.items()
}
theory = {"1 − e/n": (widths, np.full(len(widths), 1 - np.e / n))}
curves = {name: (widths, values) for name, values in through.items()}
figure = plots.lines(curves, theory=theory, x="width d of queries and keys", y="trace of softmax's Jacobian", log="xy")
_ = plots.save(figure, FIGURES / "03_gradient.png", {"widths": widths, "keys": n, "through": through})
figure

# %% [markdown]
# For the median query of an unscaled head at $d = 1024$, all gains together are below a thousandth. A head that
# starts by looking at the wrong token has no way to find out. This is a statement about *initial* weights: training
# may make the scores large again, and often does, but then because it helped.
#
# ## 3 · Several heads
#
# One softmax makes one mixture. A token that wants two things, from two different places, gets a blend of both.
# **Heads** split the $D$ features into $h$ groups of $d = D/h$, each with a look-up of its own, and put the answers
# side by side:
#
# $$\operatorname{MSA}(z) = [\operatorname{SA}_1(z), \dots, \operatorname{SA}_h(z)]\, U_{\text{msa}} .$$
#
# Let the animals attend to each other, with one head that sees all four features, and with two heads that see two
# each:


# %%
def split_heads(x, h):
    """(N, D) -> (h, N, D/h)"""
    return x.reshape(len(x), h, -1).swapaxes(0, 1)


def maps(z, h):
    q = k = split_heads(z, h)
    return tinyvit.softmax(4 * q @ k.swapaxes(1, 2))  # strict, so that the figure is easy to read


one, two = maps(keys, 1), maps(keys, 2)
panels = {"one head": one[0], "head 1: hooves, climbs": two[0], "head 2: swims, small": two[1]}
figure = plots.heat_maps(panels, ANIMALS, ANIMALS, y="query", x="key", label="weight", written=".2f", limits=(0, 1),
                         cell=(0.62, 0.45))  # fmt: skip
_ = plots.save(figure, FIGURES / "03_heads.png", {"tokens": keys, "one": one, "two": two})
figure

# %% [markdown]
# Follow the squirrel. One head compares all features at once, so it finds only itself. With two heads it looks in two
# places: for head 1 the goat is as good a match as itself (both climb), for head 2 the mouse is (both are small).
# Where an animal has nothing that a head knows, its query is zero and its attention uniform: heads that find nothing
# take the mean.
#
# Heads cost no weights: $U_q, U_k, U_v, U_{\text{msa}}$ have $4D^2$ of them for every $h$. What they cost is maps:
# $h$ of $N^2$ numbers each, to be computed and kept. And a head is nothing but attention on a slice:

# %%
N, D, h = 6, 12, 3
q, k, v = rng.normal(size=(3, N, D))
together = tinyvit.scaled_dot_product_attention(split_heads(q, h), split_heads(k, h), split_heads(v, h))
one_by_one = [tinyvit.scaled_dot_product_attention(*(x[:, 4 * i : 4 * i + 4] for x in (q, k, v))) for i in range(h)]
print("all heads in one product = head by head:", np.allclose(together, np.stack(one_by_one)))

# %% [markdown]
# ## 4 · *It* was too tired
#
# *The animal didn't cross the street because **it** was too tired.* What is *it*? With *wide* in the place of
# *tired*, it is the street. So *it* cannot be resolved by one look-up: it must first find the adjective, and only
# then the noun that the adjective fits. Two layers do that. Here with weights set by hand (a trained model spreads
# this over many heads and features), features: animate noun, place noun, pronoun, adjective for the living, adjective
# for places.

# %%
WORDS = ["The", "animal", "didn't", "cross", "the", "street", "because", "it", "was", "too", "{}"]
LEXICON = {"animal": 0, "street": 1, "it": 2, "tired": 3, "wide": 4}
FIND_ADJECTIVE, FIND_NOUN = np.zeros((2, 5, 5))
FIND_ADJECTIVE[2, [3, 4]] = 1  # a pronoun asks for adjectives of either kind
FIND_NOUN[3, 0] = FIND_NOUN[4, 1] = 1  # having met "tired", ask for the living; having met "wide", for places


def read(adjective):
    """What each word attends to in the second layer."""
    words = [word.format(adjective) for word in WORDS]
    z = np.array([np.eye(5)[LEXICON[word]] if word in LEXICON else np.zeros(5) for word in words])
    first = tinyvit.softmax(8 * z @ FIND_ADJECTIVE @ z.T)
    met = z + first @ z  # the residual connection: what it was, and what it found
    return tinyvit.softmax(8 * met @ FIND_NOUN @ z.T)


resolved = np.array([read(adjective)[WORDS.index("it")] for adjective in ("tired", "wide")])

# %%
columns = [*WORDS[:-1], "tired / wide"]
figure = plots.heat_maps({"what “it” attends to, second layer": resolved}, ["… too tired", "… too wide"], columns,
                         label="weight", written=".2f", zeros=False, limits=(0, 1))  # fmt: skip
_ = plots.save(figure, FIGURES / "03_it.png", {"words": WORDS, "weights": resolved})
figure

# %% [markdown]
# ## 5 · Attention does not know order
#
# Shuffle the tokens by a permutation matrix $\Pi$. Softmax works along rows and does not care about their order,
# $\operatorname{softmax}(\Pi S \Pi^{\mathsf T}) = \Pi \operatorname{softmax}(S)\, \Pi^{\mathsf T}$, and
# $\Pi^{\mathsf T}\Pi = I$, so
#
# $$\operatorname{SA}(\Pi z) = \Pi \operatorname{softmax}\!\Big(\frac{QK^{\mathsf T}}{\sqrt d}\Big)
# \Pi^{\mathsf T}\,\Pi V = \Pi \operatorname{SA}(z) .$$
#
# Attention is *equivariant*: shuffled tokens in, the same answers out, shuffled. LayerNorm and MLPs treat tokens one
# by one, so a whole encoder is equivariant; and the class token, which stays where it is, sees no difference at all.
# A ViT without positions classifies a bag of patches:


# %%
def shuffle_patches(images, side, order):
    """The patches of (B, 8, 8, 1) images, put in another order."""
    n = 8 // side
    patches = images.reshape(-1, n, side, n, side).swapaxes(2, 3).reshape(-1, n * n, side, side)[:, order]
    return patches.reshape(-1, n, n, side, side).swapaxes(2, 3).reshape(images.shape)


shuffled = shuffle_patches(digits, 2, rng.permutation(16))
for positions in ("none", "learn"):
    model = tinyvit.create_model("vit_digits", rng=np.random.default_rng(0), pos_embed=positions).astype(float)
    for parameter in model.head.parameters():
        parameter.data = rng.normal(size=parameter.shape)  # a fresh head is zero, and zeros tell nothing
    change = np.abs(model(shuffled).data - model(digits).data).max()
    print(f"positions: {positions:6} logits do not change when patches are shuffled: {change < 1e-12}")

# %% [markdown]
# ## 6 · Looking into a model
#
# Attention weights are inner values of a fused operation; `capture` collects them by name while the model runs. For
# every layer they come as (images, heads, queries, keys):

# %%
with tinyvit.capture(model, "blocks.*.attn.weights") as seen:
    logits = model(digits)
for name, a in seen.items():
    print(f"{name}  {a.shape}  rows sum to 1: {np.allclose(a.data.sum(axis=-1), 1)}"
          f"  entropy/log N: {tinyvit.analysis.attention_entropy(a.data, normalised=True).mean():.2f}")  # fmt: skip

# %% [markdown]
# The last column is the honest part: a fresh model attends to nearly everything alike (section 2 says why), so its maps
# show nothing. Notebook 06 trains one and looks again.
#
# What `capture` gives are tensors *in the graph*, so one can ask how a logit depends on them; and it can change
# values on their way, for instance to switch a head off:

# %%
sensitivity = tinyvit.gradients(logits[0, 3], seen["blocks.2.attn.weights"])[0]
print("∂(logit of class 3)/∂A of the last block:", sensitivity.shape)
keep = np.array([0.0, 1, 1, 1]).reshape(4, 1, 1)  # one number for each head
with tinyvit.capture(model, edit={"blocks.0.attn.weights": lambda a: a * keep}):
    without = model(digits)
print("switching off one head changes the logits:", bool(np.abs((without - logits).data).max() > 1e-3))
print("only the class token's row matters in the last block:", not sensitivity[:, :, 1:].any())

# %% [markdown]
# The last line is worth a thought: the logits are read from the class token, so what patches attend to in the *last*
# block has no effect whatever.
#
# ## Exercise
#
# A text model must not look ahead: token $i$ may attend to tokens $j \le i$ only. Attention takes a `bias` that is
# added to the scores before the softmax. Which numbers forbid a pair? Fill in the dots.


# %%
def causal_bias(n):
    """An (n, n) array that lets token i attend to tokens j <= i only."""
    ...


# %%
bias = causal_bias(5)
if bias is None:
    print("nothing to check yet")
else:
    a = tinyvit.scaled_dot_product_attention(*rng.normal(size=(2, 5, 4)), np.eye(5), bias)
    print("no look ahead:", not np.triu(a, 1).any(), "  rows sum to 1:", np.allclose(a.sum(axis=1), 1))

# %% [markdown]
# **Then** write scaled dot-product attention with its pullback: that is **exercise 08**. In a terminal,
# `tinyvit exercises start my_exercises` writes the files, and `pytest my_exercises` grades them: it knows the usual
# mistakes ($1/d$ for $1/\sqrt d$, a softmax over queries, …) by name.
#
# ## Three questions
#
# 1. Keys are multiplied by 2 and queries by ½. What happens to the attention? What does that say about interpreting
#    the length of a single query?
#
#    <details><summary>Answer</summary>
#
#    Nothing: every product $q \cdot k_j$ stays as it is, and so it does for $q \to qM$, $k \to k M^{-\mathsf T}$ with
#    any invertible $M$. The length of a query has no meaning by itself; only its products with keys have.
#
#    </details>
#
# 2. Why is $1/\sqrt d$ right at initialisation and $1/d$ wrong, although both stop the scores from growing? Predict
#    the entropy for $1/d$.
#
#    <details><summary>Answer</summary>
#
#    With $1/d$ and unit variances $\sigma^2 = 1/d$, so $\mathcal H \approx \log n - 1/(2d)$: the wider the head, the
#    nearer to a plain mean, and the gradients of $q$ and $k$ are $\sqrt d$ times smaller. With $1/\sqrt d$ no width
#    matters.
#
#    </details>
#
# 3. The class token sees a bag of patches if there are no positions. Would it help to give positions to the *keys*
#    only?
#
#    <details><summary>Answer</summary>
#
#    Yes: its weights then depend on where a patch stands, so its answer changes when patches are shuffled. But a query
#    does not know its own place: no patch can ask for its left neighbour, and equal patches stay equal in every layer.
#
#    </details>
#
# **Next** · 06, the vision transformer end to end.
