"""Inside of trained models: curvature, landscapes, attention, robustness."""

from __future__ import annotations

import json
from pathlib import Path

from tinyvit.cli.terms import add_trained, count, share, table, trained


def add_commands(commands) -> None:
    """Their parsers."""
    sharpness = commands.add_parser("sharpness", help="how sharp a trained model's loss is: eigenvalues, trace, SAM's")
    _add_around(sharpness)
    _add_sharpness(sharpness)

    landscape = commands.add_parser("landscape", help="the loss around a trained model's weights, in figures")
    _add_around(landscape)
    _add_landscape(landscape)

    attention = commands.add_parser("attention", help="where a trained model looks, and what its layers see")
    add_trained(attention)
    _add_attention(attention)

    robustness = commands.add_parser("robustness", help="what is left of a trained model's accuracy on harder images")
    add_trained(robustness)
    _add_robustness(robustness)


def _add_around(parser) -> None:
    """Which trained model, and on which images its loss is looked at."""
    add_trained(parser)
    parser.add_argument("--images", type=count, default=500, metavar="N", help="training images (default 500)")
    parser.add_argument("--chunk", type=count, metavar="N", help="images in memory at a time (default all)")
    parser.add_argument("--quiet", action="store_true", help="no progress bars, only the result")


def _add_sharpness(parser) -> None:
    parser.add_argument("--matrix", choices=("hessian", "gauss-newton", "fisher"), default="hessian", help="whose "
                        "eigenvalues (default hessian)")  # fmt: skip
    parser.add_argument("--names", metavar="PATTERN", default="*", help='only parameters such as "blocks.0.*"')
    parser.add_argument("--tol", type=float, default=1e-2, help="of the eigenvalues, relative (default 0.01)")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float64", help="(default float64)")
    parser.add_argument("--training", action="store_true", help="in training mode; the noise is drawn once")
    parser.add_argument("--blocks", action="store_true", help="also of every module by itself")
    parser.add_argument("--figure", metavar="PNG", help="draw the density of eigenvalues; also as SVG and PDF")
    parser.set_defaults(run=_sharpness)


def _add_landscape(parser) -> None:
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the figures; a walk goes on from there")
    parser.add_argument("--along", choices=("random", "hessian", "path"), default="random", help="directions "
                        "(default random); path: of a run's optimiser, for which the run is trained again")  # fmt: skip
    parser.add_argument("--norm", choices=("neuron", "filter", "input"), default="neuron", help="what random "
                        "directions are as long as the weights by (default neuron)")  # fmt: skip
    parser.add_argument("--to", metavar="RUN|FILE", help="another model of the same kind, to go to in a line")
    parser.add_argument("--dimensions", type=int, choices=(1, 2, 3), default=2, help="a line, a plane, or a box, in "
                        "slices (default 2)")  # fmt: skip
    parser.add_argument("--points", type=count, metavar="N", help="along each (default 25, of a box 9)")
    parser.add_argument("--span", type=float, metavar="X", help="how far to either side (default 1; of the hessian's, "
                        "four nats up the first parabola)")  # fmt: skip
    parser.set_defaults(run=_landscape)


def _add_attention(parser) -> None:
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the figures")
    parser.add_argument("--image", metavar="FILE", help="a JPEG or PNG of yours, not images of the data")
    parser.add_argument("--images", type=count, default=6, metavar="N", help="test images (default 6)")
    parser.add_argument("--layer", type=count, metavar="N", help="whose heads are drawn one by one (default the last)")
    parser.add_argument("--query", type=share, nargs=2, metavar=("Y", "X"), help="what one place attends to, in "
                        "shares of the height and the width (default what the head reads)")  # fmt: skip
    parser.add_argument("--fusion", choices=("mean", "max", "min"), default="mean", help="of heads, in the rollout "
                        "(default mean)")  # fmt: skip
    parser.add_argument("--discard", type=share, default=0.0, metavar="X", help="share of the least attention that the "
                        "rollout leaves out (default 0)")  # fmt: skip
    parser.add_argument("--with", dest="other", metavar="RUN|FILE", help="another model, whose layers are compared")
    parser.add_argument("--similarity-images", type=count, default=500, metavar="N", help="test images by which layers "
                        "are compared (default 500)")  # fmt: skip
    parser.set_defaults(run=_attention)


