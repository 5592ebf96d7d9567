"""Sets of permutations of a puzzle's 3 x 3 tiles that differ from each other in many places.

Jigsaw++ asks for a minimum Hamming distance of 3: two of the nine tiles may be replaced, and the other seven
must still tell any two permutations apart. Both constructions guarantee their distance by algebra, without a
search:

- `even`: two even permutations differ by an even permutation other than the identity, which moves at least 3
  points.
- `pgammal`: the group PGammaL(2, 8). It has all 1512 maps x -> (a s(x) + b) / (c s(x) + d) of the projective
  line over GF(8), which has 9 points. Here s is one of the 3 field automorphisms. Only the identity fixes
  more than 3 points, so any two elements differ in at least 6 places. No set of 701 permutations does better:
  at distance 7 there are at most 9! / 6! = 504.

The identity is a member like any other. A puzzle that is already solved is one class among many.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from data import draws
from data.errors import ConfigError
from models.configs.jigsaw import LARGEST_GROUP, Construction

TILES = 9

_EVEN_PERMUTATIONS = 181_440  # 9! / 2
# The ninth point of the projective line. 0..7 are the elements of GF(8), as polynomials over GF(2).
_INFINITY = 8


def permutation_set(n: int, seed: int, construction: Construction = "pgammal") -> NDArray[np.int64]:
    """Draw `n` different permutations of 0..8 uniformly from a construction.

    Args:
        n: how many: at most 1512 for `pgammal`, 181440 for `even`.
        seed: the same seed gives the same rows in the same order.
        construction: `pgammal` (minimum Hamming distance 6) or `even` (3).

    Returns:
        (n, 9) int64. Row p says which cell of the image is in each slot of puzzle p.

    Raises:
        ConfigError: the construction has fewer than `n` permutations.
    """
    most = LARGEST_GROUP if construction == "pgammal" else _EVEN_PERMUTATIONS
    if not 1 <= n <= most:
        raise ConfigError(
            f"permutations: {n} asked for, {construction} has 1 to {most}; choose a number in that range"
        )
    key = draws.key(seed, "permutations", construction)
    if construction == "pgammal":
        return projective_semilinear_group()[draws.permutation(key, most)[:n]]
    return _even(n, key)


def projective_semilinear_group() -> NDArray[np.int64]:
    """(1512, 9) int64: PGammaL(2, 8) as permutations of GF(8) = 0..7 and infinity = 8."""
    points = np.arange(8)
    times = np.array([[_multiply(a, b) for b in range(8)] for a in range(8)])
    inverse = np.array([0, *(int(np.flatnonzero(times[a] == 1)[0]) for a in range(1, 8))])

    maps = []
    for a in range(1, 8):  # x -> a x + b fixes infinity
        for b in range(8):
            maps.append([*(times[a, points] ^ b), _INFINITY])
    # x -> (a x + b) / (x + d), with c scaled to 1. In characteristic 2 the determinant is a d + b.
    for a in range(8):
        for b in range(8):
            for d in range(8):
                if times[a, d] != b:
                    image = times[times[a, points] ^ b, inverse[points ^ d]]
                    maps.append([*np.where(points == d, _INFINITY, image), a])
    fractional = np.array(maps, dtype=np.int64)

    square = np.array([*(times[x, x] for x in range(8)), _INFINITY])  # the Frobenius automorphism, of order 3
    return np.concatenate([fractional, fractional[:, square], fractional[:, square[square]]])


def _multiply(a: int, b: int) -> int:
    """Product in GF(8) = GF(2)[x] / (x^3 + x + 1)."""
    product = 0
    for bit in range(3):
        if b >> bit & 1:
            product ^= a << bit
    for bit in (4, 3):
        if product >> bit & 1:
            product ^= 0b1011 << (bit - 3)
    return product


def _even(n: int, key: int) -> NDArray[np.int64]:
    """(n, 9) int64: distinct uniform even permutations. An odd draw becomes even by swapping two entries."""
    drawn = 2 * n
    while True:
        rows = np.argsort(draws.bits(key, np.arange(drawn), TILES), axis=1, kind="stable")
        first, second = np.triu_indices(TILES, 1)
        odd = (rows[:, first] > rows[:, second]).sum(axis=1) % 2 == 1
        rows[odd, :2] = rows[odd, 1::-1]
        seen_first = np.unique(rows, axis=0, return_index=True)[1]
        if len(seen_first) >= n:
            return rows[np.sort(seen_first)[:n]].astype(np.int64)
        drawn *= 2
