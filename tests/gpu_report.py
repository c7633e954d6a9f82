"""What the GPU of this machine makes of the package: ``python tests/gpu_report.py``.

The checks of test_gpu.py, without pytest; then the time of a training step there, on the processor, and in PyTorch.
All is done in processes of their own: several at a time, because CuPy compiles hundreds of kernels when it first meets
them, and replaced when they die, because an illegal access ends the process that it happens in. What was not finished
in time is told. With OUT set, everything, tracebacks too, is written to $OUT/gpu_report.json.

    --place stand-in   try the script where there is no GPU
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path
from threading import Thread

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]  # devices.py lies beside this file; tinyvit need not be installed

# children -----------------------------------------------------------------------------------

MARK = "@report "  # begins the lines in which a child says something; libraries may print others
DEADLY = ("CUDARuntimeError", "CUDADriverError", "CUBLASError")  # a process that met one computes nothing any more


def child(place: str) -> None:
    """Do the tasks that come as JSON on stdin, and say of each when it begins and what came of it."""
    for task in json.load(sys.stdin):
        say("begun", task)
        start, result = time.perf_counter(), {"task": task}
        try:
            result["found"] = DOES[task[0]](place, *task[1:])
        except Exception as error:
            result |= failure(error)
        result["seconds"] = round(time.perf_counter() - start, 2)
        say("done", result)
        if result.get("deadly"):
            os._exit(3)


def say(what: str, value) -> None:
    print(MARK + json.dumps([what, value]), flush=True)


def failure(error: Exception) -> dict:
    text = (str(error).strip() or "(no text)").splitlines()[0]
    return {"failed": f"{type(error).__name__}: {text[:300]}", "deadly": type(error).__name__ in DEADLY,
            "traceback": "".join(traceback.format_exception(error))[-6000:]}  # fmt: skip


def run_op(place: str, name: str) -> dict:
    """The worst difference of an op in each way, or, for a way in which a row failed, why."""
    import devices

    found = {}
    for way, options in devices.WAYS.items():
        row, worst = None, []
        try:
            for row in devices.rows_of(name, way):
                worst.append(devices.op_differs(devices.PLACES[place], name, row, **options))
            found[way] = max(worst, default=None)
        except Exception as error:
            found[way] = failure(error) | {"row": str(row)}
            if found[way]["deadly"]:
                raise
    return found


def run_model(place: str, name: str, what: str) -> float:
    import devices

    return devices.MODEL_CHECKS[what](devices.PLACES[place], name)


def run_other(place: str, what: str) -> float:
    import devices

    return devices.OTHER_CHECKS[what](devices.PLACES[place])


def machine(place: str) -> dict:
    """What the numbers were measured on."""
    import scipy.special

    from tinyvit.bench.facts import blas_library, cores, cpu_model, installed

    libraries = ("numpy", "scipy", "cupy-cuda12x", "cupy-cuda13x", "torch", "pytest", "hypothesis")
    facts = {"cpu": f"{cores()} cores, {cpu_model()}, {blas_library()}",
             "versions": {"python": platform.python_version(), **installed(libraries)},
             "erf": type(scipy.special.erf).__name__}  # fmt: skip
    if place == "cuda":
        import cupy

        runtime = cupy.cuda.runtime
        device = runtime.getDeviceProperties(0)
        facts["gpu"] = f"{device['name'].decode()}, {device['totalGlobalMem'] / 1e9:.1f} GB"
        facts["cuda"] = f"runtime {runtime.runtimeGetVersion()}, driver {runtime.driverGetVersion()}"
        assert cupy.arange(5).sum().item() == 10, "CuPy cannot add"
    return facts


# times --------------------------------------------------------------------------------------

W1 = {"img_size": 32, "patch_size": 4, "depth": 6, "num_classes": 10}  # of vit_tiny_patch16_224
RATE = 1e-4


def model_and_data(batch: int):
    """The same for everybody."""
    from tinyvit import create_model

    rng = np.random.default_rng(1)
    images = rng.normal(size=(batch, 32, 32, 3)).astype(np.float32)
    labels = rng.integers(10, size=batch)
    return create_model("vit_tiny_patch16_224", rng=np.random.default_rng(0), **W1), images, labels


def ours(place: str, where: str, batch: int, seconds: float) -> dict:
    """Our step on the device (the batch lies there) or on the host (over its threads)."""
    import devices

    from tinyvit.machine import reuse_memory
    from tinyvit.train import AdamW, classification, gradient_of, predict, threaded

    reuse_memory()
    model, images, labels = model_and_data(batch)
    finish, megabytes, gradient = no_wait, None, threaded(gradient_of(classification()))
    if where == "device":
        devices.PLACES[place].model(model)
        images, labels = map(model.bring, (images, labels))
    if where == "device" and place == "cuda":
        import cupy

        finish = cupy.cuda.Device().synchronize
        megabytes = lambda: cupy.get_default_memory_pool().total_bytes() / 1e6  # noqa: E731
    optimizer, rng = AdamW(model), np.random.default_rng(2)

    def only_gradient():
        return gradient(model.train(rng), (images, labels))

    def step():
        loss, g = only_gradient()
        optimizer.step(g, RATE)
        return loss

    return times(step, only_gradient, lambda: predict(model.eval(), images), finish, megabytes, seconds)


def torchs(place: str, batch: int, seconds: float) -> dict:
    """The step of PyTorch, eager; without TF32, which CuPy's products do not use either."""
    import torch
    import torch.nn.functional as F

    from tinyvit.bench.torch_peer import adamw, vit

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    model, images, labels = model_and_data(batch)
    device = "cuda" if place == "cuda" else "cpu"
    weights = {k: torch.tensor(x, device=device, requires_grad=True) for k, x in model.state_dict().items()}
    images = torch.tensor(images, device=device).permute(0, 3, 1, 2).contiguous()
    labels = torch.tensor(labels, device=device)
    sizes = {"depth": model.config.depth, "heads": model.config.num_heads, "patch": model.config.patch_size}
    optimizer = adamw(weights, RATE)

    def only_gradient():
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(vit(weights, images, **sizes), labels)
        loss.backward()
        return loss.item()  # ours asks for it too

    def step():
        loss = only_gradient()
        optimizer.step()
        return loss

    def forward():
        with torch.inference_mode():
            return vit(weights, images, **sizes)

    finish, megabytes = no_wait, None
    if place == "cuda":
        finish, megabytes = torch.cuda.synchronize, lambda: torch.cuda.max_memory_reserved() / 1e6
    return times(step, only_gradient, forward, finish, megabytes, seconds)


