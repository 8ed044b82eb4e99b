"""How often statistics of the project are wrong where the truth is known: the tables of docs/statistics.md, by simulation.

    python bench/error_rates.py compare|ties|power|arms|shares|tau [--times N]

Accuracies are normal: 0.5 + what the design says, the luck of a draw of images, the luck of a seed (standard deviation SEED).
Every row has its own fixed generator, so that the same command prints the same numbers. A quarter of an hour in all.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from rd3_utils.scoring import bootstrap, estimates, significance
from rd3_utils.studies import ranking  # noqa: E402

SEED = 0.01


def of_seeds(generator, count, mean=0.5, spread=SEED, first=0):
    """The sample of a set that is not drawn: {None: {seed: top1}}."""
    return {None: dict(enumerate(mean + spread * generator.standard_normal(count), start=first))}


def of_draws(generator, sizes, luck, mean=0.5, spread=SEED):
    """The sample of random images whose draws have `sizes` seeds: {draw: {seed: top1}}; `luck` is the draws' deviation."""
    centres = mean + luck * generator.standard_normal(len(sizes))
    return {k: dict(enumerate(c + spread * generator.standard_normal(n))) for k, (n, c) in enumerate(zip(sizes, centres))}


def side(generator, what, luck, mean=0.5, first=0, spread=SEED):
    """A sample: of `what` seeds if that is a number, of draws of so many seeds if it is a tuple."""
    if isinstance(what, int):
        return of_seeds(generator, what, mean, spread, first)
    return of_draws(generator, what, luck * SEED, mean, spread)


COMPARED = [  # a, b, luck of draws over that of seeds, spread of a's seeds over that of b's, do seeds pair
    (3, 3, 0, 1, True),
    (10, 10, 0, 1, True),
    (2, 2, 0, 1, True),
    (3, 3, 0, 1, False),
    (3, 10, 0, 1, False),
    (3, 10, 0, 4, False),
    (2, 10, 0, 4, False),
    *(((sizes, 3, luck, 1, False)) for sizes in ((3, 3, 3), (3, 1, 1), (5, 1, 1), (9, 1, 1)) for luck in (0, 1, 2, 5)),
    *(((sizes, 10, luck, 1, False)) for sizes in ((1, 1, 1), (3, 1, 1), (9, 1, 1)) for luck in (2, 5)),
    ((3, 3, 3), (3, 3, 3), 2, 1, False),
    ((9, 1, 1), (3, 1, 1), 2, 1, False),
    ((9, 1, 1), (9, 1, 1), 5, 1, False),
    ((3, 1), 3, 2, 1, False),
    ((9, 1), (1, 1, 1), 5, 1, False),
    ((9, 3, 1, 1), 3, 2, 1, False),
]


def called_different(row, times, gap=0.0):
    """The share of `times` pairs of samples, `gap` apart, that `significance.difference` calls different."""
    a, b, luck, spread, paired = row
    generator, called = np.random.default_rng([17, *str(row).encode()]), 0
    for _ in range(times):
        one = side(generator, a, luck, 0.5 + gap, spread=spread * SEED)
        other = side(generator, b, luck, first=0 if paired else 100)
        found = significance.difference(one, other)
        called += found["decidable"] and found["p"] < significance.LEVEL
    return called / times


BOARDS = [  # entries of seeds, seeds each, entries of draws, their draws, luck, spread of the logarithm of entries' deviations
    *((k, 3, 0, (), 0, 0) for k in (2, 5, 10, 30, 50)),
    (10, 10, 0, (), 0, 0),
    (50, 2, 0, (), 0, 0),
    *((k, 3, 1, (3, 3, 3), 2, 0) for k in (4, 9, 49)),
    (9, 3, 1, (1, 1, 1), 1, 0),
    (46, 3, 4, (1, 1, 1), 2, 0),
    (46, 3, 4, (9, 1, 1), 2, 0),
    *((k, 3, 0, (), 0, 0.25) for k in (10, 50)),
    *((k, 3, 0, (), 0, 0.5) for k in (10, 50)),
]


def board(generator, row, means=None):
    """Samples of a board, whose entries have `means` or are all equal; those of draws come last."""
    count, seeds, drawn, sizes, luck, uneven = row
    means = np.full(count + drawn, 0.5) if means is None else means
    spreads = SEED * np.exp(uneven * generator.standard_normal(count))
    found = [of_seeds(generator, seeds, mean, spread) for mean, spread in zip(means, spreads)]
    return found + [of_draws(generator, sizes, luck * SEED, mean) for mean in means[count:]]


