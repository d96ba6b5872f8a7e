"""Write docs/detection_segmentation.md: its template with what was counted and measured in place of its {{marks}}.

    python scripts/make_dense_page.py

takes a minute. Networks are made and run on the meta device, where nothing is computed.
"""

import json
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
import yaml
from make_models_page import DOCS, fill, giga, mega, table
from record_runs import RECORD

from acmix.analysis.complexity import Complexity, count_complexity
from acmix.tasks.configs import shipped_configs
from acmix.tasks.dense.backbone import BackboneSettings
from acmix.tasks.detection.complexity import count_detector
from acmix.tasks.detection.detector import build_detector
from acmix.tasks.detection.settings import DetectorSettings
from acmix.tasks.nested_settings import settings_of
from acmix.tasks.segmentation.decoder import DecoderSettings
from acmix.tasks.segmentation.network import build_segmenter

PAGE, TEMPLATE = DOCS / "detection_segmentation.md", DOCS / "detection_segmentation.template.md"

DETECTION_SIZE, SEGMENTATION_SIZE = (3, 800, 1333), (3, 512, 2048)
COCO_CLASSES, ADE20K_CLASSES = 80, 150
# timm's Swin wants multiples of its patches, 4 pixels; this is the same network for any size (docs/models.md).
SWIN = {"acmix": {"paths": "attention", "rates": "1,1"}}


class Row(NamedTuple):
    """A row of the paper's Table 2, 3 or 4: its words and figures, our configuration, and the network in it.

    Of Table 2 `flops` has the parameters too.
    """

    words: str
    flops: str
    result: str
    config: str
    model: str
    options: Mapping[str, Any] = MappingProxyType({})


TABLE_2 = (
    Row("Semantic FPN, PVT-T", "17M / 158G", "37.1", "ade20k_semantic_fpn_pvt_tiny", "pvt_tiny"),
    Row("Semantic FPN, PVT-ACmix-T", "17M / 160G", "42.7", "ade20k_semantic_fpn_pvt_tiny", "acmix_pvt_tiny"),
    Row("Semantic FPN, PVT-S", "28M / 225G", "42.4", "ade20k_semantic_fpn_pvt_small", "pvt_small"),
    Row("Semantic FPN, PVT-ACmix-S", "29M / 228G", "46.4", "ade20k_semantic_fpn_pvt_small", "acmix_pvt_small"),
    Row("UperNet, Swin-T", "60M / 945G", "44.5", "ade20k_upernet_swin_tiny", "acmix_swin_tiny", SWIN),
    Row("UperNet, Swin-ACmix-T", "60M / 950G", "45.3", "ade20k_upernet_swin_tiny", "acmix_swin_tiny"),
    Row("UperNet, Swin-S", "81M / 1038G", "47.6", "ade20k_upernet_swin_small", "acmix_swin_small", SWIN),
    Row("UperNet, Swin-ACmix-S", "81M / 1043G", "48.7", "ade20k_upernet_swin_small", "acmix_swin_small"),
)
TABLE_3 = (
    Row("RetinaNet 1x, ResNet-50", "250G", "36.7", "coco_retinanet_resnet_1x", "resnet50"),
    Row("RetinaNet 1x, SASA-50", "226G", "36.8", "coco_retinanet_resnet_1x", "attn_resnet50"),
    Row("RetinaNet 1x, ResNet-ACmix-50", "230G", "38.3", "coco_retinanet_resnet_1x", "acmix_resnet50"),
    Row("RetinaNet 1x, SAN-19", "229G", "38.2", "coco_retinanet_san_1x", "san19"),
    Row("RetinaNet 1x, SAN-ACmix-19", "233G", "39.1", "coco_retinanet_san_1x", "acmix_san19"),
)
TABLE_4 = (
    Row("RetinaNet 1x, PVT-T", "230G", "36.7", "coco_retinanet_pvt_1x", "pvt_tiny"),
    Row("RetinaNet 1x, PVT-ACmix-T", "232G", "40.5", "coco_retinanet_pvt_1x", "acmix_pvt_tiny"),
    Row("RetinaNet 3x, PVT-T", "230G", "39.4", "coco_retinanet_pvt_3x", "pvt_tiny"),
    Row("RetinaNet 3x, PVT-ACmix-T", "232G", "42.0", "coco_retinanet_pvt_3x", "acmix_pvt_tiny"),
    Row("Mask R-CNN 3x, Swin-T", "272G", "46.0", "coco_mask_rcnn_swin_3x", "acmix_swin_tiny", SWIN),
    Row("Mask R-CNN 3x, Swin-ACmix-T", "275G", "47.0", "coco_mask_rcnn_swin_3x", "acmix_swin_tiny"),
    Row("Cascade Mask R-CNN 3x, Swin-T", "750G", "50.5", "coco_cascade_mask_rcnn_swin_3x", "acmix_swin_tiny", SWIN),
    Row("Cascade Mask R-CNN 3x, Swin-ACmix-T", "754G", "51.1", "coco_cascade_mask_rcnn_swin_3x", "acmix_swin_tiny"),
)