def no_wait() -> None:
    """The host has finished when it returns."""


def times(step, gradient, forward, finish, megabytes, seconds: float) -> dict:
    """The losses before the first steps, and milliseconds of each."""
    found = {"losses": [step() for _ in range(3)]}
    for name, work, share in (("step", step, 0.5), ("gradient", gradient, 0.3), ("forward", forward, 0.2)):
        found[name] = timed(work, finish, share * seconds)
    return found | {"MB": megabytes and megabytes()}


def timed(work, finish, seconds: float) -> float:
    """The median turn in milliseconds; a turn is over when the device has finished."""
    work()
    finish()
    turns, until = [], time.perf_counter() + seconds
    while len(turns) < 30 and (len(turns) < 2 or time.perf_counter() < until):
        start = time.perf_counter()
        work()
        finish()
        turns.append(time.perf_counter() - start)
    return 1e3 * float(np.median(turns))


DOES = {"op": run_op, "model": run_model, "other": run_other, "machine": machine, "ours": ours, "torch": torchs}

# the parent ---------------------------------------------------------------------------------


class Worker(Thread):
    """Has tasks done by a child. One that dies takes the task that it was at with it, and another does the rest."""

    def __init__(self, place: str, tasks: list, until: float, threads: int | None = None):
        super().__init__(daemon=True)
        self.tasks, self.until, self.results, self.current = tasks, until, [], None
        self.command = [sys.executable, "-u", __file__, "--child", "--place", place]
        one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
        self.environment = os.environ | (one if threads else {})
        self.start()

    def run(self):
        while (left := self.tasks[len(self.results) :]) and time.monotonic() < self.until:
            self.have_done(left)
        self.results += [{"task": task, "failed": "not finished in time"} for task in left]

    def have_done(self, tasks: list) -> None:
        """Start a child, listen to it until it ends or the time is over, and note what it died of."""
        before, self.current = len(self.results), None
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with (
            tempfile.TemporaryFile("w+") as errors,
            subprocess.Popen(
                self.command, **pipes, stderr=errors, text=True, cwd=ROOT, env=self.environment
            ) as process,
        ):
            ear = Thread(target=self.listen, args=(process.stdout,), daemon=True)
            ear.start()
            with suppress(BrokenPipeError):  # it died at once
                process.stdin.write(json.dumps(tasks))
                process.stdin.close()
            ear.join(max(0.0, self.until - time.monotonic()))
            if late := ear.is_alive():
                process.kill()
            ear.join()
            status = process.wait()
            errors.seek(0)
            told = errors.read()[-3000:].strip()
        if not late and (self.current or len(self.results) == before):
            why = f"its process ended with status {status}: {told.splitlines()[-1][:300] if told else '(silent)'}"
            self.results.append({"task": self.current or tasks[0], "failed": why, "traceback": told})
        elif told and self.results:
            self.results[-1]["stderr"] = told

    def listen(self, lines) -> None:
        for line in lines:
            if line.startswith(MARK):
                what, value = json.loads(line.removeprefix(MARK))
                self.current = value if what == "begun" else None
                if what == "done":
                    self.results.append(value)