def _add_robustness(parser) -> None:
    parser.add_argument("--images", type=count, metavar="N", help="test images (default all)")
    parser.add_argument("--baseline", metavar="RUN|FILE", help="the model whose corruption error is called 100")
    parser.add_argument("--eps", type=float, default=0.03, metavar="X", help="how far attacks may change a pixel, of 1 "
                        "(default 0.03)")  # fmt: skip
    parser.add_argument("--draws", type=count, default=3, metavar="N", help="of what is random (default 3)")
    parser.add_argument("--figure", metavar="PNG", help="draw what is left, kind by kind; also as SVG and PDF")
    parser.set_defaults(run=_robustness)


def _sharpness(options) -> int:
    from tinyvit.machine import reuse_memory
    from tinyvit.runs import looking

    reuse_memory()
    model, task = trained(options)
    found = looking.sharpness(
        model, looking.first(task.splits.train, options.images), matrix=options.matrix, names=options.names,
        tol=options.tol, dtype=options.dtype, training=options.training, blocks=options.blocks, chunk=options.chunk,
        density=20 if options.figure else 0, seed=options.seed, progress=not options.quiet,
    )  # fmt: skip
    if options.figure:
        found["figure"] = str(looking.draw_spectrum(found, Path(options.figure)))
    if options.json:
        print(json.dumps(found))
        return 0
    table(
        ("", options.matrix, "error"),
        ("λmax", f"{found['lambda_max']:.4g}", f"≤ {found['residual']:.1g}"),
        ("λmin", f"{found['lambda_min']:.4g}", f"≤ {found['residual_min']:.1g}"),
        ("trace", f"{found['trace']:.4g}", f"± {found['trace_error']:.1g}"),
        ("SAM's sharpness, ρ = 0.05", f"{found['sam_sharpness']:.4g}", ""),
        ("loss", f"{found['loss']:.4g}", ""),
        *((f"λmax of {name}", f"{of['lambda_max']:.4g}", f"≤ {of['residual']:.1g}")
          for name, of in found.get("blocks", {}).items()),
    )  # fmt: skip
    told = found["protocol"]
    which = "all" if told["parameters"] == "*" else told["parameters"]
    print(f"\n{told['n_params']:,} parameters ({which}), {told['samples']} training images, "
          f"{told['mode']} mode, {told['dtype']}; {found['products']} products of "
          f"{found['seconds_per_product']:.2g} s")  # fmt: skip
    if options.figure:
        print(found["figure"])
    return 0


def _landscape(options) -> int:
    from tinyvit.machine import reuse_memory
    from tinyvit.runs import looking

    reuse_memory()
    model, task = trained(options)
    batch, shared = looking.first(task.splits.train, options.images), {"progress": not options.quiet}
    shape = {"span": options.span, "seed": options.seed}
    dimensions, points = options.dimensions, options.points or (9 if options.dimensions == 3 else 25)
    if options.to:
        where = looking.slice_between(model, trained(options, options.to)[0], points)
    elif options.along == "path":
        if not options.source or not Path(options.source).is_dir():
            raise ValueError("--along path: a run folder is needed, whose run can be trained again; a file has no path")
        model, states = looking.path_of_run(options.source, **shared)
        where = looking.path_slice(model, states, dimensions, points)
    elif options.along == "hessian":
        where = looking.eigen_slice(model, batch, dimensions, points, chunk=options.chunk, **shape,
                                    **shared)  # fmt: skip
    else:
        where = looking.random_slice(model, dimensions, points, norm=options.norm, **shape)
    found = looking.walk(model, batch, where, Path(options.out), chunk=options.chunk, **shared)
    if options.json:
        print(json.dumps(found))
        return 0
    print(f"loss {found['loss']:.4g} at the weights, from {found['lowest']:.4g} to {found['highest']:.4g} on the slice")
    print("\n".join(found["figures"]))
    return 0


