"""ICC profiles of imaginary scanners."""

from __future__ import annotations

import struct

import numpy as np

WIDE = ((0.6094, 0.3111, 0.0195), (0.2053, 0.6257, 0.0609), (0.1492, 0.0632, 0.7446))
"""Adobe RGB (1998): XYZ (D50) of red, green and blue."""


def icc_profile(
    gamma: float = 1.8, primaries: tuple[tuple[float, float, float], ...] = WIDE, intent: int = 0
) -> bytes:
    """A matrix profile of version 2, laid out by hand as the ICC's specification has it."""

    def xyz(values: tuple[float, ...]) -> bytes:
        return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(v * 65536) for v in values))

    curve = b"curv\0\0\0\0" + struct.pack(">IHH", 1, round(gamma * 256), 0)
    tags = {b"wtpt": xyz((0.9642, 1.0, 0.8249))}
    tags |= {name: xyz(p) for name, p in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries, strict=True)}
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    at = 128 + 4 + 12 * len(tags)
    table, body = struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        table += name + struct.pack(">II", at + len(body), len(content))
        body += content
    header = bytearray(128)
    struct.pack_into(">I", header, 0, at + len(body))
    struct.pack_into(">I4s4s4s", header, 8, 0x02400000, b"scnr", b"RGB ", b"XYZ ")
    header[36:40] = b"acsp"
    struct.pack_into(">I3i", header, 64, intent, *(round(v * 65536) for v in (0.9642, 1.0, 0.8249)))
    return bytes(header) + table + body


def convert_by_hand(pixels: np.ndarray, gamma: float = 1.8) -> np.ndarray:
    """What the profile above means, from first principles: linear light, XYZ, linear sRGB, sRGB. For RGB in [0, 1]."""
    to_xyz = np.array(WIDE).T
    srgb = np.array([[0.4360, 0.3851, 0.1431], [0.2225, 0.7169, 0.0606], [0.0139, 0.0971, 0.7141]])  # D50
    linear = np.clip((pixels**gamma) @ (np.linalg.inv(srgb) @ to_xyz).T, 0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
