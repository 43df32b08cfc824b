"""NumPy's Philox 4x64-10 in torch operations, to draw the same dropout masks on GPU and CPU.

Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3". torch has no unsigned 64-bit
arithmetic: int64 holds the same bits, products wrap, and shifts are masked to be logical.
"""

from __future__ import annotations

import torch
from torch import Tensor

LOW = 0xFFFFFFFF
ROUNDS = 10


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
KEY_STEPS = (_signed(0x9E3779B97F4A7C15), _signed(0xBB67AE8584CAA73B))


def _shift(x: Tensor) -> Tensor:
    """Upper 32 bits, as a number."""
    return (x >> 32) & LOW


def _multiply(constant: int, x: Tensor) -> tuple[Tensor, Tensor]:
    """High and low 64 bits of an unsigned product."""
    low, high = constant & LOW, constant >> 32
    x_low, x_high = x & LOW, _shift(x)
    first = x_high * low + _shift(x_low * low)
    second = x_low * high + (first & LOW)
    return x_high * high + _shift(first) + _shift(second), x * _signed(constant)


def philox_uint16(key: Tensor, counter: Tensor, count: int) -> Tensor:
    """What ``np.random.Philox(key=key, counter=[0, 0, 0, counter]).random_raw()`` gives as uint16.

    Args:
        key: (S,) int64, not negative.
        counter: (K,) int64, the uppermost word.
        count: numbers for each counter and key.

    Returns:
        (K, S, count) int32 from 0 to 65535.
    """
    blocks = -(-count // 16)
    shape = (len(counter), len(key), blocks)
    # NumPy raises the counter before it draws, so the first block has counter 1.
    c0 = torch.arange(1, blocks + 1, device=key.device).expand(shape)
    c1, c2, c3 = torch.zeros_like(c0), torch.zeros_like(c0), counter[:, None, None].expand(shape)
    k0, k1 = key[:, None], torch.zeros_like(key)[:, None]
    for number in range(ROUNDS):
        if number:
            k0, k1 = k0 + KEY_STEPS[0], k1 + KEY_STEPS[1]
        high0, low0 = _multiply(MULTIPLIERS[0], c0)
        high1, low1 = _multiply(MULTIPLIERS[1], c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
    words = torch.stack((c0, c1, c2, c3), -1)
    halves = words.view(torch.int16).to(torch.int32) & 0xFFFF
    return halves.reshape(len(counter), len(key), blocks * 16)[..., :count]
