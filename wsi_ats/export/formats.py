"""Files of programs: written as ONNX and as torch.export, and run from these files again."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wsi_ats.errors import ConfigError, ModelError
from wsi_ats.export.programs import Program
from wsi_ats.output import writing
from wsi_ats.sampling import generator_for

OPSET = 18
"""Version of ONNX's operators that programs are written in: the oldest that the exporter writes without converting."""
SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}
"""Formats, and the suffixes of their files."""
Outputs = Sequence[np.ndarray]
Run = Callable[[Sequence[Tensor]], Outputs]


def check_extra(formats: Sequence[str]) -> None:
    """Raise `ConfigError` where what writes these formats is not installed."""
    lacking = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if "onnx" in formats and lacking:
        raise ConfigError(
            f"ONNX cannot be written: {', '.join(lacking)} is not installed",
            remedy="pip install 'wsi-ats[export]', or give --format torch",
        )


def write_program(program: Program, folder: Path, formats: Sequence[str]) -> dict[str, Path]:
    """Write a program in each of the formats; its file by format.

    Raises `ModelError` where a network of it cannot be translated, `OutputError` where a file cannot be written.
    """
    written = {}
    for form in formats:
        path = folder / f"{program.name}{SUFFIXES[form]}"
        save = _translated(program, form)
        with writing(path), _quiet():
            save(path)
        written[form] = path
    return written


def _translated(program: Program, form: str) -> Callable[[Path], None]:
    """What writes a program into a file. Raises `ModelError`."""
    inputs = program.example(2, generator_for(0, program.name))
    try:
        with _quiet(), torch.no_grad():
            exported = torch.export.export(program, inputs, dynamic_shapes=program.open_sizes)
            for node in exported.graph.nodes:
                node.meta.pop("stack_trace", None)  # paths of this machine
            return _as_onnx(exported, program) if form == "onnx" else partial(torch.export.save, exported)
    except Exception as error:  # what fails in such a translation is not known beforehand
        lines = str(error).strip().splitlines() or [""]
        raise ModelError(
            f"{program.name} of this model cannot be written as {form}: {type(error).__name__}: {lines[0]}",
            remedy="give the other --format, or take another version of torch; not every network of others can be "
            "translated",
        ) from error


def _as_onnx(exported: Any, program: Program) -> Callable[[Path], None]:
    written = torch.onnx.export(
        exported,
        input_names=list(program.inputs),
        output_names=list(program.outputs),
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    assert written is not None
    for node in written.model.graph:
        node.metadata_props.clear()  # likewise
    return written.save


def run_program(path: Path, inputs: Sequence[str]) -> Run:
    """What runs the program in a file that was just written."""
    return _onnx_run(path, inputs) if path.suffix == SUFFIXES["onnx"] else _torch_run(path)


def _onnx_run(path: Path, inputs: Sequence[str]) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(given: Sequence[Tensor]) -> Outputs:
        arrays = {name: tensor.numpy() for name, tensor in zip(inputs, given, strict=True)}
        outputs: Outputs = session.run(None, arrays)
        return outputs

    return run


def _torch_run(path: Path) -> Run:
    with _quiet():
        module = torch.export.load(path).module()

    def run(given: Sequence[Tensor]) -> Outputs:
        with torch.no_grad():
            return [output.numpy() for output in module(*given)]

    return run


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' words on themselves and on packages that are not needed."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