def split(row, times):
    """The share of `times` boards of equal entries that significance.ties splits."""
    generator = np.random.default_rng([18, *str(row).encode()])
    return sum(len(significance.ties(board(generator, row))[0]) > 1 for _ in range(times)) / times


def parted(row, times, gap, who):
    """The share of boards, all entries but entry `who` being `gap` better than it, that do not rank it with the leader."""
    generator, found = np.random.default_rng([19, *str((row, who)).encode()]), 0
    for _ in range(times):
        means = np.full(row[0] + row[2], 0.5)
        means[who] -= gap
        groups, _ = significance.ties(board(generator, row, means))
        found += who % len(means) not in groups[0]
    return found / times


def of_arm(sizes, luck, times):
    """The share of 95 % intervals of a card that hold the true mean of an arm: of a number of seeds, or of draws."""
    generator, held = np.random.default_rng([20, *str((sizes, luck)).encode()]), 0
    arm = "distilled-soft" if isinstance(sizes, int) else "random-soft"
    for _ in range(times):
        sample = side(generator, sizes, luck)
        runs = [
            {"arm": arm, "seed": s, "top1": v, "images": {"source": "x" if draw is None else f"random:ipc=1,seed={draw}"}}
            for draw, seeds in sample.items()
            for s, v in seeds.items()
        ]
        found = estimates.of_arm(runs)
        held += found["low"] <= 0.5 <= found["high"]
    return held / times


TABLES = [  # methods, protocols, replicates, deviations of method, protocol, interaction and seed; draws of the first method,
    # seeds each, luck; spread of the logarithm of cells' deviations
    (5, 4, 3, 0.02, 0.02, 0.01, 0.01, 0, 0, 0, 0),
    (5, 4, 3, 0.10, 0.06, 0.02, 0.01, 0, 0, 0, 0),
    (5, 4, 3, 0.02, 0.02, 0, 0.02, 0, 0, 0, 0),
    (5, 4, 10, 0.02, 0.02, 0.01, 0.01, 0, 0, 0, 0),
    (5, 4, "1 to 4", 0.02, 0.02, 0.01, 0.01, 0, 0, 0, 0),
    (5, 2, 3, 0.02, 0.02, 0.01, 0.01, 0, 0, 0, 0),
    (2, 2, 3, 0.02, 0.02, 0.01, 0.01, 0, 0, 0, 0),
    (2, 2, 2, 0.02, 0.02, 0.01, 0.01, 0, 0, 0, 0),
    (5, 4, 3, 0.10, 0.06, 0.02, 0.005, 3, 1, 0.01, 0),
    (5, 4, 3, 0.10, 0.06, 0.02, 0.005, 3, 3, 0.01, 0),
    (5, 4, 3, 0.02, 0.02, 0.01, 0.005, 3, 1, 0.02, 0),
    (5, 2, 3, 0.10, 0.06, 0.02, 0.005, 3, 1, 0.01, 0),
    (5, 4, 3, 0.10, 0.06, 0.02, 0.01, 0, 0, 0, 0.5),
]


def table_of(generator, row):
    """(cells, the true shares) of a table: effects are drawn anew, and their own mean squares are the truth."""
    methods, protocols, count, *deviations, draws, each, luck, uneven = row
    of_method, of_protocol, both, seed = deviations
    means = of_method * generator.standard_normal((methods, 1)) + of_protocol * generator.standard_normal(protocols)
    means = means + both * generator.standard_normal((methods, protocols))
    spreads = seed * np.exp(uneven * generator.standard_normal((methods, protocols)))
    lucky, cells, variances = luck * generator.standard_normal(draws), {}, spreads**2
    for i in range(methods):
        for j in range(protocols):
            which = [k for k in range(draws) for _ in range(each)] if draws and i == 0 else None
            size = len(which) if which else 1 + (i + j) % 4 if count == "1 to 4" else count
            values = 0.5 + means[i, j] + spreads[i, j] * generator.standard_normal(size) + (lucky[which] if which else 0)
            cells[i, j] = ranking.TableCell(list(values), which)
            variances[i, j] += luck**2 if which else 0
    true = np.append(ranking.variance_parts(means, np.zeros_like(means))[:3], variances.mean())
    return cells, true / true.sum()


def shares_held(row, times):
    """[4]: the share of 95 % intervals that hold the true share, of each of ranking.PARTS."""
    generator, held = np.random.default_rng([21, *str(row).encode()]), np.zeros(4)
    for _ in range(times):
        cells, true = table_of(generator, row)
        found = ranking.decomposition(cells)["parts"]
        held += [found[part]["low"] <= true[k] <= found[part]["high"] for k, part in enumerate(ranking.PARTS)]
    return held / times


