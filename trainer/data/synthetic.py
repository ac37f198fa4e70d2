"""A procedurally drawn data set: ten shapes and textures under clutter, occlusion and noise.

It needs no download and is honest work for a small net: colour and brightness tell nothing about
the class. Only operations that IEEE 754 rounds exactly (+, -, *, /, square root) are used, no sine
or logarithm of the platform, so every machine draws the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.data.dataset import Images, Labels, TestSplit, TrainSplit

Field = NDArray[np.float32]
"""float32 [N, 32, 32], or broadcastable to it."""

TRAIN_IMAGES = 10_000
TEST_IMAGES = 2_000
SEED = 10
SIDE = 32
CHUNK = 128
"""Images drawn at once: their fields fit the cache."""

_HALF = np.float32(0.5)


def load_train(images: int = TRAIN_IMAGES, *, seed: int = SEED) -> TrainSplit:
    """The training split; another stream of random numbers than the test split's."""
    return TrainSplit(*_draw(images, np.random.SeedSequence([seed, 0])))


def load_test(images: int = TEST_IMAGES, *, seed: int = SEED) -> TestSplit:
    """The test split."""
    return TestSplit(*_draw(images, np.random.SeedSequence([seed, 1])))


def _disk(u: Field, v: Field, p: Field) -> Field:
    distance: Field = _length(u, v) - np.float32(0.8)
    return distance


def _ring(u: Field, v: Field, p: Field) -> Field:
    width = np.float32(0.1) + np.float32(0.12) * p
    distance: Field = np.abs(_length(u, v) - np.float32(0.65)) - width
    return distance


def _square(u: Field, v: Field, p: Field) -> Field:
    return np.maximum(np.abs(u), np.abs(v)) - np.float32(0.7)


def _triangle(u: Field, v: Field, p: Field) -> Field:
    slope = np.float32(0.8660254) * np.abs(u) - _HALF * v
    return np.maximum(slope, v) - np.float32(0.48)


def _cross(u: Field, v: Field, p: Field) -> Field:
    width = np.float32(0.14) + np.float32(0.16) * p
    a, b, arm = np.abs(u), np.abs(v), np.float32(0.9)
    both: Field = np.minimum(np.maximum(a - width, b - arm), np.maximum(b - width, a - arm))
    return both


def _stripes(u: Field, v: Field, p: Field) -> Field:
    frequency = np.float32(1.2) + p
    return _patch(u, v, (np.abs(_fraction(u * frequency) - _HALF) - np.float32(0.25)) / frequency)


def _zigzag(u: Field, v: Field, p: Field) -> Field:
    frequency = np.float32(1.2) + p
    bent = u + np.float32(0.5) * np.abs(_fraction(v * np.float32(1.1)) - _HALF)
    return _patch(
        u, v, (np.abs(_fraction(bent * frequency) - _HALF) - np.float32(0.25)) / frequency
    )


def _checkers(u: Field, v: Field, p: Field) -> Field:
    frequency = np.float32(0.9) + np.float32(0.6) * p
    a = np.abs(_fraction(u * frequency) - _HALF) - np.float32(0.25)
    b = np.abs(_fraction(v * frequency) - _HALF) - np.float32(0.25)
    return _patch(u, v, np.maximum(np.minimum(a, -b), np.minimum(b, -a)) / frequency)


def _dots(u: Field, v: Field, p: Field) -> Field:
    frequency = np.float32(1.2) + np.float32(0.6) * p
    a, b = _fraction(u * frequency) - _HALF, _fraction(v * frequency) - _HALF
    return _patch(u, v, (_length(a, b) - np.float32(0.3)) / frequency)


def _spiral(u: Field, v: Field, p: Field) -> Field:
    turns = np.float32(1.4) + np.float32(0.8) * p
    # the "diamond angle": grows around the centre as the angle does, without an arc tangent
    share = v / (np.abs(u) + np.abs(v) + np.float32(1e-6))
    turn = np.where(u >= 0, 1 + share, 3 - share) * np.float32(0.25)
    radius = _length(u, v)
    arm = np.abs(_fraction(radius * turns - turn) - _HALF) - np.float32(0.25)
    ended: Field = np.maximum(arm / turns, radius - np.float32(0.95))
    return ended


SHAPES: Mapping[str, Callable[[Field, Field, Field], Field]] = {
    "disk": _disk,
    "ring": _ring,
    "square": _square,
    "triangle": _triangle,
    "cross": _cross,
    "stripes": _stripes,
    "zigzag": _zigzag,
    "checkers": _checkers,
    "dots": _dots,
    "spiral": _spiral,
}
"""Signed distance (negative inside) of each class over coordinates and one free parameter 0..1."""

CLASSES = tuple(SHAPES)


def _length(u: Field, v: Field) -> Field:
    length: Field = np.sqrt(u * u + v * v)
    return length


def _fraction(x: Field) -> Field:
    fraction: Field = x - np.floor(x)
    return fraction


def _patch(u: Field, v: Field, texture: Field) -> Field:
    """A texture cut out as a rounded patch, so that its outline tells it from no shape."""
    return np.maximum(texture, np.maximum(np.abs(u), np.abs(v)) - np.float32(0.95))


