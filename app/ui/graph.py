"""Where the boxes of a workflow's graph stand, and how the lines between them run.

Layers go from left to right by depth: a job stands behind all on which it depends. A layer of many
jobs, and all of a large workflow, is drawn as one box for each task and state, with a count; very
many layers are taken together. Lines that follow from others are left out. What is drawn is so
bounded, however large the workflow is.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

MOST_SINGLE = 200  # jobs of a workflow that each have a box of their own
MOST_IN_LAYER = 16  # of a layer
MOST_LAYERS = 40
MOST_BOXES = 24  # of a layer; what is more is one box

WIDTH, HEIGHT = 160, 46  # of a box
ACROSS, DOWN = 44, 14  # between boxes
LINE = 10  # the height of a line that passes through a layer
MARGIN = 8
ROUNDS = 7  # of which the last goes from left to right

Job = dict[str, Any]


@dataclass(eq=False)
class Box:
    """A job, or several of a task and state in a layer; or a line's place in a layer it passes.

    Args:
        layer: its layer, or the first of those that were taken together.
        jobs: those that it stands for; none of them for a line that passes.
        task, state: theirs; None of jobs of several.
    """

    layer: int
    jobs: list[Job] = field(default_factory=list)
    task: str | None = None
    state: str | None = None
    is_outside: bool = False
    x: float = 0.0
    y: float = 0.0  # of its middle
    before: list["Box"] = field(default_factory=list)
    after: list["Box"] = field(default_factory=list)

    @property
    def height(self) -> float:
        """How high it is drawn."""
        return HEIGHT if self.jobs else LINE


@dataclass
class Graph:
    """What is drawn.

    Args:
        boxes: in their order from left to right, and from the top down.
        lines: as paths of an SVG.
        is_grouped: whether some boxes stand for several jobs.
        has_less: whether lines were left out that follow from others.
        layers: how many layers there are, before any were taken together.
        band: how many were taken together.
    """

    boxes: list[Box]
    lines: list[tuple[str, str]]
    width: float
    height: float
    is_grouped: bool
    has_less: bool
    layers: int
    band: int


def layers_of(jobs: list[Job]) -> None:
    """Note in each job its layer: 0 where it depends on none of the others.

    Args:
        jobs: by their ids, which grow along the edges.
    """
    found: dict[int, int] = {}
    for job in jobs:
        above = [found[parent] for parent in job["depends_on"] if parent in found]
        job["layer"] = found[job["id"]] = 1 + max(above, default=-1)


def band_of(jobs: list[Job]) -> int:
    """Return how many layers are taken together."""
    layers = 1 + max((job["layer"] for job in jobs), default=0)
    return -(-layers // MOST_LAYERS)


def draw(jobs: list[Job]) -> Graph:
    """Draw a graph.

    Args:
        jobs: each with ``id``, ``task``, ``state``, ``depends_on``, ``layer`` and ``is_outside``.
    """
    band = band_of(jobs)
    boxes = _boxes(jobs, band)
    has_less = _join(boxes)
    columns = _columns(boxes)
    _order(columns)
    _place(columns)
    bottom = max((box.y + box.height / 2 for box in boxes), default=0)
    return Graph(
        boxes=[box for column in columns for box in column if box.jobs],
        lines=_lines(columns),
        width=2 * MARGIN + max(len(columns), 1) * (WIDTH + ACROSS) - ACROSS,
        height=bottom + MARGIN,
        is_grouped=any(len(box.jobs) > 1 for box in boxes),
        has_less=has_less,
        layers=1 + max((job["layer"] for job in jobs), default=0),
        band=band,
    )


def _boxes(jobs: list[Job], band: int) -> list[Box]:
    """Give each job a box, alone or with others of its layer, task and state."""
    by_layer: dict[int, list[Job]] = defaultdict(list)
    for job in jobs:
        by_layer[job["layer"] // band].append(job)
    boxes = []
    for place, layer in sorted(by_layer.items()):
        if len(jobs) <= MOST_SINGLE and len(layer) <= MOST_IN_LAYER and band == 1:
            groups = [[job] for job in layer]
        else:
            alike: dict[tuple[Any, ...], list[Job]] = defaultdict(list)
            for job in layer:
                alike[job["task"], job["state"], job["is_outside"]].append(job)
            groups = sorted(alike.values(), key=lambda group: (-len(group), group[0]["id"]))
            rest = [job for group in groups[MOST_BOXES - 1 :] for job in group]
            if len(groups) > MOST_BOXES:
                groups[MOST_BOXES - 1 :] = [sorted(rest, key=lambda job: job["id"])]
            groups.sort(key=lambda group: group[0]["id"])
        boxes += [_box(place * band, group) for group in groups]
    return boxes


def _box(layer: int, jobs: list[Job]) -> Box:
    states = {job["state"] for job in jobs}
    tasks = {job["task"] for job in jobs}
    return Box(
        layer,
        jobs,
        task=tasks.pop() if len(tasks) == 1 else None,
        state=states.pop() if len(states) == 1 else None,
        is_outside=jobs[0]["is_outside"],
    )


def _join(boxes: list[Box]) -> bool:
    """Note what comes before each box, but what is before that already; tell if any is left out."""
    place_of = {job["id"]: place for place, box in enumerate(boxes) for job in box.jobs}
    reached: list[int] = []  # from which boxes each is reached, as bits
    has_less = False
    for box in boxes:
        parents = {
            place_of[parent]
            for job in box.jobs
            for parent in job["depends_on"]
            if parent in place_of and boxes[place_of[parent]].layer < box.layer
        }
        above = 0
        for parent in parents:
            above |= reached[parent]
        direct = {parent for parent in parents if not above >> parent & 1}
        has_less |= len(direct) < len(parents)
        for parent in parents:
            above |= 1 << parent
        reached.append(above)
        for parent in sorted(direct):
            box.before.append(boxes[parent])
            boxes[parent].after.append(box)
    return has_less


def _columns(boxes: list[Box]) -> list[list[Box]]:
    """Put the boxes into columns; a line that is longer gets a place in each that it passes."""
    layers = sorted({box.layer for box in boxes})
    column_of = {layer: place for place, layer in enumerate(layers)}
    columns: list[list[Box]] = [[] for _ in layers]
    for box in boxes:
        columns[column_of[box.layer]].append(box)
    for box in boxes:
        last = box
        first_column = column_of[box.layer]
        far = [after for after in box.after if column_of[after.layer] > first_column + 1]
        for place in range(first_column + 1, max((column_of[b.layer] for b in far), default=0)):
            passing = Box(layers[place], before=[last])
            last.after = [b for b in last.after if b not in far] + [passing]
            passing.after = far
            for after in far:
                after.before = [passing if b is last else b for b in after.before]
            columns[place].append(passing)
            last = passing
            far = [after for after in far if column_of[after.layer] > place + 1]
    return columns


def _order(columns: list[list[Box]]) -> None:
    """Sort each column by where its neighbours stand, to and fro, so that few lines cross."""
    for column in columns:
        for place, box in enumerate(column):
            box.y = place
    for number in range(ROUNDS):
        is_back = number % 2 == 1
        for column in reversed(columns) if is_back else columns:
            wanted = {}
            for box in column:
                beside = box.after if is_back else box.before
                wanted[box] = sum(b.y for b in beside) / len(beside) if beside else box.y
            column.sort(key=lambda box: wanted[box])
            for place, box in enumerate(column):
                box.y = place - (len(column) - 1) / 2


def _place(columns: list[list[Box]]) -> None:
    """Give each box its place: as near to its neighbours as the others of its column allow."""
    for number, column in enumerate(columns):
        for box in column:
            box.x = MARGIN + number * (WIDTH + ACROSS)
        _spread(column, [0.0] * len(column))
    for number in range(ROUNDS):
        is_back = number % 2 == 1
        for column in reversed(columns) if is_back else columns:
            wanted = []
            for box in column:
                beside = (box.after or box.before) if is_back else (box.before or box.after)
                wanted.append(sum(b.y for b in beside) / len(beside) if beside else box.y)
            _spread(column, wanted)
    top = min((box.y - box.height / 2 for column in columns for box in column), default=0)
    for column in columns:
        for box in column:
            box.y += MARGIN - top


def _spread(column: list[Box], wanted: list[float]) -> None:
    """Place boxes in their order, apart from each other, with the least squares of differences."""
    offsets = [0.0]
    for one, other in pairwise(column):
        offsets.append(offsets[-1] + (one.height + other.height) / 2 + DOWN)
    pools: list[list[float]] = []  # sum and number of those that are moved together
    for value, offset in zip(wanted, offsets, strict=False):
        pools.append([value - offset, 1])
        while len(pools) > 1 and pools[-2][0] / pools[-2][1] > pools[-1][0] / pools[-1][1]:
            total, number = pools.pop()
            pools[-1][0] += total
            pools[-1][1] += number
    places = [total / number for total, number in pools for _ in range(int(number))]
    for box, place, offset in zip(column, places, offsets, strict=False):
        box.y = place + offset


def _lines(columns: list[list[Box]]) -> list[tuple[str, str]]:
    """Draw each line to what comes after, and say of which state the box is that it comes from."""
    lines = []
    for column in columns:
        for box in column:
            for after in box.after:
                start, end = box.x + WIDTH, after.x
                middle = (start + end) / 2
                path = (
                    f"M{start:.0f} {box.y:.1f}C{middle:.0f} {box.y:.1f}"
                    f" {middle:.0f} {after.y:.1f} {end:.0f} {after.y:.1f}"
                )
                if not box.jobs:  # it passes through this layer
                    path = f"M{box.x:.0f} {box.y:.1f}H{start:.0f}{path[path.index('C') :]}"
                lines.append((path, "arrow" if after.jobs else ""))
    return lines
