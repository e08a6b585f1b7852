"""The declaration of a model package, `manifest.json` of schema `wetread-model/1`: the checked form of the file.

A superset of the MONAI bundle's `metadata.json`: names that MONAI has keep their meaning; what it has no place for
(geometry, DICOM selection, codes, thresholds, digests) is added. Lengths are mm, volumes mL, codes carry FHIR URIs.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from wetread.domain.codes import Coded

_AXIS_OF_LETTER = str.maketrans("LRAPSI", "xxyyzz")


def _one_letter_per_axis(code: str) -> str:
    if sorted(code.translate(_AXIS_OF_LETTER)) != ["x", "y", "z"]:
        raise ValueError("expected one letter each of L/R, A/P and S/I, such as LIA")
    return code


AxisCode = Annotated[str, AfterValidator(_one_letter_per_axis)]
"""Where each array axis leads as its index grows: `SAL` is axis 0 to superior, 1 to anterior, 2 to left."""

Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class Declared(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class ModelFile(Declared):
    file: str = "model.onnx"
    format: Literal["onnx"] = "onnx"
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    bytes: int
    opset: int
    ir_version: int
    precision: Literal["float32", "float16", "bfloat16", "int8"] = "float32"


class Device(Declared):
    """Who answers for the model: FHIR Device, DICOM TID 4019, Contributing Equipment (0018,A001)."""

    manufacturer: str
    model_name: str


class Select(Declared):
    """What the model may be shown. An attribute that the images leave empty is not held against them."""

    modality: tuple[str, ...]
    body_part: tuple[str, ...] = ()
    view_position: tuple[str, ...] = ()
    age_years_max: float | None = None
    age_years_min: float | None = None
    min_images: int = 1
    contrast: Literal["any", "none"] = "any"


class Display(Declared):
    """Film to displayed grey, 0 to 255, bright bone: Modality LUT, VOI LUT or window, polarity (PS3.4 N.2)."""

    op: Literal["display"]


class Resize(Declared):
    """The whole film to rows x columns; the aspect ratio is not kept."""

    op: Literal["resize"]
    rows: int
    columns: int
    interpolation: Literal["bilinear"] = "bilinear"


class Resample(Declared):
    """Slices to a regular grid in patient axes, through true positions. `area` averages where the grid is coarser.

    `fill` stands outside the scan; `minimum` is the scan's least value. `site_spacing_mm` are the finest and the
    coarsest isotropic spacing on which a site may run the model instead.
    """

    op: Literal["resample"]
    axes: AxisCode
    spacing_mm: tuple[Positive, Positive, Positive]
    site_spacing_mm: tuple[Positive, Positive] | None = None
    method: Literal["linear", "area"] = "linear"
    fill: float | Literal["minimum"]


class Clip(Declared):
    op: Literal["clip"]
    minimum: float | None = None
    maximum: float | None = None
    modality: tuple[str, ...] = ()


class HounsfieldToCormack(Declared):
    """Stretches -100 to 100 HU elevenfold, so that soft tissue fills the range (Rorden's Cormack units)."""

    op: Literal["hounsfield_to_cormack"]
    modality: tuple[str, ...] = ()


class ScaleToUint8(Declared):
    """Minimum to 0, the quantile of all that lies above the minimum to 255, in whole steps."""

    op: Literal["scale_to_uint8"]
    upper_quantile: Share
    modality: tuple[str, ...] = ()


class QuantileNormalise(Declared):
    """Quantile `low` to 0 and `high` to 1, clipped."""

    op: Literal["quantile_normalise"]
    low: Share
    high: Share
    modality: tuple[str, ...] = ()


class MinMax(Declared):
    op: Literal["min_max"]
    modality: tuple[str, ...] = ()


class Crop(Declared):
    """To the box of all voxels above a value, plus a margin."""

    op: Literal["crop"]
    above: float
    margin_mm: float = 0
    modality: tuple[str, ...] = ()


class Pad(Declared):
    """To multiples of so many voxels, evenly on both sides."""

    op: Literal["pad"]
    multiple: tuple[int, int, int]
    value: float
    modality: tuple[str, ...] = ()


FilmStep = Annotated[Display | Resize, Field(discriminator="op")]
VolumeStep = Annotated[
    Resample | Clip | HounsfieldToCormack | ScaleToUint8 | QuantileNormalise | MinMax | Crop | Pad,
    Field(discriminator="op"),
]


class FilmInput(Declared):
    """Each image of the series by itself, 1 x 1 x rows x columns."""

    kind: Literal["film"]
    name: str
    steps: tuple[FilmStep, ...]

    @model_validator(mode="after")
    def _starts_with_display(self) -> FilmInput:
        if not self.steps or not isinstance(self.steps[0], Display):
            raise ValueError("the first step of a film must be `display`")
        return self


class VolumeInput(Declared):
    """The series as one volume, 1 x 1 x the three axes of the grid."""

    kind: Literal["volume"]
    name: str
    steps: tuple[VolumeStep, ...]

    @model_validator(mode="after")
    def _starts_with_one_resample(self) -> VolumeInput:
        if [isinstance(s, Resample) for s in self.steps] != [True] + [False] * (len(self.steps) - 1):
            raise ValueError("the first step of a volume, and no other, must be `resample`")
        return self

    @property
    def grid(self) -> Resample:
        first = self.steps[0]
        assert isinstance(first, Resample)  # noqa: S101  (validated above)
        return first


class Probability(Declared):
    """One number per film."""

    kind: Literal["probability"]
    name: str


class Embedding(Declared):
    """A feature vector per film, for drift monitoring; never a finding."""

    kind: Literal["embedding"]
    name: str


class ProbabilityMap(Declared):
    """A probability per voxel, cut into the mask of one segment."""

    kind: Literal["probability_map"]
    name: str
    segment: int
    threshold: Share
    connectivity: Literal[6, 18, 26] = 6
    keep: Literal["all", "largest"] = "all"
    min_component_ml: float = 0


class LabelMap(Declared):
    """A label per voxel; `segments` says which label is which segment."""

    kind: Literal["label_map"]
    name: str
    segments: dict[int, int]


Output = Annotated[Probability | Embedding | ProbabilityMap | LabelMap, Field(discriminator="kind")]


class DeclaredSegment(Declared):
    number: Annotated[int, Field(ge=1)]
    label: str
    category: Coded
    type: Coded
    colour: tuple[int, int, int] = (255, 0, 0)


class DeclaredMeasurement(Declared):
    key: str
    quantity: Literal["volume"]
    code: Coded
    unit: Literal["mL"]
    unit_display: str = "milliliter"


class DeclaredFinding(Declared):
    """From a probability (present at `threshold` or above) or from a segment (present at `present_at_ml` or above).

    With neither limit the finding measures and does not judge presence. `critical` is claimed only when present.
    """

    key: Annotated[str, Field(pattern=r"^[a-z0-9-]+$")]
    code: Coded
    output: str | None = None
    threshold: Annotated[Decimal, Field(ge=0, le=1)] | None = None
    segment: int | None = None
    present_at_ml: Annotated[Decimal, Field(gt=0)] | None = None
    critical: bool = False
    body_site: Coded | None = None
    measurements: tuple[DeclaredMeasurement, ...] = ()

    @model_validator(mode="after")
    def _one_source(self) -> DeclaredFinding:
        if (self.output is None) == (self.segment is None):
            raise ValueError("a finding comes from an `output` or from a `segment`, one of the two")
        if self.output is not None and (self.threshold is None or self.present_at_ml or self.measurements):
            raise ValueError("a finding from an output needs `threshold` and takes no volume")
        if self.segment is not None and self.threshold is not None:
            raise ValueError("a finding from a segment is judged by `present_at_ml`, not `threshold`")
        if self.critical and self.threshold is None and self.present_at_ml is None:
            raise ValueError("a critical finding needs a limit: `threshold` or `present_at_ml`")
        return self


class RuntimeLimits(Declared):
    """What a run may take. `cpu_memory_arena` off gives the peak back to the system after each volume."""

    max_shape: tuple[int, ...] = ()
    cpu_memory_arena: bool = True
    timeout_s: int = 600
    peak_memory_mb: int | None = None


class Manifest(Declared):
    schema_: Literal["wetread-model/1"] = Field(alias="schema")
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    version: str
    changelog: dict[str, str] = {}
    task: str
    description: str = ""
    intended_use: str
    not_for_clinical_use: bool
    synthetic: bool
    authors: str
    license: str
    license_files: tuple[str, ...]
    data_source: str
    data_license: str = ""
    references: tuple[str, ...] = ()
    eval_metrics: dict[str, dict[str, Any]] = {}
    model: ModelFile
    device: Device
    select: Select
    network_data_format: dict[str, Any] = {}
    input: Annotated[FilmInput | VolumeInput, Field(discriminator="kind")]
    outputs: tuple[Output, ...]
    segments: tuple[DeclaredSegment, ...] = ()
    findings: tuple[DeclaredFinding, ...]
    runtime: RuntimeLimits = RuntimeLimits()

    @model_validator(mode="after")
    def _names_agree(self) -> Manifest:
        numbers = [s.number for s in self.segments]
        if numbers != list(range(1, len(numbers) + 1)):
            raise ValueError("segments must be numbered 1, 2, 3 … in order (PS3.3 C.8.20.2, Segment Number)")
        masked = [o.segment for o in self.outputs if isinstance(o, ProbabilityMap)]
        masked += [n for o in self.outputs if isinstance(o, LabelMap) for n in o.segments.values()]
        if sorted(masked) != numbers:
            raise ValueError("every segment must come from exactly one output")
        probabilities = {o.name for o in self.outputs if isinstance(o, Probability)}
        for finding in self.findings:
            if finding.output is not None and finding.output not in probabilities:
                raise ValueError(f"finding {finding.key!r} names no probability output: {finding.output!r}")
            if finding.segment is not None and finding.segment not in numbers:
                raise ValueError(f"finding {finding.key!r} names no segment: {finding.segment}")
        wrong = Probability | Embedding if isinstance(self.input, VolumeInput) else ProbabilityMap | LabelMap
        if any(isinstance(o, wrong) for o in self.outputs):
            raise ValueError("a film gives probabilities and embeddings, a volume gives maps")
        return self
