"""Operators from a line of text: ``ct:angles=60,geometry=fan``."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from deepinv.physics import LinearPhysics
from torch import Tensor

from recon.physics.errors import DataError, FileFormatError, OptionError
from recon.physics_options import OPERATORS, Arrays, OperatorOptions


@dataclass(frozen=True)
class PhysicsSpec:
    """An operator as a text describes it, before the size of the image is known.

    Parameters
    ----------
    name
        The operator's.
    options
        What was asked for.
    arrays
        What the files that the text names hold.
    """

    name: str
    options: OperatorOptions
    arrays: Arrays

    def build(self, img_size: Sequence[int]) -> LinearPhysics:
        """Make the operator for images (c, y, x); (y, x) is one channel (three and two for demosaicing and MRI)."""
        channels = {"demosaicing": 3, "mri": 2}.get(self.name, 1)
        size = tuple(int(n) for n in (img_size if len(img_size) == 3 else (channels, *img_size)))
        if len(size) != 3 or min(size) < 1:
            raise OptionError("the size of an image is (c, y, x)", found=tuple(img_size))
        return self.options.build(size, self.arrays)

    def __str__(self) -> str:
        defaults = {field.name: field.default for field in dataclasses.fields(self.options)}
        given = {key: value for key in defaults if (value := getattr(self.options, key)) != defaults[key]}
        return self.name + (":" if given else "") + ",".join(f"{key}={_written(value)}" for key, value in given.items())


def parse_physics(text: str, img_size: Sequence[int]) -> LinearPhysics:
    """Make an operator of a text: its name, and after a colon ``key=value`` pairs apart by commas.

    Parameters
    ----------
    text
        Such as ``inpainting:keep=0.3``, ``blur:motion=9,angle=30``, ``superresolution:factor=4``,
        ``denoising:sigma=0.1``, ``demosaicing:pattern=rggb``, ``ct:angles=60,geometry=fan``, ``mri:acceleration=4``,
        ``cs:ratio=0.1``. Each takes ``sigma``, ``gain`` and ``seed`` too.
    img_size
        (c, y, x) or (y, x) of the image.

    Raises
    ------
    OptionError, FileFormatError
        A name, key or value that isn't known; a file that cannot be read.

    Examples
    --------
    >>> parse_physics("ct:angles=60", (64, 64)).A(torch.ones(1, 1, 64, 64)).shape
    torch.Size([1, 1, 91, 60])
    """
    return parse_spec(text).build(img_size)


def parse_spec(text: str, arrays: Arrays | None = None) -> PhysicsSpec:
    """Read a text as `parse_physics` does; ``arrays`` stand for the files of these keys."""
    name, _, rest = text.strip().partition(":")
    name = _known(name.strip().lower().replace("_", "").replace("-", ""), OPERATORS, "operator")
    cls = OPERATORS[name]
    kinds = typing.get_type_hints(cls)
    keys = [field.name for field in dataclasses.fields(cls)]
    values: dict[str, Any] = {}
    for pair in filter(None, (part.strip() for part in rest.split(","))):
        key, equals, value = (part.strip() for part in pair.partition("="))
        key = _known(key, keys, f"option of {name}")
        if not equals or not value:
            raise OptionError(f"option {key!r} of {name} has no value", found=pair, expected=f"{key}=VALUE")
        if key in values:
            raise OptionError(f"option {key!r} of {name} is given twice", found=text)
        values[key] = _converted(value, kinds[key], f"{key} of {name}")
    found = dict(arrays or {})
    for key in cls.files:
        if key in values and key not in found:
            found[key] = read_array(Path(values[key]))
    return PhysicsSpec(name, cls(**values), found)


def describe_operators() -> list[tuple[str, str]]:
    """Return each operator's name and examples of it, for help texts."""
    return [(name, (cls.__doc__ or "").split("\n")[0].replace("``", "").rstrip(".")) for name, cls in OPERATORS.items()]


def read_array(path: Path) -> Tensor:
    """Read a mask or a kernel, ``(y, x)``, from an image or a file of an array.

    Raises
    ------
    FileFormatError, DataError
        A file that cannot be read, or of something else.
    """
    from recon import datasets

    opened = datasets.open(path)
    if not isinstance(opened, datasets.Image):
        raise FileFormatError("the file holds no mask or kernel", file=path, expected="an image or one array")
    pixels = np.asarray(opened.pixels[0])
    if pixels.ndim == 3:
        pixels = pixels.mean(-1)
    if opened.n_slices != 1 or pixels.dtype.kind not in "biuf":
        raise DataError("a mask or kernel is one real array (y, x)", file=path, found=opened.pixels.shape)
    return torch.from_numpy(np.ascontiguousarray(pixels, dtype=np.float32))


def _known(word: str, words: Iterable[str], what: str) -> str:
    words = list(words)
    if word in words:
        return word
    near = difflib.get_close_matches(word, words, n=1)
    raise OptionError(
        f"there is no {what} {word!r}",
        expected=f"one of {', '.join(words)}",
        cure=f"Did you mean {near[0]}?" if near else None,
    )


def _converted(text: str, kind: Any, what: str) -> Any:
    """Turn a value into what its key takes."""
    options = [k for k in typing.get_args(kind) if k is not types.NoneType] if _is_union(kind) else [kind]
    kind = options[0]
    if typing.get_origin(kind) is Literal:
        return _known(text, typing.get_args(kind), what)
    try:
        if kind is bool:
            return {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}[text.lower()]
        if kind is int:
            return int(text)
        if kind is float:
            return float(text)
        if kind is str:
            return text
        sides = [int(side) for side in text.lower().split("x")]
        height, width = sides * 2 if len(sides) == 1 else sides
    except (ValueError, KeyError):
        wanted = {bool: "yes or no", int: "a whole number", float: "a number"}.get(kind, "two numbers, such as 16x16")
        raise OptionError(f"{what} is not understood", found=text, expected=wanted) from None
    return height, width


def _is_union(kind: Any) -> bool:
    return isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union


def _written(value: object) -> str:
    """Write a value so that reading gives the same again; numbers without digits that they do not need."""
    if isinstance(value, tuple):
        return "x".join(map(str, value))
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if not isinstance(value, float) or float(text) == value else repr(value)