def _attention(options) -> int:
    from tinyvit.nn.embed import pixels
    from tinyvit.runs import attention

    many = other = None
    if options.image:
        source = options.source or options.file
        model, images, pictures = attention.of_photo(source, options.image, name=options.model)
    else:
        model, task = trained(options)
        images = pictures = pixels(task.splits.test.images[: options.images])
        many = pixels(task.splits.test.images[: options.similarity_images])
        other = trained(options, options.other)[0] if options.other else None
    found = attention.attention(model, images, pictures, Path(options.out), layer=options.layer, at=options.query,
                                fusion=options.fusion, discard=options.discard, many=many, other=other,
                                seed=options.seed)  # fmt: skip
    if options.json:
        print(json.dumps(found))
        return 0
    if "layers" not in found:
        print("this model has no attention; what its layers see:\n")
    _print_attention(found)
    _print_features(found)
    print("\n" + "\n".join(found["figures"]))
    return 0


def _print_attention(found: dict) -> None:
    rows = [(name, " ".join(f"{d:.1f}" for d in of["distance_px"] or []), f"{of['entropy']:.2f}",
             f"{of['heads_alike']:.2f}") for name, of in found.get("layers", {}).items()]  # fmt: skip
    if rows:
        table(("layer", "distance of each head (px)", "entropy", "heads alike"), *rows, left=(0,))
    for group in found.get("similarity", ()):
        print(f"\nlayers {group['layers'][0]} to {group['layers'][-1]} of {group['tokens']} tokens, mean cosine of "
              f"neighbours: {group['neighbours']:.3f} (at initialisation {group['neighbours_at_init']:.3f}), centred "
              f"{group['neighbours_centred']:.3f} ({group['neighbours_centred_at_init']:.3f})")  # fmt: skip
    print()


def _print_features(found: dict) -> None:
    cka = found.get("cka")
    similar = dict(zip(cka["layers"], cka["neighbours"], strict=False)) if cka else {}
    rows = [(name, f"{of['trained']:.1f}", f"{of['at_init']:.1f}", f"{similar[name]:.2f}" if name in similar else "")
            for name, of in found["fields_px"].items()]  # fmt: skip
    table(("block", "sees (px)", "at initialisation", "CKA with the next"), *rows)
    if "filters" in found:
        shares = found["filters"]["shares"]
        print(f"\n{found['filters']['count']} filters; the first of {len(shares)} principal ones are "
              + ", ".join(f"{share:.0%}" for share in shares[:3]) + " of their squares")  # fmt: skip
    if "positions" in found:
        print(f"\nsimilarity of positions and nearness: correlation {found['positions']['correlation']:.2f}")


def _robustness(options) -> int:
    from tinyvit.runs import robustness

    model, task = trained(options)
    baseline = trained(options, options.baseline)[0] if options.baseline else None
    found = robustness.robustness(model, task, baseline=baseline, images=options.images, eps=options.eps,
                                  draws=options.draws, seed=options.seed, progress=not options.json)  # fmt: skip
    if options.figure:
        found["figures"] = [str(path) for path in robustness.draw(found, Path(options.figure))]
    if options.json:
        print(json.dumps(found))
        return 0
    table(("accuracy", "%"), *robustness.rows(found), left=(0,))
    if "mce" in found:
        print(f"\nmCE {found['mce']:.1f}, relative {found['relative_mce']:.1f} (the baseline's are 100)")
    print(f"\n{found['protocol']['images']} test images; random draws: {options.draws}; attacks: eps {options.eps:g}")
    if options.figure:
        print("\n".join(found["figures"]))
    return 0