ORDERS = [  # methods, deviations of method, of interaction and of seed; three seeds each
    (5, 0.02, 0.01, 0.01),
    (5, 0.10, 0.02, 0.01),
    (5, 0.02, 0, 0.02),
    (8, 0.02, 0.01, 0.01),
    (8, 0.05, 0, 0.01),
    (8, 0.02, 0, 0.02),
    (8, 0.005, 0.005, 0.01),
]


def tau_held(row, times):
    """(the share of intervals of Kendall's tau that hold that of the true means, their mean width)."""
    methods, of_method, both, seed = row
    generator, held, widths = np.random.default_rng([22, *str(row).encode()]), 0, []
    for _ in range(times):
        means = of_method * generator.standard_normal((methods, 1)) + both * generator.standard_normal((methods, 2))
        cells = {(i, j): ranking.TableCell(list(0.5 + means[i, j] + seed * generator.standard_normal(3)))
                 for i in range(methods) for j in range(2)}  # fmt: skip
        found, true = ranking.agreement(cells, 0, 1), ranking.tau_b(means[None, :, 0], means[None, :, 1])[0]
        held += found["low"] - 1e-9 <= true <= found["high"] + 1e-9
        widths.append(found["high"] - found["low"])
    return held / times, np.mean(widths)


def words(what):
    """How a table names a side: "3 seeds", "draws of 9, 1, 1 seeds"."""
    return f"{what} seeds" if isinstance(what, int) else f"draws of {', '.join(map(str, what))} seeds"


def compare(times):
    for row in COMPARED:
        a, b, luck, spread, paired = row
        yield words(a), words(b), luck, spread, "yes" if paired else "no", f"{100 * called_different(row, times):.1f}"


def ties(times):
    for row in BOARDS:
        count, seeds, drawn, sizes, luck, uneven = row
        more = f"{drawn}, {words(sizes)}, luck {luck}" if drawn else "-"
        yield count, seeds, more, uneven, f"{100 * split(row, times):.1f}"


def power(times):
    for row in COMPARED:
        if row[2] in (0, 2) and row[3] == 1:
            for gap in (2, 4, 8):
                found = called_different(row, times, gap * SEED)
                yield "compare", f"{words(row[0])} and {words(row[1])}", row[2], gap, f"{100 * found:.0f}"
    for row in (row for row in BOARDS if row[5] == 0 and row[1] == 3):
        for who in (0, -1) if row[2] else (0,):
            for gap in (3, 5, 8):
                name = "the entry of draws" if who else "an entry of seeds"
                found = parted(row, times, gap * SEED, who)
                yield "ties", f"{name}, board of {row[0] + row[2]}", row[4], gap, f"{100 * found:.0f}"


def arms(times):
    for sizes in (3, 10, (1, 1, 1), (3, 3, 3), (3, 1, 1), (9, 1, 1), (10, 3, 3)):
        yield words(sizes), 0 if isinstance(sizes, int) else 2, f"{100 * of_arm(sizes, 2, times):.1f}"


def shares(times):
    for row in TABLES:
        yield *row, *(f"{100 * held:.1f}" for held in shares_held(row, times))


def tau(times):
    for row in ORDERS:
        held, width = tau_held(row, times)
        yield *row, f"{100 * held:.1f}", f"{width:.2f}"


KINDS = {  # what it prints, its columns, how many simulations a row has
    "compare": (compare, "a | b | luck of draws / seeds | spread of a / b | paired | called different, %", 10_000),
    "ties": (ties, "entries | seeds | and of draws | unevenness | split, %", 2_000),
    "power": (power, "test | of | luck | gap in deviations of a seed | found, %", 1_000),
    "arms": (arms, "arm | luck | interval holds the truth, %", 2_000),
    "shares": (
        shares,
        "methods | protocols | replicates | sd method | protocol | interaction | seed | draws | each | luck | "
        "unevenness | method held, % | protocol | interaction | seed",
        1_000,
    ),  # fmt: skip
    "tau": (tau, "methods | sd method | interaction | seed | held, % | width", 500),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--times", type=int)
    options = parser.parse_args()
    rows, columns, times = KINDS[options.kind]
    bootstrap.RESAMPLES = 2_000 if options.kind in ("shares", "arms") else bootstrap.RESAMPLES
    print(f"| {columns} |", "|" + " --- |" * (columns.count("|") + 1), sep="\n")
    for row in rows(options.times or times):
        print("|", " | ".join(map(str, row)), "|", flush=True)


if __name__ == "__main__":
    main()
