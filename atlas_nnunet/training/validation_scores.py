"""The scores of nnU-Net's final validation, with unlabelled structures left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder, save_summary_json
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter

from atlas_nnunet.artefacts import whole_file
from atlas_nnunet.execution import Workers, print_refused
from atlas_nnunet.host import read_json
from atlas_nnunet.labelmap import Coding
from atlas_nnunet.scoring.evaluation import (
    ENDING,
    NAME,
    Task,
    conversion_of,
    evaluate,
    references_in,
    sentences,
)
from atlas_nnunet.scoring.stock_summary import heed_status
from atlas_nnunet.scoring.tolerances import FALLBACK_MM


def score_folder(
    references: str,
    predictions: str,
    output: str,
    reader: BaseReaderWriter,
    ending: str,
    labels: Sequence[Any],
    ignore_label: int | None = None,
    num_processes: int = 1,
    chill: bool = True,
) -> dict[str, Any]:
    """As the host's `compute_metrics_on_folder`, with its arguments in its order, but unlabelled
    structures do not count; writes evaluation.json beside the summary.

    The summary is written last: a training whose summary.json exists is complete.

    Args:
        references: gt_segmentations of the preprocessed data set.
        predictions: Folder of the validation.
        output: Path of summary.json.
        reader: Reads both.
        ending: File ending of the masks.
        labels: Labels or regions, as nnU-Net has them.
        ignore_label: nnU-Net's, or None.
        num_processes: Worker processes.
        chill: As the host's: references without a prediction are passed over.

    Raises:
        SourceError: the data set is ours and its conversion.json is missing, or does not know a
            case.
    """
    summary = compute_metrics_on_folder(
        references, predictions, None, reader, ending, labels, ignore_label, num_processes, chill
    )
    folder = Path(references)
    dataset_json = read_json(folder.parent / "dataset.json", "atlas-nnunet preprocess")
    conversion = conversion_of(folder)
    heeded = heed_status(summary, dataset_json, conversion, output)
    _write_evaluation(folder, Path(predictions), dataset_json, conversion, num_processes)
    with whole_file(Path(output)) as partial:
        save_summary_json(heeded, str(partial))
    return heeded


def _write_evaluation(
    folder: Path,
    predictions: Path,
    dataset_json: Mapping[str, Any],
    conversion: Mapping[str, Any] | None,
    num_processes: int,
) -> None:
    """evaluation.json of the predicted cases: Dice, surface distance, volumes, label status."""
    output = predictions / NAME
    output.unlink(missing_ok=True)  # of another validation
    if dataset_json["file_ending"] != ENDING:
        print(
            f"no {NAME} of this validation: it reads {ENDING} files, and this data set has "
            f"{dataset_json['file_ending']}"
        )
        return
    coding = Coding.of_dataset_json(dataset_json)
    references = {
        case: path
        for case, path in references_in(folder).items()
        if (predictions / path.name).is_file()
    }
    task = Task(
        predictions=predictions,
        references=references,
        folder=folder,
        coding=coding,
        structures=coding.structures,
        conversion=conversion,
        fallback_mm=FALLBACK_MM,
    )
    workers = Workers(min(num_processes, len(references)))
    result = evaluate(task, workers, describe="final validation", shown=False)
    result.write(output)
    for sentence in sentences(result.content, output):
        print(sentence)
    print_refused(result.refused)