def done(place: str, tasks: list, until: float, workers: int = 1, threads: int | None = None) -> list:
    """The results of tasks that do not depend on each other, in their order."""
    crew = [Worker(place, tasks[i::workers], until, threads) for i in range(min(workers, len(tasks)))]
    for worker in crew:
        worker.join()
    found = {json.dumps(result["task"]): result for worker in crew for result in worker.results}
    return [found.get(json.dumps(task), {"task": task, "failed": "lost"}) for task in tasks]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python tests/gpu_report.py", description=__doc__.splitlines()[0])
    parser.add_argument("--place", choices=["cuda", "stand-in"], default="cuda")
    parser.add_argument("--seconds", type=float, default=280, help="when to end; the checks get six tenths at most")
    parser.add_argument("--workers", type=int, default=min(12, max(1, (os.cpu_count() or 2) - 2)))
    parser.add_argument("--only", metavar="PATTERN", default="*", help='the checks of one op or model; "none" for none')
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.place)
        return 0
    start = time.monotonic()
    results = done(options.place, [["machine"]], start + 60)
    for name, value in (results[0].get("found") or results[0]).items():
        shout(f"{name:9} {value}")
    if "found" in results[0]:
        results += check(options.place, options.only, start + 0.6 * options.seconds, options.workers)
        shout(f"({time.monotonic() - start:.0f} s)")
        results += time_steps(options.place, start + options.seconds)
    if folder := os.environ.get("OUT"):
        Path(folder, "gpu_report.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    failures = list(failures_in(results))
    shout(f"\n{len(results)} tasks, {len(failures)} failures, {time.monotonic() - start:.0f} s")
    for task, why in failures[:25]:
        shout(f"FAILED {task}: {why[:200]}")
    if len(failures) > 25:
        shout(f"and {len(failures) - 25} more: " + ", ".join(task for task, _ in failures[25:])[:800])
    return 1 if failures else 0


def failures_in(results: list):
    """What failed, and why; ways of an op that failed alike are told once."""
    for result in results:
        name = " ".join(map(str, result["task"]))
        if "failed" in result:
            yield name, result["failed"]
        elif result["task"][0] == "op":
            whys: dict = {}
            for way, found in result["found"].items():
                if isinstance(found, dict):
                    whys.setdefault(found["failed"], []).append(way)
            yield from ((f"{name} by {', '.join(ways)}", why) for why, ways in whys.items())


# tables -------------------------------------------------------------------------------------


def check(place: str, pattern: str, until: float, workers: int) -> list:
    import devices

    ops = [["op", name] for name in sorted({name for name, _ in devices.ROWS}) if fnmatch(name, pattern)]
    rest = [["other", what] for what in devices.OTHER_CHECKS if pattern == "*"]
    rest += [["model", name, what] for name in devices.SMALL for what in devices.MODEL_CHECKS if fnmatch(name, pattern)]
    results = done(place, [*ops, *rest], until, workers, threads=1)
    shout(f"\nops, worst difference from NumPy by {', by '.join(devices.WAYS)}: value, gradients, second derivatives")
    lines = [f"{r['task'][1]:28.28}" + "".join(f"{short(e):>7}" for e in found_in(r)) for r in results[: len(ops)]]
    for i in range(0, len(lines), 2):
        shout("  | ".join(lines[i : i + 2]))
    shout("\nmodels and all else, worst difference")
    rows: dict = {}
    for r in results[len(ops) :]:
        row = rows.setdefault(r["task"][1] if r["task"][0] == "model" else "other", [])
        row.append(f"{r['task'][-1]} {short(*found_in(r))}")
    for name, told in rows.items():
        shout(f"{name:18} {', '.join(told)}")
    return results


def found_in(result: dict) -> list:
    found = result.get("found", {"failed": ""})
    return list(found.values()) if result["task"][0] == "op" and "found" in result else [found]


def short(error) -> str:
    return "-" if error is None else "FAILED" if isinstance(error, dict) else f"{error:.0e}" if error else "0"


def time_steps(place: str, until: float) -> list:
    shout("\nvit_tiny, 32×32 images in patches of 4, depth 6, float32; milliseconds, median")
    shout(f"{'':24}{'step':>9}{'gradient':>9}{'forward':>9}{'MB':>7}  losses before the first three steps")
    results = []
    for task in (["ours", "device", 64, 8], ["torch", 64, 8], ["ours", "device", 512, 10], ["torch", 512, 10],
                 ["ours", "host", 64, 10], ["ours", "host", 512, 12]):  # fmt: skip
        result = done(place, [task], min(until, time.monotonic() + 60))[0]
        name = f"{' '.join(task[:-2])}, batch {task[-2]}"
        if "found" in result:
            found = result["found"]
            losses, memory = " ".join(f"{x:.7f}" for x in found["losses"]), found["MB"] and f"{found['MB']:.0f}"
            numbers = "".join(f"{found[what]:9.1f}" for what in ("step", "gradient", "forward"))
            shout(f"{name:24}{numbers}{memory or '-':>7}  {losses}")
        else:
            shout(f"{name:24} {result['failed'][:90]}")
        results.append(result)
    return results


def shout(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
