"""Three classifiers of frozen features, scored on the whole test split: nearest centre, k-NN, linear probe.

scikit-learn takes a second to import and every card imports this module, so each classifier imports its own part of it.
"""

import warnings

import numpy as np
from accelerate.utils import tqdm

GRID = tuple(10.0**p for p in range(-6, 3))  # of C, the inverse of the probe's L2 penalty
HELD_OUT = 5  # every fifth train image of a class chooses C
STEPS = 1_000  # most of L-BFGS
TOLERANCE = 1e-4  # of the gradient's largest entry at which the probe counts as converged
LONG = 1e7  # numbers from which fitting shows its progress


def nearest_centre(x: np.ndarray, y: np.ndarray, test: np.ndarray, settings: dict) -> tuple[np.ndarray, dict]:
    """The class whose mean feature is nearest: Euclidean, features scaled to length 1 (as in iCaRL, CVPR 2017)."""
    from sklearn.neighbors import NearestCentroid

    fitted = NearestCentroid().fit(unit(x), y)
    return fitted.predict(unit(test)), {}


def nearest_neighbours(x: np.ndarray, y: np.ndarray, test: np.ndarray, settings: dict) -> tuple[np.ndarray, dict]:
    """What most of the k nearest train images are: Euclidean, features scaled to length 1, which is k-NN by cosine."""
    from sklearn.neighbors import KNeighborsClassifier

    fitted = KNeighborsClassifier(settings["neighbours"], algorithm="brute").fit(unit(x), y)
    return fitted.predict(unit(test)), {}


def linear_probe(x: np.ndarray, y: np.ndarray, test: np.ndarray, settings: dict) -> tuple[np.ndarray, dict]:
    """Logistic regression with an L2 penalty on standardised features, its C the best of a grid on held-out train images.

    Of equals the strongest penalty. Then all train images are fitted with it; the test split takes no part in the choice.
    """
    x, test = x.astype(np.float64), test.astype(np.float64)
    aside = held_out_rows(y, settings["seed"])
    grid = []
    for c in tqdm(settings["grid"], desc="linear probe", unit="fit", leave=False, disable=x.size < LONG):
        predicted, fit = regression(x[~aside], y[~aside], x[aside], c, settings)
        grid.append({**fit, "held_out_top1": float((predicted == y[aside]).mean())})
    best = max(grid, key=lambda tried: tried["held_out_top1"])["c"]  # the first of equals
    predicted, fit = regression(x, y, test, best, settings)
    first, second, last = grid[0], grid[1], grid[-1]
    at_edge = best == last["c"] or (best == first["c"] and first["held_out_top1"] > second["held_out_top1"])
    return predicted, {**fit, "at_edge_of_grid": at_edge, "held_out": int(aside.sum()), "tried": grid}


def regression(x: np.ndarray, y: np.ndarray, test: np.ndarray, c: float, settings: dict) -> tuple[np.ndarray, dict]:
    """(classes of `test`, {"c", "steps", "converged"}) of one fit."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(x)
    model = LogisticRegression(C=c, max_iter=settings["steps"], tol=settings["tolerance"])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        model.fit(scaler.transform(x), y)
    converged = not any(issubclass(warning.category, ConvergenceWarning) for warning in caught)
    return model.predict(scaler.transform(test)), {"c": c, "steps": int(model.n_iter_.max()), "converged": converged}


def held_out_rows(labels: np.ndarray, seed: int) -> np.ndarray:
    """bool [N]: of every class one image in HELD_OUT, and at least one, in the order of a Philox stream keyed by `seed`."""
    key = np.random.Philox(key=[seed, 1]).random_raw(len(labels))
    aside = np.zeros(len(labels), bool)
    for k in np.unique(labels):
        rows = np.flatnonzero(labels == k)
        aside[rows[np.argsort(key[rows])][: max(1, len(rows) // HELD_OUT)]] = True
    return aside


def unit(x: np.ndarray) -> np.ndarray:
    """float64 [N, D] rows of length 1; a row of zeros stays."""
    from sklearn.preprocessing import normalize

    return normalize(x.astype(np.float64))


CLASSIFIERS = {"nearest_centre": nearest_centre, "nearest_neighbours": nearest_neighbours, "linear_probe": linear_probe}


def classify(
    train: np.ndarray, train_labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray, settings: dict
) -> tuple[dict[str, float], dict[str, dict]]:
    """({classifier: top-1 as a fraction}, {classifier: what is worth recording}) of features [N, D] and labels [N]."""
    top1, about = {}, {}
    for name, classifier in CLASSIFIERS.items():
        predicted, about[name] = classifier(train, train_labels, test, settings)
        top1[name] = float((predicted == test_labels).mean())
    return top1, {name: facts for name, facts in about.items() if facts}
