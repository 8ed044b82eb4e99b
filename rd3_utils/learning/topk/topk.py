"""Top-1 and top-5 accuracy as an `evaluate` metric: evaluate.load("<path to>/rd3_utils/learning/topk")."""

from collections.abc import Callable

import datasets
import evaluate
import evaluate.module
import numpy as np

if evaluate.Metric.compute.__doc__ is None:  # `python -OO`: evaluate adds text to the docstrings that its copies do not have
    copy = evaluate.module.copyfunc

    def documented(function: Callable) -> Callable:
        copied = copy(function)
        copied.__doc__ = copied.__doc__ or ""
        return copied

    evaluate.module.copyfunc = documented


class TopK(evaluate.Metric):
    """`predictions` are each example's most likely classes, best first; `references` the true class."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Top-1 and top-5 accuracy as fractions in [0, 1], and how many examples were scored.",
            citation="",
            inputs_description="predictions: list of class indices, best first; references: class index",
            features=datasets.Features(
                {"predictions": datasets.Sequence(datasets.Value("int32")), "references": datasets.Value("int32")}
            ),
        )

    def _compute(self, predictions: list, references: list) -> dict:
        hits = np.asarray(predictions) == np.asarray(references)[:, None]
        return {"top1": float(hits[:, 0].mean()), "top5": float(hits[:, :5].any(1).mean()), "images_scored": len(hits)}
