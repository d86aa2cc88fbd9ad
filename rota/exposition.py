"""How metrics are written for Prometheus, by the API and by workers alike."""

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import accumulate
from typing import Any

from prometheus_client import exposition
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.utils import floatToGoString

BOUNDS = tuple(0.001 * 4**power for power in range(13))  # seconds, as _bucket has them
OPENMETRICS = "application/openmetrics-text"
OTHER = "other"  # the label of what has no series of its own

Writer = Callable[[Any], bytes]


def writer(accepted: str) -> tuple[Writer, str]:
    """Return what writes a registry in the form that is accepted, and that form's content type.

    Not the library's choice of one: its types have what a client writes, and answers are kept by
    theirs.
    """
    if OPENMETRICS in accepted:
        return openmetrics.generate_latest, openmetrics.CONTENT_TYPE_LATEST
    return exposition.generate_latest, exposition.CONTENT_TYPE_PLAIN_0_0_4


def add_histogram(
    family: HistogramMetricFamily,
    labels: Sequence[str],
    bounds: tuple[float, ...],
    numbers: Iterable[int],
    seconds: float,
) -> None:
    """Add spans of time to a family.

    Args:
        family: the histograms of one name.
        labels: the values of its labels.
        bounds: of the buckets, in seconds.
        numbers: how many spans are in each bucket, and in a last one of all that are longer.
        seconds: the sum of the spans.
    """
    buckets = list(zip(_names(bounds), accumulate(numbers), strict=True))
    family.add_metric(labels, buckets, sum_value=seconds)


@cache
def _names(bounds: tuple[float, ...]) -> list[str]:
    return [*map(floatToGoString, bounds), "+Inf"]
