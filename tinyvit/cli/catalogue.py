"""Published models: their counts, their weights, what they see in a photo."""

from __future__ import annotations

import json
from pathlib import Path

from tinyvit.cli.terms import count, table

WHAT = {"params": "parameters", "macs": "MACs"}


def add_commands(commands) -> None:
    """Their parsers."""
    models = commands.add_parser("models", help="list the models: paper, parameters, multiply-accumulates")
    models.add_argument("pattern", nargs="?", help='a shell pattern such as "vit_*"; without it, the papers are listed')
    models.add_argument("--all", action="store_true", help="count every model there is")
    models.set_defaults(run=_models)

    describe = commands.add_parser("describe", help="a model's modules, shapes, parameters and MACs")
    describe.add_argument("model", help="a name that `tinyvit models` lists")
    describe.add_argument("--depth", type=int, default=2, help="how far down the modules go (default 2)")
    describe.add_argument("--time", action="store_true", help="also the numbers computed, and the time here")
    describe.set_defaults(run=_describe)

    ledger = commands.add_parser("ledger", help="the counts on the slides beside the exact ones, and why they differ")
    ledger.add_argument("--json", nargs="?", const="-", metavar="FILE", help="every exact count as data, there or here")
    ledger.set_defaults(run=_ledger)

    classify = commands.add_parser("classify", help="what a model, with weights of yours, sees in a photo")
    classify.add_argument("image", metavar="IMAGE", help="a JPEG or PNG")
    classify.add_argument("--model", required=True, metavar="NAME", help="a name that `tinyvit models` lists")
    classify.add_argument("--weights", required=True, metavar="FILE", help="a file, or hf-hub:owner/name")
    classify.add_argument("--labels", metavar="FILE", help="the names of the classes, one a line")
    classify.add_argument("--preprocess", choices=("inception", "imagenet"), help="colours, if not the paper's own")
    classify.add_argument("--attention", metavar="PNG", help="draw where the model looked")
    classify.add_argument("--top", type=count, default=5, metavar="N", help="how many classes (default 5)")
    classify.set_defaults(run=_classify)

    weights = commands.add_parser("weights", help="look into a file of weights")
    _add_weights(weights.add_subparsers(metavar="inspect", required=True))


def _add_weights(actions) -> None:
    inspect = actions.add_parser("inspect", help="its arrays, and which model it fits")
    inspect.add_argument("file", metavar="FILE", help="safetensors, .npz of the original code, or hf-hub:owner/name")
    inspect.add_argument("--json", action="store_true", help="print it as JSON")
    inspect.set_defaults(run=_inspect)


def _models(options) -> int:
    from tinyvit import count_macs, create_model, list_models
    from tinyvit.models.catalogue import paper_of

    if not options.pattern and not options.all:
        return _papers()
    names = list_models(options.pattern or "*")
    if not names:
        raise ValueError(f"no model is called {options.pattern!r}; `tinyvit models --all` lists them all")
    models = {name: create_model(name) for name in names}
    rows = [(name, _cited(paper_of(name)), f"{model.num_parameters():,}", f"{count_macs(model):,}")
            for name, model in models.items()]  # fmt: skip
    table(("model", "paper", "parameters", "MACs"), *rows, left=(0, 1))
    return 0


def _papers() -> int:
    """One row a paper: how many models, the first of its table, where from."""
    from tinyvit.models.catalogue import PAPERS

    of = {paper.PAPER: [*paper.PUBLISHED, *paper.SMALL] for paper in PAPERS}
    rows = [(str(len(names)), names[0], _cited(paper)) for paper, names in of.items()]
    table(("models", "such as", "paper"), *rows, left=(1, 2))
    print("\n`tinyvit models 'vit_*'` counts the parameters and MACs of those, `--all` of every one")
    return 0


def _cited(paper) -> str:
    return f"{paper.authors} {paper.year}" + (f", arXiv {paper.arxiv}" if paper.arxiv else "")


def _describe(options) -> int:
    import numpy as np

    from tinyvit import create_model, describe
    from tinyvit.models.ledger import differences

    rng = np.random.default_rng(0) if options.time else None
    print(describe(create_model(options.model, rng=rng).eval(), depth=options.depth, timed=options.time))
    for entry in differences(options.model):
        figure = entry.figure
        print(f"\nThe {figure.table} table prints {figure.printed} ({WHAT[figure.what]}): {_judged(entry)}")
    return 0


def _ledger(options) -> int:
    from tinyvit.files import write_atomically
    from tinyvit.models.ledger import counts, ledger

    if options.json:
        text = json.dumps(counts(), indent=1, ensure_ascii=False) + "\n"
        if options.json == "-":
            print(text, end="")
        else:
            write_atomically(Path(options.json), text.encode())
        return 0
    entries = ledger()
    rows = [(e.figure.row, e.figure.table, WHAT[e.figure.what], e.figure.printed, f"{e.exact:,}") for e in entries]
    head = ("counted as", "table", "of what", "slide", "exact")
    table((*head, ""), *((*row, _judged(entry)) for row, entry in zip(rows, entries, strict=True)), left=(0, 1, 2, 5))
    agree = sum(entry.verdict == "agrees" for entry in entries)
    print(f"\n{agree} of {len(entries)} figures agree: the exact count rounds to the printed digits. Where cutting the "
          f"count\nthere gives them, they are truncated. MACs are for one image.")  # fmt: skip
    return 0


def _classify(options) -> int:
    from tinyvit import plots
    from tinyvit.classify import classify

    seen = classify(options.image, options.model, weights=options.weights, labels=options.labels, top=options.top,
                    style=options.preprocess, attention=bool(options.attention))  # fmt: skip
    table(*((name, f"{share:.1%}") for name, share in seen.classes))
    if options.attention:
        figure = plots.photo_attention(seen.picture, seen.attention)
        print(f"\n{plots.save(figure, options.attention, {'attention': seen.attention})}")
    return 0


def _inspect(options) -> int:
    from tinyvit import inspect_weights

    found = inspect_weights(options.file)
    if options.json:
        print(json.dumps(found.as_dict(), indent=1))
        return 0
    table(
        ("array", "shape", "type"),
        *((name, "×".join(map(str, shape)) or "()", dtype) for name, (shape, dtype) in found.arrays.items()),
    )
    print(f"\n{len(found.arrays)} arrays, {found.size:,} numbers")
    for fit in found.fits:
        print(f"fits {fit.call}, {fit.parameters:,} parameters")
    if found.nearest:
        print(f"nearest in the catalogue: {found.nearest.name}, {found.nearest.matching} arrays fit")
        for difference in found.nearest.first_misfits():
            print(f"  {difference}")
    if not found.fits and not found.nearest:
        print("no model of the catalogue has an array like one of these")
    return 0


def _judged(entry) -> str:
    """The verdict on a slide's figure and, where it does not agree, the reason."""
    why = "" if entry.verdict == "agrees" else entry.figure.why.removeprefix("truncated; ")
    return f"{entry.verdict}: {why}" if why else entry.verdict
