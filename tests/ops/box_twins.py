"""Plain twins of everything that is done with boxes, one box at a time."""

import math

import numpy as np


def area(box):
    y0, x0, y1, x1 = (float(edge) for edge in box)
    if not all(map(math.isfinite, (y0, x0, y1, x1))) or y1 <= y0 or x1 <= x0:
        return 0.0
    return (y1 - y0) * (x1 - x0)


def iou(a, b):
    if not area(a) or not area(b):
        return 0.0
    height = min(a[2], b[2]) - max(a[0], b[0])
    width = min(a[3], b[3]) - max(a[1], b[1])
    if height <= 0 or width <= 0:
        return 0.0
    shared = float(height) * float(width)
    return shared / (area(a) + area(b) - shared)


def iou_table(first, second):
    return np.array([[iou(a, b) for b in second] for a in first]).reshape(len(first), len(second))


def encode(box, anchor, weights):
    if not area(box) or not area(anchor):
        return [0.0] * 4
    deltas = []
    for axis in (0, 1):
        side, own = anchor[axis + 2] - anchor[axis], box[axis + 2] - box[axis]
        middle, own_middle = anchor[axis] + side / 2, box[axis] + own / 2
        deltas.append(((own_middle - middle) / side, math.log(own / side)))
    (dy, dh), (dx, dw) = deltas
    return [value * weight for value, weight in zip((dy, dx, dh, dw), weights, strict=True)]


def decode(deltas, anchor, weights):
    dy, dx, dh, dw = (value / weight for value, weight in zip(deltas, weights, strict=True))
    low, high = [], []
    for axis, (shift, growth) in enumerate(((dy, dh), (dx, dw))):
        side = anchor[axis + 2] - anchor[axis]
        middle, half = anchor[axis] + side / 2 + shift * side, side * math.exp(growth) / 2
        low.append(middle - half)
        high.append(middle + half)
    return [*low, *high]


def label_boxes(labels, count):
    boxes = np.zeros((count, 4))
    for cell in range(1, count + 1):
        y, x = np.nonzero(labels == cell)
        if len(y):
            boxes[cell - 1] = y.min(), x.min(), y.max() + 1, x.max() + 1
    return boxes


def greedy(boxes, scores, threshold, classes=None):
    """Kept boxes, by the textbook's loop; thresholds one number or one per box."""
    classes = np.zeros(len(boxes), int) if classes is None else classes
    threshold = np.broadcast_to(threshold, len(boxes))
    left = [k for k in range(len(boxes)) if area(boxes[k]) and np.isfinite(scores[k])]
    left.sort(key=lambda k: -scores[k])
    kept = np.zeros(len(boxes), bool)
    while left:
        best = left.pop(0)
        kept[best] = True
        left = [
            k for k in left if classes[k] != classes[best] or not iou(boxes[best], boxes[k]) > threshold[best]
        ]
    return kept


def bilinear(feature, y, x):
    """The value of (h, w, C) at index y, x; beyond the border the outermost pixels go on."""
    height, width = feature.shape[:2]
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    y0, x0 = int(y), int(x)
    y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
    fy, fx = y - y0, x - x0
    above = feature[y0, x0] * (1 - fx) + feature[y0, x1] * fx
    below = feature[y1, x0] * (1 - fx) + feature[y1, x1] * fx
    return above * (1 - fy) + below * fy


def align(pyramid, box, strides, size, samples, finest_px):
    """(size, size, C) of one box."""
    channels = pyramid[0].shape[-1]
    made = np.zeros((size, size, channels))
    if not area(box):
        return made
    level = min(max(math.floor(math.log2(math.sqrt(area(box)) / finest_px)) + 1, 0), len(pyramid) - 1)
    steps = [(k + 0.5) / (size * samples) for k in range(size * samples)]
    rows, columns = (
        [(box[axis] + step * (box[axis + 2] - box[axis])) / strides[level] - 0.5 for step in steps]
        for axis in (0, 1)
    )
    for i, y in enumerate(rows):
        for j, x in enumerate(columns):
            made[i // samples, j // samples] += bilinear(pyramid[level], y, x) / samples**2
    return made


def soft_mask(mask, box, size):
    """(Y, X) of one mask, pixel by pixel."""
    made = np.zeros(size)
    if not area(box):
        return made
    for y in range(size[0]):
        for x in range(size[1]):
            if box[0] <= y + 0.5 <= box[2] and box[1] <= x + 0.5 <= box[3]:
                place = [
                    (pixel + 0.5 - box[axis]) / (box[axis + 2] - box[axis]) * mask.shape[axis] - 0.5
                    for axis, pixel in enumerate((y, x))
                ]
                made[y, x] = bilinear(mask[..., None], *place)[0]
    return made


def paint(masks, boxes, thresholds, areas, valid, size):
    painted = np.zeros(size, int)
    for k in np.flatnonzero(valid):
        soft = soft_mask(masks[k], boxes[k], size)
        if areas[k][0] <= soft.sum() <= areas[k][1]:
            painted[(soft > thresholds[k]) & (painted == 0)] = k + 1
    return painted
