"""Images that cannot be learned from: one line each, with the way out, before anything is written."""

import re
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest
from conftest import planned, train_run
from images import PIXELS, chosen, config, dataset_of, folder_of
from PIL import Image

from qpa.config import Config, parse
from qpa.config.composing import composed
from qpa.errors import ConfigError


def refused(found: Config, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as error:
        train_run(found)
    assert "\n" not in str(error.value)
    assert not Path(str(found.run_dir)).exists()


def other_size(folder: Path) -> None:
    Image.fromarray(PIXELS[0]).resize((9, 8)).save(folder / "1" / "z.png")


def colour(folder: Path) -> None:
    Image.fromarray(PIXELS[0]).convert("RGB").save(folder / "1" / "z.png")


def corrupt(folder: Path) -> None:
    (folder / "1" / "z.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")


def cut_off(folder: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (8, 8), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "1" / "z.png")
    (folder / "1" / "z.png").write_bytes((folder / "1" / "z.png").read_bytes()[:90])


def deep(folder: Path) -> None:
    Image.fromarray(PIXELS[0].astype(np.uint16) * 256).save(folder / "1" / "z.png")


def single(folder: Path) -> None:
    (folder / "7").mkdir()
    Image.fromarray(PIXELS[0]).save(folder / "7" / "z.png")


def empty_class(folder: Path) -> None:
    (folder / "7").mkdir()
    (folder / "7" / "notes.txt").write_text("no image")


def one_class(folder: Path) -> None:
    for name in ("1", "2"):
        (folder / name).rename(folder.parent / name)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (other_size, r"0000.png is 8 x 8 in gray, and .*z.png is 9 x 8 in gray; data.size=8 resizes all"),
        (colour, r"z.png is 8 x 8 in colour; data.channels=3 repeats gray, data.channels=1 leaves colour out"),
        (corrupt, r"z.png cannot be read as an image \(.*\); mend it, or take it out"),
        (cut_off, r"z.png cannot be read as an image \(.*\); mend it, or take it out"),
        (deep, r"z.png has numbers that are no bytes \(mode I;16\); save it with 8 bits a channel"),
        (single, r"class 7 has 1 image, too few: val, test take 2 of each such class and leave none to train on; give more"),
        (empty_class, r"7: has no image that Pillow reads; take the folder away, or give some"),
        (one_class, r"all 10 images have the same class \(0\), so that nothing can be learned"),
    ],
)
def test_image_that_cannot_be_used_is_one_line(tmp_path: Path, spoil: Callable[[Path], None], words: str) -> None:
    folder = folder_of(tmp_path / "digits", chosen())
    spoil(folder)
    refused(config(tmp_path, data=folder), f"^data.folder={re.escape(str(folder))}.*{words}")


def test_what_a_file_manager_leaves_beside_images_is_no_image(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "digits", chosen())
    (folder / "1" / "._0000.png").write_bytes(b"Mac OS X")
    assert planned(config(tmp_path, data=folder)).task.pictures["train"].names == ("0", "1", "2")


def test_no_folder_and_folders_without_classes_are_one_line_each(tmp_path: Path) -> None:
    refused(config(tmp_path, data=tmp_path / "none"), r"^data.folder=.*/none: there is no such folder")
    refused(config(tmp_path, "data=image_folder"), r"^data.folder=None: give a folder that holds one folder of images for each class")
    (tmp_path / "empty").mkdir()
    refused(config(tmp_path, data=tmp_path / "empty"), r"is empty; put the images of each class into a folder of its name")
    Image.fromarray(PIXELS[0]).save(tmp_path / "empty" / "a.png")
    refused(config(tmp_path, data=tmp_path / "empty"), r"has images, but none in a folder that names its class; put the images")


@pytest.mark.parametrize("model", ["lite0", "vit"])
def test_one_channel_where_three_are_needed_is_one_line_with_the_way_out(tmp_path: Path, model: str) -> None:
    three = ["data.channels=null"] if model == "lite0" else ["model.architecture.num_channels=3"]
    folder = folder_of(tmp_path / "digits", chosen())
    refused(
        config(tmp_path, *three, data=folder, model=model), r"its images have one channel, and this model reads 3; data.channels=3 repeats"
    )


def test_three_channels_where_one_is_read_are_one_line(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "digits", chosen())
    refused(
        config(tmp_path, "data.channels=3", data=folder),
        r"its images have 3 channels, and this model reads 1; data.channels=1 makes them gray",
    )


def test_held_out_class_that_no_training_image_has_is_one_line(tmp_path: Path) -> None:
    folder, test = folder_of(tmp_path / "digits", chosen()), folder_of(tmp_path / "test", chosen(4))
    refused(config(tmp_path, f"data.test_folder={test}", data=folder), r"^data.test_folder=.*: has class 3, which no training image has")


def test_held_out_images_of_another_size_are_one_line(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "digits", chosen())
    test = folder_of(tmp_path / "test", [(np.kron(pixels, np.ones((2, 2), np.uint8)), label) for pixels, label in chosen()])
    refused(config(tmp_path, f"data.test_folder={test}", data=folder), r"^data.test_folder=.*its images are \(1, 16, 16\)")


def saved(place: Path, dataset: datasets.Dataset) -> list[str]:
    dataset.save_to_disk(place)
    return ["data=image_hub", f"data.hub={place}", "data.val_fraction=0.2", "data.test_fraction=0.3"]


def test_data_set_without_labels_or_images_is_one_line(tmp_path: Path) -> None:
    dataset = dataset_of(chosen())
    refused(
        config(tmp_path, *saved(tmp_path / "a", dataset.remove_columns("label"))),
        r"^data.label_column=None: no column seems to hold labels",
    )
    refused(
        config(tmp_path, *saved(tmp_path / "b", dataset.remove_columns("image"))),
        r"^data.image_column=None: no column seems to hold images",
    )
    named = [*saved(tmp_path / "c", dataset), "data.label_column=kind"]
    refused(config(tmp_path, *named), r"^data.label_column=kind: there is no such column; there are image, label")


@pytest.mark.parametrize("missing", [None, -1])
def test_row_without_a_label_is_one_line(tmp_path: Path, missing: int | None) -> None:
    rows = chosen()
    dataset = dataset_of(rows, label=[*(label for _, label in rows[:-1]), missing])
    refused(config(tmp_path, *saved(tmp_path / "a", dataset)), rf"row {len(rows) - 1} of train has no label; labels are missing there")


@pytest.mark.parametrize("missing", [float("nan"), -1.0])
def test_number_that_is_no_label_is_one_line(tmp_path: Path, missing: float) -> None:
    rows = chosen()
    labels = [*(float(label) for _, label in rows[:-1]), missing]
    dataset = dataset_of(rows).remove_columns("label").add_column("label", labels)
    refused(config(tmp_path, *saved(tmp_path / "a", dataset)), rf"row {len(rows) - 1} of train has no label; labels are missing there")


def test_one_folder_for_two_splits_is_one_line(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "digits", chosen())
    refused(config(tmp_path, f"data.test_folder={folder}/../digits", data=folder), r"^data.test_folder=.*: is data.folder too; give other")


def test_model_or_data_of_another_task_is_one_line(tmp_path: Path) -> None:
    for group, choice in (("model", "smollm2"), ("data", "pydoc")):
        found = parse(composed("train", ["task=vision", "name=tiny", f"{group}={choice}", f"run_dir={tmp_path}/run"]))
        refused(found, rf"^{group}.source=\w+: this task reads no such {group}")


def test_prompts_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    refused(config(tmp_path, "peft=prompt", model="vit"), r"its prompts stand before text, and these are images; choose another")
