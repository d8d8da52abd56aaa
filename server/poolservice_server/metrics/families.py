"""Metric families: how they are made of plain numbers, labelled, merged and passed between processes."""

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any

from prometheus_client import Metric
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.samples import Sample

from poolservice_server.histogram import Histogram


def histogram_family(
    name: str, documentation: str, labels: Sequence[str], histograms: Mapping[tuple[str, ...], Histogram]
) -> HistogramMetricFamily:
    """Return a family with a histogram for each tuple of label values."""
    family = HistogramMetricFamily(name, documentation, labels=labels)
    for values, one in histograms.items():
        bounds = (*map(str, one.bounds), "+Inf")
        family.add_metric(values, list(zip(bounds, accumulate(one.counts), strict=True)), one.total)
    return family


class Families(list[Metric]):
    """Metric families of one or several processes. It has the interface of a registry."""

    def collect(self) -> Iterable[Metric]:
        """Return the families themselves."""
        return self


def labelled(families: Iterable[Metric], worker: str) -> Families:
    """Return families whose samples have the additional label `worker`."""
    copies = Families()
    for family in families:
        copy = Metric(family.name, family.documentation, family.type, family.unit)
        copy.samples = [sample._replace(labels={**sample.labels, "worker": worker}) for sample in family.samples]
        copies.append(copy)
    return copies


def merged(sources: Iterable[Iterable[Metric]]) -> Families:
    """Return the families of several processes, with the samples of families of the same name together."""
    by_name: dict[str, Metric] = {}
    for families in sources:
        for family in families:
            known = by_name.setdefault(family.name, family)
            if known is not family:
                known.samples.extend(family.samples)
    return Families(by_name.values())


def encode(families: Iterable[Metric]) -> bytes:
    """Return families as JSON, for another process."""
    return json.dumps(
        [
            [one.name, one.documentation, one.type, one.unit, [[s.name, s.labels, s.value] for s in one.samples]]
            for one in families
        ]
    ).encode()


def decode(data: bytes) -> Families:
    """Return the families in what `encode` returned.

    Raises:
        ValueError: the data is something else.
    """
    families = Families()
    try:
        for name, documentation, kind, unit, samples in json.loads(data):
            family = Metric(name, documentation, kind, unit)
            family.samples = [Sample(name, _labels(labels), float(value)) for name, labels, value in samples]
            families.append(family)
    except (TypeError, AttributeError) as error:
        raise ValueError("not the metrics of a worker") from error
    return families


def _labels(labels: Any) -> dict[str, str]:
    return {str(name): str(value) for name, value in labels.items()}
