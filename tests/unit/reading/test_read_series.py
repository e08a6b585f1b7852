"""The shipped models read real films and volumes, and say what they were measured to say."""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import DataElement, Dataset

from wetread.demo.studies import film, load_cases
from wetread.errors import InvalidInput, Refused, Unsupported, WetreadError
from wetread.reading.models import ModelPackage, load_packages, with_spacing
from wetread.reading.read import read_series
from wetread.reading.runtime import Runtime
from wetread.reading.volume import assemble

REPOSITORY = Path(__file__).parents[3]
FILMS = REPOSITORY / "tests" / "data" / "chest_films"
EXPECTED_FILMS = json.loads((FILMS / "expected.json").read_text())
EXPECTED_PHANTOMS = json.loads((REPOSITORY / "tests" / "data" / "phantoms" / "expected.json").read_text())

Packages = dict[str, ModelPackage]
Study = Callable[[str], list[Dataset]]


@pytest.mark.parametrize("name", EXPECTED_FILMS)
def test_a_childs_chest_film_as_pixels_and_as_dicom(packages: Packages, runtime: Runtime, name: str) -> None:
    expected = EXPECTED_FILMS[name]
    content = (FILMS / name).read_bytes()
    pixels = np.asarray(Image.open(io.BytesIO(content)).convert("L"), dtype=np.float32)
    package = packages["cxr-pneumonia-peds"]
    bare = runtime.run(package, {"image": pixels[None, None]})
    assert bare["p_pneumonia"].item() == pytest.approx(expected["p_pneumonia"], abs=1e-3)
    assert bare["p_view_ap"].item() == pytest.approx(expected["p_view_ap"], abs=1e-3)

    case = load_cases(REPOSITORY / "demo")["chest-film"]
    dataset = film(content, case.patient, case.examination)
    answer = read_series(package, [dataset], runtime)
    (finding,) = answer.findings
    assert float(finding.probability or 0) == pytest.approx(expected["p_pneumonia"], abs=1e-3)
    assert finding.present is (expected["p_pneumonia"] >= 0.682)
    assert not finding.critical
    assert finding.key_image == dataset.SOPInstanceUID
    assert answer.source_instances == (dataset.SOPInstanceUID,)
    assert answer.embedding is not None
    assert answer.embedding.shape == (1280,)
    assert answer.embedding[:4] == pytest.approx(expected["embedding_first4"], abs=1e-3)


@pytest.mark.parametrize(
    ("case", "key", "true_ml"),
    [("head-ct-phantom-bleed", "phantom_9000", 25.27), ("head-ct-phantom-normal", "phantom_9003", 0)],
)
def test_a_phantoms_bleed_through_dicom(
    packages: Packages, runtime: Runtime, study: Study, case: str, key: str, true_ml: float
) -> None:
    answer = read_series(packages["headct-bleed-synthetic"], study(case), runtime)
    (finding,) = answer.findings
    millilitres = finding.measurements[0].value
    assert float(millilitres) == pytest.approx(EXPECTED_PHANTOMS[key]["pred_ml"], abs=0.05)
    assert float(millilitres) == pytest.approx(true_ml, rel=0.1)
    assert finding.present is finding.critical is (true_ml >= 1)
    assert finding.probability is None
    assert answer.warnings == ()


def test_the_bleed_mask_lies_on_the_true_bleed_and_the_key_image_shows_it(
    packages: Packages, runtime: Runtime, study: Study
) -> None:
    answer = read_series(packages["headct-bleed-synthetic"], study("head-ct-phantom-bleed"), runtime)
    with np.load(REPOSITORY / "demo" / "phantoms" / "phantom_9000.npz") as stored:
        truth = stored["bleed"][:, ::-1, ::-1] > 0
    mask = answer.masks[1]
    dice = 2 * (mask & truth).sum() / (mask.sum() + truth.sum())
    assert dice == pytest.approx(EXPECTED_PHANTOMS["phantom_9000"]["dice"], abs=0.005)
    (finding,) = answer.findings
    shown = answer.source_instances.index(finding.key_image or "")
    assert mask[shown].sum() == mask.sum(axis=(1, 2)).max()
    columns, rows = np.array(finding.outline).T
    assert mask[shown, int(rows.mean()), int(columns.mean())]
    assert finding.segment is not None
    assert "synthetic" in finding.segment.label


