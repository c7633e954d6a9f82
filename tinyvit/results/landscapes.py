"""Loss landscapes of ViT and ResNet, with SAM and without (Chen et al. 2022, Fig. 1), on planes of random directions.

Directions are as long as the weights, neuron by neuron (Li et al. 2018), so that scales of weights do not show.
"""

from __future__ import annotations

import numpy as np

from tinyvit import plots
from tinyvit.analysis import landscape, random_direction
from tinyvit.results.around import IMAGES, MODELS, larger, rounded, settings, times
from tinyvit.results.experiment import Experiment, Trial, fitted, scores
from tinyvit.results.table import Reading, Table, appears
from tinyvit.runs.looking import OBJECTIVE, first

SIZES = {
    "fast": {"seeds": (0, 1), "updates": 60, "points": 5},
    "usual": {"seeds": (0, 1, 2), "updates": 400, "points": 17},
    "full": {"seeds": (0, 1, 2, 3, 4), "updates": 1600, "points": 41},
}
PLAIN, SAM = "AdamW", "AdamW and SAM"
RHOS = {PLAIN: 0.0, SAM: 0.1}
NEAR = 0.5  # lengths of the weights
RISE = Reading("rise", f"mean rise of the loss within {NEAR:g} lengths of the weights", "nats", form=".2f")


def trials(updates, points):
    """Both models, with SAM and without."""
    return {(name, way): Trial(settings(updates, MODELS[name]) | {"rho": rho}, also={"points": points})
            for name in ("ViT", "ResNet") for way, rho in RHOS.items()}  # fmt: skip


def measure(trial: Trial, seed: int) -> dict[str, dict]:
    """Train to the end; the loss on a plane, and how much higher it is near the weights than at them."""
    model, task, _ = fitted(trial, seed)
    rng = np.random.default_rng(seed)
    directions = [random_direction(model, rng=rng) for _ in range(2)]
    steps = np.linspace(-1, 1, trial.also["points"])
    losses = landscape(OBJECTIVE, model, first(task.splits.train, IMAGES), directions, [steps, steps])
    loss = float(losses[len(steps) // 2, len(steps) // 2])
    near = np.hypot(*np.meshgrid(steps, steps)) <= NEAR
    return {"": {"rise": float(losses[near].mean()) - loss, "loss": loss, "steps": steps.tolist(),
                 "losses": rounded(losses)} | scores(model, task)}  # fmt: skip


def verdict(table: Table) -> str:
    """A ViT's landscape rises faster than a ResNet's, and SAM makes either flatter."""
    steeper = larger(table, ("ViT", PLAIN), ("ResNet", PLAIN))
    flatter = all(larger(table, (name, PLAIN), (name, SAM)) for name in table.rows)
    told = ", ".join(f"{name} {times(table, (name, PLAIN), (name, SAM))}" for name in table.rows)
    return (
        f"{appears(steeper)} that a ViT's loss rises faster around its minimum than a ResNet's: "
        f"{times(table, ('ViT', PLAIN), ('ResNet', PLAIN))}. {appears(flatter)} that SAM makes the landscape flatter; "
        f"the rise without it against that with it: {told}. (At the end of training; losses are in the table.)"
    )


def figure(table: Table):
    """The planes of the first seed, from above and in perspective, on one scale."""
    runs = {f"{name}, {way}": runs[0] for (name, way), runs in table.cells.items()}
    planes = {title: plots.Plane(run["losses"], (run["steps"],) * 2) for title, run in runs.items()}
    return plots.loss_planes(planes, labels=("direction 1", "direction 2"), surfaces=True)


EXPERIMENT = Experiment(
    title="Loss landscapes with SAM and without",
    claim="A ViT sits in a sharp valley, a ResNet in a wide one; SAM widens the ViT's.",
    sizes=SIZES,
    trials=trials,
    verdict=verdict,
    figure=figure,
    measure=measure,
    readings=(RISE, Reading("loss", "training loss at the weights", "nats", form=".4f")),
)
