"""What all runs of a replay share: start weights, the pool as training data, embeddings.

Made once per replay, kept in its folder, and read by the processes of all runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from backend.errors import HardestFirstError, SimulationError
from backend.progress import Progress
from backend.selection.embeddings import Whitening, join_rows
from backend.settings import Settings
from backend.simulate.datasets import LabelledImage, ReplayData
from backend.simulate.plan import ReplayPlan
from backend.simulate.start import write_start
from backend.training.dataset import TrainingImage, write_dataset
from backend.vision.encoder import DetectorEncoder, Encoder
from backend.vision.models import Models, Observation
from backend.vision.pipeline import observe_all

_BATCH = 32


@dataclass(frozen=True, eq=False)
class Stage:
    """A replay that is ready to run.

    Args:
        plan: what to do.
        data: the images and their truth.
        settings: the backend's.
    """

    plan: ReplayPlan
    data: ReplayData
    settings: Settings

    @property
    def base(self) -> Path:
        """The weights that every training starts from."""
        return self.plan.out / "base.pt"

    @property
    def pool_folder(self) -> Path:
        """The whole pool as a YOLO data set; an image's name there is `image_name`."""
        return self.plan.out / "pool"

    @property
    def embeddings_file(self) -> Path:
        """(P, D) unit rows, the whole images of the pool."""
        return self.plan.out / "embeddings.npy"

    def embeddings(self) -> NDArray[np.float32]:
        """The content of `embeddings_file`."""
        rows: NDArray[np.float32] = np.load(self.embeddings_file)
        return rows

    def joined(self, objects: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """(P, D + E) the rows that images are compared by; `objects`: (P, E)."""
        images = self.embeddings()
        whitened = self.settings.encoder == "detector"
        views = [(images, Whitening.fit(images) if whitened else None)]
        if objects is not None:
            views.append((objects, Whitening.fit(objects)))
        return join_rows(views).astype(np.float32)

    def encoder(self, device: str) -> Encoder:
        """What embeds images and objects, the same in all rounds.

        Raises:
            WeightsError: it cannot be loaded.
        """
        from backend.vision.clip import load_clip
        from backend.vision.yolo import load_detector

        if self.settings.encoder == "detector":
            return DetectorEncoder(load_detector(self.base, device=device, export_dir=None))
        return load_clip(
            self.settings.clip_model,
            self.settings.clip_pretrained,
            model_dir=self.settings.model_dir,
            device=device,
            export_dir=self.settings.export_dir,
        )


def image_name(place: int) -> str:
    """The name of an image of the pool in the training data, by its place in the pool."""
    return f"{place:06d}"


def prepare(stage: Stage, on_progress: Progress) -> None:
    """Make what is not there yet. Every image of the data set is decoded, so none fails later.

    Raises:
        SimulationError: an image cannot be decoded, or is none.
        WeightsError: the model, or the encoder's weights, cannot be loaded.
        TrainingError: the pool cannot be written.
    """
    from backend.vision.engines import choose_device

    stage.plan.out.mkdir(parents=True, exist_ok=True)
    if not stage.base.exists():
        write_start(stage.plan.model, stage.base, stage.data.class_names, stage.plan.image_size)
    _write_pool(stage, on_progress)
    if stage.embeddings_file.exists():
        return
    device = choose_device(stage.settings.device)
    models = base_models(stage, device)
    for done, _ in enumerate(observe(models, stage.data.test), start=1):
        on_progress("test set", done, len(stage.data.test))
    rows = []
    for done, seen in enumerate(observe(models, stage.data.pool, embed=True), start=1):
        rows.append(seen.embedding)
        on_progress("embeddings", done, len(stage.data.pool))
    partial = stage.embeddings_file.with_suffix(".partial.npy")
    np.save(partial, np.array(rows, dtype=np.float32))
    partial.replace(stage.embeddings_file)


def base_models(stage: Stage, device: str) -> Models:
    """The start weights as a detector, beside the encoder."""
    from backend.vision.yolo import load_detector

    encoder = stage.encoder(device)
    if isinstance(encoder, DetectorEncoder):
        return Models(encoder.detector, encoder)
    return Models(load_detector(stage.base, device=device, export_dir=None), encoder)


def observe(
    models: Models, images: Sequence[LabelledImage], *, embed: bool = False
) -> Iterator[Observation]:
    """What models make of images, in order.

    Args:
        models: the detector and the encoder.
        images: what to look at.
        embed: embed whole images too.

    Raises:
        SimulationError: an image cannot be decoded.
    """
    outcomes = observe_all(
        models,
        images,
        lambda image: image.path.read_bytes(),
        embedded=lambda image: not embed,
        batch_size=_BATCH,
        threads=2,
    )
    for image, outcome in outcomes:
        if isinstance(outcome, HardestFirstError):
            raise SimulationError(f"{image.path}: {outcome}")
        yield outcome


def _write_pool(stage: Stage, on_progress: Progress) -> None:
    pool = stage.data.pool
    images = (
        TrainingImage(
            image_name(place),
            image.path.read_bytes(),
            image.truth.xyxy,
            image.truth.class_ids.astype(np.int64),
        )
        for place, image in enumerate(pool)
    )
    summary = write_dataset(
        stage.pool_folder,
        images,
        stage.data.class_names,
        image_size=stage.plan.image_size,
        on_progress=lambda done: on_progress("pool", done, len(pool)),
    )
    for name, why in summary.skipped.items():
        raise SimulationError(f"{pool[int(name)].path}: {why}")
