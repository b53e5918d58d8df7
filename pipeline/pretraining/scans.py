"""Clouds as scanners give them: noise, uneven density, holes, few points, normals that are a guess.

Shapes: N points, each xyz in the normalised frame and a unit normal.
"""

import numpy as np

CLEAN = 0.4  # share of the clouds that stay as they are
NOISE = (0.001, 0.03)  # standard deviation of positions
TURN_PER_NOISE = 12.0  # standard deviation of normals over that of positions: planes are laid through these
FEWEST = 0.1  # share of the points that are wanted
LARGEST_HOLE = 0.35  # share of the points that there are


def scanned(cloud: np.ndarray, num_points: int, rng: np.random.Generator) -> np.ndarray:
    """A cloud with faults drawn for it, each in half of those that have any.

    Args:
        cloud: (N, 6) with more than ``num_points`` points, in random order.

    Returns:
        (num_points, 6) float32; where fewer points are left, they come several times.
    """
    if rng.random() >= CLEAN:
        uneven, holed, few, noisy = rng.random(4) < 0.5
        if uneven:
            slope = rng.normal(size=3)
            density = np.exp(2 * cloud[:, :3] @ (slope / np.linalg.norm(slope)))
            cloud = cloud[rng.random(len(cloud)) < density / density.max() + 0.05]
        if holed:
            cloud = _with_hole(cloud, rng)
        if few:
            left = int(num_points * np.exp(rng.uniform(np.log(FEWEST), 0)))
            cloud = cloud[:left]
        cloud = _filled(cloud, num_points)
        if noisy:
            cloud = _with_noise(cloud, float(np.exp(rng.uniform(*np.log(NOISE)))), rng)
    return _filled(cloud, num_points).astype(np.float32)


def scan(cloud: np.ndarray, num_points: int, deviation: float, missing: float, rng: np.random.Generator) -> np.ndarray:
    """A cloud with given faults, (num_points, 6) float32.

    Args:
        cloud: (N, 6) with more than ``num_points`` points, in random order.
        deviation: of positions.
        missing: share of the surface.
    """
    order = _order_seen(cloud, rng)
    cloud = _filled(cloud[order >= np.quantile(order, missing)], num_points)
    return _with_noise(cloud, deviation, rng).astype(np.float32)


def _filled(cloud: np.ndarray, num_points: int) -> np.ndarray:
    found: np.ndarray = cloud[np.arange(num_points) % len(cloud)]
    return found


def _order_seen(cloud: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(N,) what is low for the points that a scanner sees last: those nearest to one of them, or that look away."""
    if rng.random() < 0.5:
        found: np.ndarray = np.linalg.norm(cloud[:, :3] - cloud[rng.integers(len(cloud)), :3], axis=1)
        return found
    view = rng.normal(size=3)
    return np.asarray(cloud[:, 3:] @ (view / np.linalg.norm(view)))


def _with_hole(cloud: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Without a share of the points: what a scanner did not see."""
    order = _order_seen(cloud, rng)
    seen: np.ndarray = cloud[order >= np.quantile(order, rng.uniform(0.02, LARGEST_HOLE))]
    return seen


def _with_noise(cloud: np.ndarray, deviation: float, rng: np.random.Generator) -> np.ndarray:
    moved: np.ndarray = cloud + rng.normal(size=cloud.shape) * np.repeat([deviation, TURN_PER_NOISE * deviation], 3)
    moved[:, 3:] /= np.maximum(np.linalg.norm(moved[:, 3:], axis=1, keepdims=True), 1e-6)
    return moved
