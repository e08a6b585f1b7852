"""The finding drawn on the image, for people: a PNG with legend, model, probability and a banner."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from wetread.domain.finding import Finding, Reading
from wetread.errors import InvalidInput
from wetread.results.narrative import NOT_VERIFIED, finding_text, model_label

_MINIMUM_WIDTH = 512
_DEFAULT_COLOUR = (255, 196, 0)
_BANNER = (176, 0, 32)
_FONT_SIZE = 15
_MARGIN = 8


def picture(
    pixels: NDArray[np.uint8],
    reading: Reading,
    *,
    masks: dict[str, NDArray[np.bool_]] | None = None,
) -> bytes:
    """A PNG of one image, rows x columns or rows x columns x 3, as it would be shown (window already applied).

    `masks` gives, by finding key, rows x columns drawn as a tinted region; a finding with an outline is drawn without.
    Raises InvalidInput for other shapes.
    """
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] != 3):
        raise InvalidInput("a picture needs 8-bit pixels, rows x columns or rows x columns x 3")
    masks = masks or {}
    if any(mask.shape != pixels.shape[:2] for mask in masks.values()):
        raise InvalidInput("a mask must have the rows and columns of its image")
    shown = np.repeat(pixels[..., np.newaxis], 3, axis=2) if pixels.ndim == 2 else pixels.copy()
    for finding in reading.findings:
        if finding.key in masks:
            _tint(shown, masks[finding.key], _colour(finding))

    scale = max(1, -(-_MINIMUM_WIDTH // shown.shape[1]))
    image = Image.fromarray(shown).resize((shown.shape[1] * scale, shown.shape[0] * scale), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(image)
    for finding in reading.findings:
        if finding.outline:
            points = [(column * scale, row * scale) for column, row in (*finding.outline, finding.outline[0])]
            draw.line(points, fill=_colour(finding), width=max(2, scale))
    return _png(_framed(image, reading))


def _tint(shown: NDArray[np.uint8], mask: NDArray[np.bool_], colour: tuple[int, int, int]) -> None:
    """Colours a region so that the image stays visible under it, and its border fully."""
    inside = mask.copy()
    inside[1:-1, 1:-1] = mask[1:-1, 1:-1] & mask[:-2, 1:-1] & mask[2:, 1:-1] & mask[1:-1, :-2] & mask[1:-1, 2:]
    shown[mask] = (0.6 * shown[mask] + 0.4 * np.array(colour)).astype(np.uint8)
    shown[mask & ~inside] = colour


def _framed(image: Image.Image, reading: Reading) -> Image.Image:
    """The image between a banner and a legend."""
    font = ImageFont.load_default(_FONT_SIZE)
    banner = "DEMO - NOT FOR CLINICAL USE" if reading.demo else "AI - NOT FOR DIAGNOSIS"
    if reading.model.not_for_clinical_use and not reading.demo:
        banner = "AI - NOT FOR CLINICAL USE"
    legend = [(finding_text(f), _colour(f)) for f in reading.findings]
    legend += [(text, (255, 255, 255)) for text in (f"Model: {model_label(reading.model)}", NOT_VERIFIED)]
    wrapped = [(line, colour) for text, colour in legend for line in _wrapped(text, font, image.width - 2 * _MARGIN)]
    line_height = _FONT_SIZE + 5
    top = line_height + _MARGIN
    height = top + image.height + len(wrapped) * line_height + 2 * _MARGIN
    framed = Image.new("RGB", (image.width, height))
    framed.paste(image, (0, top))
    draw = ImageDraw.Draw(framed)
    draw.rectangle((0, 0, image.width, top - 1), fill=_BANNER)
    draw.text((_MARGIN, _MARGIN // 2), banner, fill="white", font=font)
    for number, (line, colour) in enumerate(wrapped):
        draw.text((_MARGIN, top + image.height + _MARGIN + number * line_height), line, fill=colour, font=font)
    return framed


def _wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> Sequence[str]:
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _colour(finding: Finding) -> tuple[int, int, int]:
    return finding.segment.colour if finding.segment else _DEFAULT_COLOUR


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
