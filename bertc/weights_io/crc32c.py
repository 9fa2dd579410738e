"""CRC-32C (Castagnoli), over whole arrays at a time.

A register of the checksum that takes in n zero bytes goes through a linear map Sₙ, and S₂ₙ = Sₙ ∘ Sₙ. The checksum of
words w₀ w₁ ... is the sum (xor) of each word sent through as many bytes as follow its start, and is added up by pairs:

    c ← S₄(c₀) + c₁, S₄(c₂) + c₃, ...        then with S₈, S₁₆, ... until one is left

Source: RFC 3720, section 12.1 and appendix B.4; the masked form is that of LevelDB's log format.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

Registers = NDArray[np.uint32]

POLYNOMIAL = 0x82F63B78
"""Reflected: the lowest bit of a register is the highest power."""
ONES = 0xFFFFFFFF
MASK_DELTA = 0xA282EAD8
CHUNK = 1 << 18
"""Bytes added up at once, so that intermediate results stay in the processor's cache."""


def masked_crc32c(data: NDArray[np.uint8] | bytes | memoryview) -> int:
    """The checksum of `data`, turned by 15 bits and moved, as files store it beside what it is the checksum of."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + MASK_DELTA) & ONES


def crc32c(data: NDArray[np.uint8] | bytes | memoryview) -> int:
    """The CRC-32C of `data`: 0xE3069283 of `123456789`."""
    octets = np.frombuffer(data, np.uint8)
    register = np.array([ONES], np.uint32)
    for start in range(0, len(octets), CHUNK):
        chunk = octets[start : start + CHUNK]
        register = _after_zeros(register, len(chunk)) ^ _sum(chunk)
    return int(register[0]) ^ ONES


def _sum(octets: NDArray[np.uint8]) -> Registers:
    """The register that started from 0 and took in `octets`. Zeros in front change nothing."""
    padded = np.zeros(-(-len(octets) // 4) * 4, np.uint8)
    padded[len(padded) - len(octets) :] = octets
    sums, level = padded.view("<u4").astype(np.uint32, copy=False), 2
    while len(sums) > 1:
        if len(sums) % 2:
            sums = np.concatenate([np.zeros(1, np.uint32), sums])
        sums = _sent(sums[0::2], level) ^ sums[1::2]
        level += 1
    return _sent(sums, 2)


def _after_zeros(registers: Registers, count: int) -> Registers:
    for level in range(count.bit_length()):
        if count >> level & 1:
            registers = _sent(registers, level)
    return registers


def _sent(registers: Registers, level: int) -> Registers:
    """Each register after 2**level zero bytes: the map of its low half plus that of its high half."""
    low, high = _halves(level)
    return low[registers & 0xFFFF] ^ high[registers >> 16]


@cache
def _halves(level: int) -> tuple[Registers, Registers]:
    """What 2**level zero bytes make of each value of a register's low 16 bits, and of its high ones."""
    if level:
        low, high = _halves(level - 1)
        return _sent(low, level - 1), _sent(high, level - 1)
    halves = np.arange(1 << 16, dtype=np.uint32)
    bits = halves & np.uint32(0xFF)
    for _ in range(8):
        bits = (bits >> np.uint32(1)) ^ np.uint32(POLYNOMIAL) * (bits & np.uint32(1))
    return bits ^ halves >> np.uint32(8), halves << np.uint32(8)
