"""Finds kinds of beats that keep to themselves among beats that are said to be normal.

A robust loss keeps single abnormal beats from pulling a fit, but not a kind of them that comes
often.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from monitor.ecg.beat import Floats

NEIGHBOURS: Final = 5
"""Beats closest to a beat, by whose distance it is told how dense its surroundings are."""

GROUP: Final = 0.025
"""Share of the beats, at least, that make a group of their own.

A network learns a shape that one beat in forty has. Of ECG5000's normal beats up to 1.9 % are such
a group, of abnormal ones, mixed in as one beat in twenty, 3.6 to 4.4 %.
"""

FEWEST_ALIKE: Final = 8
"""Beats of such a group, at least: fewer may lie together by chance.

In none of 25 draws of 285, 600 or 1,200 of ECG5000's normal beats eight did. With one abnormal beat
in twenty among 285, 56 % of those are found; with at least 12 a third, with 20 none.
"""

LARGEST: Final = 0.1
"""Share of the beats beyond which such a group is another normal shape, in a file of normal beats.

Of the normal beats of MIT-BIH record 119 22 %, of 223 17 % are a group of their own.
"""

ISOLATION: Final = 1.35
"""How much farther such a group lies from the others than its beats lie from each other.

Normal groups as large have at most 1.2, the abnormal ones 1.5 to 1.9.
"""

MOST: Final = 4000
"""Beats among which groups are looked for: the distances between all pairs are computed."""


def apart(beats: Floats) -> NDArray[np.bool_]:
    """Say which beats, float32 [N, 140], belong to a group far from all others: bool [N].

    Groups are the branches of the single-linkage tree of mutual reachability distances, as in
    HDBSCAN: one of `GROUP` to `LARGEST` of the beats is far if it joins the rest only at
    `ISOLATION` times the distance at which its own beats lie from their neighbours.

    Source: R. Campello, D. Moulavi and J. Sander, "Density-based clustering based on hierarchical
    density estimates", PAKDD 2013 (https://doi.org/10.1007/978-3-642-37456-2_14).
    """
    from scipy.cluster.hierarchy import linkage
    from scipy.spatial.distance import cdist, squareform

    chosen = np.arange(len(beats))
    if len(beats) > MOST:
        chosen = np.sort(np.random.default_rng(0).permutation(len(beats))[:MOST])
    some = beats[chosen] - beats[chosen].mean(axis=1, keepdims=True)
    count = len(some)
    distances = cdist(some, some)
    near = np.partition(distances, NEIGHBOURS, axis=1)[:, NEIGHBOURS]
    reach = np.maximum(np.maximum(distances, near), near[:, None])
    np.fill_diagonal(reach, 0)
    tree = linkage(squareform(reach, checks=False), "single")
    size = np.append(np.ones(count, np.int64), tree[:, 3].astype(np.int64))

    fewest = max(GROUP * count, FEWEST_ALIKE)
    found = np.zeros(count, bool)
    node = 2 * count - 2
    while node >= count:  # down the larger branch, from the root
        height = tree[node - count, 2]
        small, large = sorted(tree[node - count, :2].astype(int).tolist(), key=lambda k: size[k])
        if fewest <= size[small] <= LARGEST * count:
            group = _leaves(tree, small)
            if height > ISOLATION * np.median(near[group]):
                found[group] = True
        node = large
    if count == len(beats) or not found.any():
        everywhere = np.zeros(len(beats), bool)
        everywhere[chosen] = found
        return everywhere
    centred = beats - beats.mean(axis=1, keepdims=True)
    blocks = np.array_split(centred, len(beats) // MOST + 1)
    return np.concatenate([found[cdist(block, some).argmin(axis=1)] for block in blocks])


def _leaves(tree: NDArray[np.float64], node: int) -> list[int]:
    """Give the beats below a node of a single-linkage tree."""
    count, below, leaves = len(tree) + 1, [node], []
    while below:
        node = below.pop()
        if node < count:
            leaves.append(node)
        else:
            below += tree[node - count, :2].astype(int).tolist()
    return leaves