def counted(row: Row, **heads: Any) -> Complexity:
    """Parameters, and the multiply-adds of one image of the paper's size; `heads` change the detector's."""
    settings = yaml.safe_load(shipped_configs()[row.config].read_text(encoding="utf-8"))["model"]["init_args"]
    arguments = {**(settings.get("model_args") or {}), **row.options}
    backbone = settings_of(BackboneSettings, {**(settings.get("backbone") or {}), "model_args": arguments})
    with torch.device("meta"):
        if "detector" in settings:
            settings["detector"]["heads"] = {**settings["detector"].get("heads", {}), **heads}
            detector = build_detector(
                row.model, COCO_CLASSES, 3, backbone, settings_of(DetectorSettings, settings["detector"])
            )
            return count_detector(detector, DETECTION_SIZE)
        decoder = settings_of(DecoderSettings, settings["decoder"])
        return count_complexity(build_segmenter(row.model, ADE20K_CLASSES, 3, backbone, decoder), SEGMENTATION_SIZE)


def size_table(rows: Iterable[Row], result: str, printed: str = "FLOPs") -> str:
    lines = []
    for row in rows:
        size = counted(row)
        lines.append([row.words, f"`{row.config}`", mega(size.parameters), giga(size.macs), row.flops, row.result])
    return table(f"row, configuration, parameters, MACs, paper: {printed}, {result}", lines, text_columns=2)


def run_table(task: str) -> str:
    """What trainings reached, ACmix and its control beside each other."""
    lines = []
    for run in json.loads(RECORD.read_text(encoding="utf-8"))["runs"]:
        if run["monitor"] != task:
            continue
        best = run["best"]
        names = ("val/map_50", "val/map", "val/map_75") if task == "val/map_50" else ("val/miou", "val/pixel_accuracy")
        figures = [f"{100 * best[name]:.1f} %" for name in names]
        minutes = f"{run['training_seconds'] / 60:.0f} min"
        lines.append([run["kind"], f"`{run['model']}`", *figures, f"{best['epoch']:.0f} of {run['epochs']}", minutes])
    words = "AP50, AP, AP75" if task == "val/map_50" else "mIoU, pixel accuracy"
    return table(f"what, network, {words}, epoch, training", lines, text_columns=2)


def machines() -> str:
    """Where the runs were made, each once."""
    origins = {json.dumps(run["origin"], sort_keys=True) for run in json.loads(RECORD.read_text())["runs"]}
    told = []
    for text in sorted(origins):
        origin = json.loads(text)
        versions = ", ".join(f"{name} {version}" for name, version in origin["versions"].items() if version)
        changed = " with changes" if origin["dirty"] else ""
        told.append(
            f"{origin['device']}, {origin['kernels']} kernels, {versions}, commit {origin['commit'][:10]}{changed}"
        )
    return "; ".join(told)


def parts() -> dict[str, str]:
    """What stands in the place of each mark."""
    return {
        "table2": size_table(TABLE_2, "mIoU", "parameters / FLOPs"),
        "table3": size_table(TABLE_3, "box AP"),
        "table4": size_table(TABLE_4, "box AP"),
        "bccd": run_table("val/map_50"),
        "camvid": run_table("val/miou"),
        "machines": machines(),
        "class_specific": mega(
            next(counted(row, class_agnostic=False) for row in TABLE_4 if "Cascade" in row.words).parameters
        ),
    }


def page() -> str:
    return fill(TEMPLATE, parts())


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"Written: {PAGE}")