def _draw(count: int, entropy: np.random.SeedSequence) -> tuple[Images, Labels]:
    rng = np.random.Generator(np.random.PCG64(entropy))
    # sorted random numbers: a shuffle whose result no version of numpy changes
    labels = np.argsort(rng.random(count), kind="stable") % len(CLASSES)
    images = np.empty((count, 3, SIDE, SIDE), np.uint8)
    for label, shape in enumerate(SHAPES.values()):
        chosen = np.flatnonzero(labels == label)
        for start in range(0, len(chosen), CHUNK):
            some = chosen[start : start + CHUNK]
            images[some] = _render(rng, shape, len(some))
    return images, labels.astype(np.int64)


def _render(
    rng: np.random.Generator, shape: Callable[[Field, Field, Field], Field], count: int
) -> Images:
    """Draw images of one class, uint8 [count, 3, 32, 32]."""

    def random(low: float, high: float, *size: int) -> Field:
        drawn = rng.random((count, *(size or (1, 1))), np.float32)
        return drawn * np.float32(high - low) + np.float32(low)

    size = random(0.55, 0.9)
    u, v = _coordinates(rng, count, size, spread=0.22)
    edge = size * random(5, 16)
    mask = _soften(shape(u, v, random(0, 1)), edge)
    background = random(0.25, 0.75, 3, 1, 1)
    x, y = _grid()
    tilt = random(-0.15, 0.15, 3, 1, 1) * x + random(-0.15, 0.15, 3, 1, 1) * y
    picture = background + tilt
    # something else behind, at times as strong as what is to be seen
    for _ in range(2):
        width = random(0.03, 0.4)
        a, b = _coordinates(rng, count, random(0.3, 1.0), spread=0.9)
        clutter = _soften(
            np.maximum(np.abs(a) - width, np.abs(b) - random(0.2, 0.9)), random(4, 16)
        )
        picture += clutter[:, None] * random(-0.1, 0.1, 3, 1, 1)
    picture += mask[:, None] * _contrast(random)
    # mostly a crumb, now and then most of the shape
    share = random(0, 1)
    patch = np.float32(0.06) + np.float32(0.54) * share * share * share
    a, b = _coordinates(rng, count, patch, spread=0.8)
    hidden = _soften(np.maximum(np.abs(a), np.abs(b)) - 1, np.full_like(size, 8))[:, None]
    picture += hidden * (random(0, 1, 3, 1, 1) - picture)
    # the sum of two uniform bytes: noise of triangular distribution
    grains = rng.bytes(2 * count * 3 * SIDE * SIDE)
    noise = np.frombuffer(grains, np.uint8).reshape(2, count, 3, SIDE, SIDE).astype(np.int16)
    amplitude = random(0.02, 0.1, 1, 1, 1) / np.float32(255)
    picture += (noise[0] + noise[1] - np.int16(255)).astype(np.float32) * amplitude
    drawn: Images = np.floor(picture.clip(0, 1) * np.float32(255) + _HALF).astype(np.uint8)
    return drawn


def _contrast(random: Callable[..., Field]) -> Field:
    """Difference of colour between a shape and what lies behind it, [N, 3, 1, 1]; often small."""
    direction = random(-1, 1, 3, 1, 1)
    strongest = np.abs(direction).max(1, keepdims=True) + np.float32(1e-3)
    strength = random(0, 1, 1, 1, 1)
    difference: Field = direction / strongest * (np.float32(0.28) + np.float32(0.52) * strength)
    return difference


def _soften(distance: Field, edge: Field) -> Field:
    """Coverage 0 to 1 from a signed distance; ``edge`` is the inverse of the edge's width."""
    return (_HALF - distance * edge).clip(0, 1)


def _grid() -> tuple[Field, Field]:
    """Pixel centres, -1 to 1: x [1, 1, 32] and y [1, 32, 1]."""
    centres = (np.arange(SIDE, dtype=np.float32) + _HALF) / np.float32(SIDE / 2) - 1
    return centres[None, None, :], centres[None, :, None]


def _coordinates(
    rng: np.random.Generator, count: int, size: Field, *, spread: float
) -> tuple[Field, Field]:
    """Pixel coordinates in a frame that is moved, turned, stretched and scaled per image."""
    drawn: Any = rng.random((5, count, 1, 1), np.float32)
    x, y = _grid()
    x = x - (drawn[0] * 2 - 1) * np.float32(spread)
    y = y - (drawn[1] * 2 - 1) * np.float32(spread)
    # rational points of the circle instead of sine and cosine; the sign gives the other half
    t = drawn[2] * 2 - 1
    side = np.where(drawn[3] < _HALF, np.float32(-1), np.float32(1))
    cosine, sine = side * (1 - t * t) / (1 + t * t), side * 2 * t / (1 + t * t)
    stretch = np.float32(0.8) + np.float32(0.45) * drawn[4]
    return (cosine * x + sine * y) / size, (cosine * y - sine * x) / (size * stretch)
