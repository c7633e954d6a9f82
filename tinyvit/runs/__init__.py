"""Training runs in folders: settings, metrics, checkpoints, weights. What `tinyvit train` calls."""

from tinyvit.runs.checkpoint import CheckpointError
from tinyvit.runs.config import RECIPES, RunConfig, configured
from tinyvit.runs.run import RunFolder, Stopped, run
from tinyvit.runs.sweep import Swept, sweep
from tinyvit.runs.tasks import Task, find_task
from tinyvit.runs.training import config_of_run, model_and_task, model_of_run

__all__ = [
    "RECIPES",
    "CheckpointError",
    "RunConfig",
    "RunFolder",
    "Stopped",
    "Swept",
    "Task",
    "config_of_run",
    "configured",
    "find_task",
    "model_and_task",
    "model_of_run",
    "run",
    "sweep",
]