def test_the_real_head_ct_has_no_bleed(packages: Packages, runtime: Runtime, head_ct: list[Dataset]) -> None:
    """A check of the wiring only: this scan was the model's training background."""
    (finding,) = read_series(packages["headct-bleed-synthetic"], head_ct, runtime).findings
    assert finding.measurements[0].value == Decimal("0.0")
    assert finding.present is False
    assert finding.segment is None
    assert finding.key_image is None


@pytest.mark.slow
def test_the_brain_of_the_real_head_ct_at_1_mm(packages: Packages, runtime: Runtime, head_ct: list[Dataset]) -> None:
    answer = read_series(packages["brain-extract-mindgrab"], head_ct, runtime)
    (finding,) = answer.findings
    assert float(finding.measurements[0].value) == pytest.approx(1507, rel=0.02)
    assert finding.present is None
    assert answer.masks[1].shape == (28, 512, 512)
    with np.load(REPOSITORY / "tests" / "data" / "head_ct" / "brain_mask_1mm.npz") as stored:
        kept = np.unpackbits(stored["packed"]).sum() / 1000
    assert float(finding.measurements[0].value) == pytest.approx(kept, rel=0.002)


@pytest.mark.slow
def test_the_brain_of_the_real_head_ct_on_a_coarser_grid(
    packages: Packages, runtime: Runtime, head_ct: list[Dataset]
) -> None:
    package = packages["brain-extract-mindgrab"]
    answer = read_series(package, head_ct, runtime, spacing_mm=1.5)
    assert float(answer.findings[0].measurements[0].value) == pytest.approx(1507, rel=0.02)
    assert with_spacing(package, 1.5).identity != package.identity


def test_a_label_map_gives_a_segment_and_a_volume_per_label(packages: Packages, runtime: Runtime, study: Study) -> None:
    """The tiny tissue model on a phantom relabelled MR: wiring and geometry, not anatomy."""
    slices = study("head-ct-phantom-normal")
    for dataset in slices:
        dataset.Modality = "MR"
    answer = read_series(packages["brain-tissue-gwm-tiny"], slices, runtime)
    assert [finding.key for finding in answer.findings] == ["white-matter-volume", "grey-matter-volume"]
    assert set(answer.masks) == {1, 2}
    assert not (answer.masks[1] & answer.masks[2]).any()
    for number, finding in enumerate(answer.findings, start=1):
        assert float(finding.measurements[0].value) == pytest.approx(answer.masks[number].sum() * 0.016, abs=0.06)
    assert sum(finding.measurements[0].value for finding in answer.findings) > 0


def _package_answering(
    make_package: Callable[..., Path], onnx_file: Callable[..., bytes], nodes: list[tuple[str, list[str], list[str]]]
) -> ModelPackage:
    outputs = ["p_pneumonia", "p_view_ap", "embedding"]
    answers = [*nodes, *(("Identity", ["answer"], [name]) for name in outputs)]
    content = onnx_file(answers, "image", outputs)
    return load_packages(make_package("cxr-pneumonia-peds", content=content))["cxr-pneumonia-peds"]


def test_a_model_that_returns_nan_is_refused(
    make_package: Callable[..., Path], onnx_file: Callable[..., bytes], runtime: Runtime, study: Study
) -> None:
    zero_by_zero = [("Sub", ["image", "image"], ["zero"]), ("Div", ["zero", "zero"], ["answer"])]
    package = _package_answering(make_package, onnx_file, zero_by_zero)
    with pytest.raises(Refused, match="the model returned a value that is not a number"):
        read_series(package, study("chest-film"), runtime)


def test_a_probability_above_one_is_refused(
    make_package: Callable[..., Path], onnx_file: Callable[..., bytes], runtime: Runtime, study: Study
) -> None:
    package = _package_answering(make_package, onnx_file, [("Identity", ["image"], ["answer"])])
    with pytest.raises(Refused, match="outside 0 to 1"):
        read_series(package, study("chest-film"), runtime)


