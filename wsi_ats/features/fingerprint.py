"""Fingerprint of a frozen network: part of the name under which its features are kept."""

from __future__ import annotations

import hashlib

import torch
from torch import nn

_MEMO = "_fingerprint_of_weights"


def fingerprint(network: nn.Module, settings: str = "") -> str:
    """Digest (32 hex digits) of a network's layers, weights and buffers, and of the `settings` that it works by.

    Two networks of one fingerprint make the same of the same input. It is worked out once and again whenever weights
    have been changed in place or replaced: a second for a gigabyte of them.
    """
    tensors = {
        name: tensor
        for named in (network.named_parameters, network.named_buffers)
        for name, tensor in named()
    }
    now = settings, tuple((name, t.data_ptr(), _version(t)) for name, t in tensors.items())
    memo = network.__dict__.get(_MEMO)
    if memo is None or memo[0] != now:
        memo = network.__dict__[_MEMO] = (now, _digest(network, tensors, settings))
    digest: str = memo[1]
    return digest


def _digest(network: nn.Module, tensors: dict[str, torch.Tensor], settings: str) -> str:
    total = hashlib.blake2b(f"{network!r}\n{settings}\n".encode(), digest_size=16)
    for name, tensor in sorted(tensors.items()):
        values = tensor.detach().cpu().contiguous()
        total.update(f"{name} {values.dtype} {tuple(values.shape)}\n".encode())
        total.update(values.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def _version(tensor: torch.Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version
