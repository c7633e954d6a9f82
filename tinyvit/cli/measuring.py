"""How fast this machine is at it."""

from __future__ import annotations

from tinyvit.cli.terms import count, table

BENCH = "W1_train, W1_forward, W2, W3, W4a, W4b, W5_grad, W5_hvp, tape, small"  # a test compares it with the table

THROUGHPUT = "{:42} {:>13} {:>9} {:>9} {:>16} {:>7}"


def add_commands(commands) -> None:
    """Their parsers."""
    bench = commands.add_parser("bench", help="how fast this machine is at it, and PyTorch beside it")
    bench.add_argument("workloads", nargs="*", metavar="WORKLOAD", help=f"{BENCH}, all (default all)")
    bench.add_argument("--workload", action="append", default=[], metavar="WORKLOAD", help="the same, as an option")
    bench.add_argument("--scaling", action="store_true", help="only how time grows with sizes and places")
    bench.add_argument(
        "--models", action="store_true", help="only a model of every paper, or those named, beside a ViT"
    )
    bench.add_argument("--threads", type=count, metavar="N", help="threads for every contender (default all cores)")
    bench.add_argument(
        "--repeats", type=count, metavar="N", help="turns of each (default 9, of --scaling and --models 3)"
    )
    bench.add_argument("--json", metavar="FILE", help="write the results there, with the facts of the machine")
    bench.add_argument("--figure", metavar="PNG", help="draw --scaling over the places of a map; also as SVG and PDF")
    bench.add_argument("--against", choices=("torch", "none"), default="torch", help="the peer (default torch)")
    bench.add_argument("--no-torch", dest="against", action="store_const", const="none", help="--against none")
    bench.add_argument("--quiet", action="store_true", help="no progress bars, only the result")
    bench.set_defaults(run=_bench)


def _bench(options) -> int:
    from tinyvit.bench import bench, find_workloads, machine_facts, results_file, scaling, throughput, write_rows
    from tinyvit.bench.scaling import draw

    names = [*options.workloads, *options.workload]
    if options.scaling and (names or options.models):
        raise ValueError(f"--scaling is measured alone, without {names[0] if names else '--models'}")
    workloads = [] if options.models else find_workloads(names)
    if options.figure and not options.scaling:
        raise ValueError("--figure is of --scaling")
    path = options.json and results_file(options.json)
    facts = machine_facts(options.threads)
    _print_facts(facts)
    settings = {"facts": facts, "progress": not options.quiet}
    if options.repeats:
        settings["repeats"] = options.repeats
    if options.scaling:
        show, measured = _print_growth, scaling(**settings)
    elif options.models:
        show, measured = _print_throughput, throughput(names, **settings)
        print("\n" + THROUGHPUT.format("model", "parameters", "10⁹ MACs", "a second", "beside ViT-S/16", "MB"))
    else:
        show, measured = _print_result, bench(workloads, peers=options.against != "none", **settings)
    results = []
    for result in measured:
        show(result)
        results.append(result)
        if path:
            write_rows(results, path)  # after each, so that what is finished is kept
    if options.figure and (drawn := draw(results, options.figure)):
        print(f"\n{drawn}")
    if path:
        print(f"\nThe numbers, turn by turn: {path}")
    return 0


def _print_facts(facts) -> None:
    print(f"{facts.cpu}, {facts.cores} cores, {facts.threads} threads used")
    print(f"{facts.blas}: {facts.gemm_gflops:.0f} GFLOP/s in a float32 product of 1024×1024")
    print(" · ".join(f"{name}={value}" for name, value in facts.environment.items()) or "no OPENBLAS_… variable is set")
    print(" · ".join(f"{name} {version}" for name, version in facts.versions.items()))


def _print_result(result) -> None:
    from tinyvit.bench import INSTALL

    everyone = {"tinyvit": result.ours, **result.peers}
    print(f"\n{result.workload.name}: {result.workload.about}\n")
    table(
        ("", *everyone),
        ("ms, median of the turns", *(f"{1e3 * t.median:.1f}" for t in everyone.values())),
        ("ms, least", *(f"{1e3 * min(t.seconds):.1f}" for t in everyone.values())),
        ("spread of the middle half", *(f"{t.spread:.1%}" for t in everyone.values())),
        ("images a second", *(f"{result.workload.batch / t.median:.0f}" for t in everyone.values())),
        ("peak memory, MB", *("?" if t.peak_mb is None else f"{t.peak_mb:.0f}" for t in everyone.values())),
    )
    for name in result.peers:
        print(f"\ntinyvit / {name}: {result.ratio(name):.2f} of medians, {result.paired_ratio(name):.2f} by pairs of "
              f"turns; {_agreement(result, name)}")  # fmt: skip
    for name, why in result.absent.items():
        print(f"\n{name} is not measured ({why}); {INSTALL[name]}")
    if result.disturbed:
        used, share = result.others()
        print(f"\nOthers used {used:.2f} cores meanwhile, and disturbed {share:.0%} of the turns: read with care.")
        for name in result.peers:
            pairs, ratio = result.undisturbed(name)
            print(f"tinyvit / {name} in the {pairs} undisturbed pairs" + (f": {ratio:.2f}" if pairs else ""))


def _print_throughput(row) -> None:
    memory = row.result.ours.peak_mb
    cells = row.name, f"{row.parameters:,}", f"{row.macs / 1e9:.2f}", f"{row.per_second:.2f}", f"{row.relative:.2f}"
    others = "  (others used the machine)" if row.result.disturbed else ""
    print(THROUGHPUT.format(*cells, "?" if memory is None else f"{memory:.0f}") + others, flush=True)


def _print_growth(growth) -> None:
    print(f"\n{growth.axis.about}\n")
    table(
        (growth.axis.name, *map(str, growth.times)),
        ("ms, median of the turns", *(f"{1e3 * t.median:.1f}" for t in growth.times.values())),
        ("forward MACs, 10⁹", *(f"{macs / 1e9:.2f}" for macs in growth.macs.values())),
    )
    print(f"\ntime grows like {growth.axis.name}^{growth.slope:.2f}, arithmetic like ^{growth.expected:.2f}")


def _agreement(result, name: str) -> str:
    """How near a peer's numbers are to ours."""
    if name not in result.differences:
        return "other work, so no numbers are compared"
    return f"first numbers differ by {result.differences[name]:.1e}"