@pytest.mark.parametrize(
    ("keyword", "value", "reason"),
    [
        ("Modality", "MG", "its modality is not CR or DX"),
        ("BodyPartExamined", "HAND", "its body part"),
        ("PatientAge", "044Y", "older than 17"),
        ("ViewPosition", "LL", "no film of a view"),
    ],
)
def test_a_film_outside_the_models_purpose_is_refused_with_the_reason(
    packages: Packages, runtime: Runtime, study: Study, keyword: str, value: str, reason: str
) -> None:
    (dataset,) = study("chest-film")
    setattr(dataset, keyword, value)
    with pytest.raises(Unsupported, match=reason):
        read_series(packages["cxr-pneumonia-peds"], [dataset], runtime)


def test_the_age_of_an_adult_is_found_from_the_dates(packages: Packages, runtime: Runtime, study: Study) -> None:
    (dataset,) = study("chest-film")
    del dataset.PatientAge
    dataset.PatientBirthDate = "20081121"
    assert read_series(packages["cxr-pneumonia-peds"], [dataset], runtime).findings
    dataset.PatientBirthDate = "20081120"
    with pytest.raises(Unsupported, match="older than 17"):
        read_series(packages["cxr-pneumonia-peds"], [dataset], runtime)


def test_the_finding_of_several_films_is_that_of_the_most_suspicious(
    packages: Packages, runtime: Runtime, study: Study
) -> None:
    normal, ill, lateral = study("chest-film-normal")[0], study("chest-film")[0], study("chest-film")[0]
    lateral.ViewPosition, lateral.SOPInstanceUID = "LL", "2.25.1"
    answer = read_series(packages["cxr-pneumonia-peds"], [normal, ill, lateral], runtime)
    assert answer.findings[0].key_image == ill.SOPInstanceUID
    assert answer.source_instances == (normal.SOPInstanceUID, ill.SOPInstanceUID)
    assert answer.warnings == ("a film of view LL left out: the model reads AP, PA",)


def test_a_truncated_film_is_refused_with_the_instance(packages: Packages, runtime: Runtime, study: Study) -> None:
    (dataset,) = study("chest-film")
    dataset.PixelData = dataset.PixelData[:99]
    with pytest.raises(InvalidInput, match=str(dataset.SOPInstanceUID)):
        read_series(packages["cxr-pneumonia-peds"], [dataset], runtime)


def test_a_bleed_too_small_for_the_rule_is_measured_but_not_critical(
    packages: Packages, runtime: Runtime, study: Study
) -> None:
    package = packages["headct-bleed-synthetic"]
    rule = package.manifest.findings[0].model_copy(update={"present_at_ml": Decimal("27.1")})
    strict = replace(package, manifest=package.manifest.model_copy(update={"findings": (rule,)}))
    (finding,) = read_series(strict, study("head-ct-phantom-bleed"), runtime).findings
    assert finding.measurements[0].value == Decimal("27.0")
    assert finding.present is False
    assert finding.critical is False


@pytest.mark.parametrize("emptied", [True, False])
@pytest.mark.parametrize("case", ["chest-film", "head-ct-phantom-normal"])
def test_a_header_with_any_one_element_lost_gives_an_answer_or_a_plain_error(
    packages: Packages, runtime: Runtime, study: Study, case: str, emptied: bool
) -> None:
    def reading(spoiled: list[Dataset]) -> object:
        if case == "chest-film":
            return read_series(packages["cxr-pneumonia-peds"], spoiled, runtime)
        return assemble(spoiled)

    slices = study(case)[:6]
    refused = 0
    for element in list(slices[0]):
        spoiled = copy.deepcopy(slices)
        for dataset in spoiled:
            if emptied:
                dataset[element.tag] = DataElement(element.tag, element.VR, None)
            else:
                del dataset[element.tag]
        try:
            assert reading(spoiled)
        except WetreadError:
            refused += 1
    assert 5 <= refused < len(slices[0])
