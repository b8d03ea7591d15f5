"""Collections of images in the formats of Sartorius and LIVECell: sequences by cell type, and what is wrong with them."""

import json
from pathlib import Path

import numpy as np
import pytest

from celltrack_jax.data import prepare, sources, store
from celltrack_jax.errors import InputError
from celltrack_jax.io import coco, rle, sartorius
from celltrack_jax.io.png import write_png
from celltrack_jax.io.tif import write_tif
from tests.data import datasets

SHAPE = (20, 30)
CELLS = {1: (slice(2, 8), slice(3, 9)), 2: (slice(10, 16), slice(20, 26))}


def masks(shape=SHAPE) -> list[np.ndarray]:
    labels = datasets.cells(shape, CELLS)
    return [labels == label for label in CELLS]


def row(name: str, kind: str, found=None, shape=SHAPE) -> sartorius.AnnotatedImage:
    texts = tuple(rle.encode(mask) for mask in (masks(shape) if found is None else found))
    return sartorius.AnnotatedImage(name, shape, kind, texts, ())


def write_sartorius(folder: Path, rows: list[sartorius.AnnotatedImage], unlabelled=()) -> Path:
    """Writes a data set with an image of noise for each row and name."""
    for seed, one in enumerate(rows):
        sartorius.write_images(folder / "train", {one.name: datasets.image(one.shape, seed, np.uint8)})
    for seed, name in enumerate(unlabelled):
        image = datasets.image(SHAPE, 100 + seed, np.uint8)
        sartorius.write_images(folder / "train_semi_supervised", {name: image})
    sartorius.write_table(folder / "train.csv", rows)
    return folder


def write_livecell(folder: Path, names: dict[str, str], *, split="train", several=True, shape=SHAPE) -> Path:
    """Writes a data set; names to the category of their cells."""
    images = []
    for seed, (name, kind) in enumerate(names.items()):
        path = folder / "images" / name.split("_")[0] / f"{name}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_tif(path, datasets.image(shape, seed, np.uint8))
        outlines = tuple(coco.polygons(mask, (0, 0)) for mask in masks(shape))
        images.append(coco.CocoImage(path.name, shape, (1, 2), (kind if several else "cell",) * 2, outlines))
    kinds = sorted(set(names.values())) if several else ["cell"]
    path = folder / "annotations" / "LIVECell" / f"livecell_coco_{split}.json"
    coco.write_coco(path, coco.CocoFile(tuple(images), tuple(kinds)))
    return folder


def edit(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def opened(folder: Path, layout: str, **options) -> dict[str, sources.Source]:
    return {source.name: source for source in sources.open_sources(folder, layout, None, **options)}


def prepared(folder: Path, layout: str, target: Path, **options):
    """Returns the sequences of the store by name, and the notes."""
    notes: list[str] = []
    found = sources.open_sources(folder, layout, None, **options)
    prepare.prepare(
        target,
        found,
        layout=layout,
        origin=folder.name,
        spacing_um=None,
        advance=lambda name, frames: None,
        note=notes.append,
    )
    return {sequence.name: sequence for sequence in store.open_store(target)}, notes


def refused(folder: Path, layout: str, **options) -> str:
    with pytest.raises(InputError) as caught:
        sources.open_sources(folder, layout, None, **options)
    return str(caught.value)


def test_a_type_is_a_sequence_whose_frames_are_its_images(tmp_path):
    rows = [row("b", "cort"), row("a", "cort"), row("c", "astro"), row("d", "cort", shape=(30, 40))]
    folder = write_sartorius(tmp_path / "set", rows, ["shsy5y[diff]_A1-1", "cort_B2", "who_C3"])
    found, notes = prepared(folder, "sartorius", tmp_path / "store")
    assert {
        name: (one.category, one.frame_names, one.shape[1:], one.annotation) for name, one in found.items()
    } == {
        "astro": ("astro", ("c",), (1, 1, *SHAPE), ["full"]),
        "cort": ("cort", ("a", "b"), (1, 1, *SHAPE), ["full"] * 2),
        "cort_30x40": ("cort", ("d",), (1, 1, 30, 40), ["full"]),
        "cort_unlabelled": ("cort", ("cort_B2",), (1, 1, *SHAPE), ["none"]),
        "shsy5y_unlabelled": ("shsy5y", ("shsy5y[diff]_A1-1",), (1, 1, *SHAPE), ["none"]),
        "unlabelled": (None, ("who_C3",), (1, 1, *SHAPE), ["none"]),
    }
    assert notes == []
    cort = found["cort"]
    np.testing.assert_array_equal(
        cort.labels["segmentation"][0, 0, 0].read().result(), datasets.cells(SHAPE, CELLS)
    )
    np.testing.assert_array_equal(cort.image[1, 0, 0].read().result(), datasets.image(SHAPE, 0, np.uint8))
    assert cort.lineage is None


def test_livecell_and_sartorius_call_a_type_alike(tmp_path):
    names = {"SHSY5Y_Phase_A10_1": "SH-SY5Y", "A172_Phase_A7_1": "A172", "A172_Phase_A7_0": "A172"}
    folder = write_livecell(tmp_path / "set", names)
    write_livecell(folder, {"A172_Phase_B1_1": "A172"}, split="val", several=False)
    found, notes = prepared(folder, "livecell", tmp_path / "store")
    assert {name: (one.category, one.frame_names) for name, one in found.items()} == {
        "a172": ("a172", ("A172_Phase_A7_0", "A172_Phase_A7_1", "A172_Phase_B1_1")),
        "shsy5y": ("shsy5y", ("SHSY5Y_Phase_A10_1",)),
    }
    assert notes == []
    for t in range(3):
        labels = found["a172"].labels["segmentation"][t, 0, 0].read().result()
        truth = datasets.cells(SHAPE, CELLS)
        assert np.mean(labels == truth) > 0.98
        assert np.unique(labels).tolist() == [0, 1, 2]


def test_overlaps_hidden_and_single_pixel_cells_are_kept_and_told(tmp_path):
    first, second = masks()
    shifted = np.roll(first, 2, 1)
    dot = np.zeros(SHAPE, bool)
    dot[18, 28] = True
    folder = write_sartorius(
        tmp_path / "set", [row("a", "cort"), row("b", "cort", [second, dot, first, shifted, first])]
    )
    found, notes = prepared(folder, "sartorius", tmp_path / "store")
    labels = found["cort"].labels["segmentation"][1, 0, 0].read().result()
    assert {label: int((labels == label).sum()) for label in np.unique(labels).tolist()} == {
        0: 600 - 36 - 1 - 48,
        1: 36,
        2: 1,
        4: 12,
        5: 36,
    }
    assert notes == [
        "sequence cort: 60 pixels lie in several annotated cells and are given to the last one, in 1 frames, first in b",
        "sequence cort: 1 annotated cells lie below later ones as a whole and are left out, in 1 frames, first in b",
    ]


def test_outlines_without_area_are_told(tmp_path):
    folder = write_livecell(tmp_path / "set", {"A172_Phase_1": "A172"})
    table = folder / "annotations" / "LIVECell" / "livecell_coco_train.json"
    edit(table, lambda content: content["annotations"][0].update(segmentation=[[3, 3, 3, 3, 3, 3]]))
    found, notes = prepared(folder, "livecell", tmp_path / "store")
    assert np.unique(found["a172"].labels["segmentation"][0].read().result()).tolist() == [0, 2]
    assert notes == [
        "sequence a172: 1 annotated cells have no pixel and are left out, in 1 frames, first in A172_Phase_1"
    ]


def test_an_image_without_rows_and_rows_without_image(tmp_path):
    folder = write_sartorius(tmp_path / "set", [row("a", "cort"), row("b", "cort")])
    (folder / "train" / "b.png").rename(folder / "train" / "c.png")
    words = refused(folder, "sartorius")
    assert "train/c.png has no row in" in words
    assert "move it to train_semi_supervised/, or give --allow_gaps" in words
    found = opened(folder, "sartorius", allow_gaps=True)
    assert {name: one.frame_names for name, one in found.items()} == {"cort": ("a",), "unlabelled": ("c",)}
    assert found["unlabelled"].read(0).masks == {}
    (folder / "train" / "c.png").unlink()
    assert "train.csv, row 4: there is no image train/b.png: copy it there" in refused(folder, "sartorius")
    (cort,) = opened(folder, "sartorius", allow_gaps=True).values()
    assert cort.notes == (f"b: not in {folder / 'train'}, left out",)


def test_livecell_images_without_cells_and_cells_without_image(tmp_path):
    names = {"A172_Phase_1": "A172", "A172_Phase_2": "A172"}
    folder = write_livecell(tmp_path / "set", names)
    table = folder / "annotations" / "LIVECell" / "livecell_coco_train.json"
    edit(table, lambda content: content.update(annotations=content["annotations"][:2]))
    words = refused(folder, "livecell")
    assert "image A172_Phase_2.tif has no annotation: add its cells" in words
    (source,) = opened(folder, "livecell", allow_gaps=True).values()
    assert [sorted(source.read(t).masks) for t in range(2)] == [["segmentation"], []]
    (folder / "images" / "A172" / "A172_Phase_1.tif").rename(folder / "images" / "A172" / "other.tif")
    assert "image A172_Phase_1.tif is not below" in refused(folder, "livecell")
    (source,) = opened(folder, "livecell", allow_gaps=True).values()
    assert source.notes == (
        f"A172_Phase_1: not below {folder}, left out",
        "other: images that no file annotates, left out",
    )


def test_wrong_width_and_height_name_the_image_and_the_cure(tmp_path):
    folder = write_sartorius(tmp_path / "set", [row("a", "cort")])
    write_png(folder / "train" / "a.png", datasets.image((20, 31), 0, np.uint8))
    (source,) = opened(folder, "sartorius").values()
    with pytest.raises(
        InputError, match=r"a\.png .* has 20 x 31 pixels, its annotation is for 20 x 30: correct width"
    ):
        source.read(0)


def test_a_type_that_nobody_knows_is_one(tmp_path):
    folder = write_sartorius(tmp_path / "set", [row("a", "hela")], ["hela[x]_1"])
    assert {name: one.category for name, one in opened(folder, "sartorius").items()} == {
        "hela": "hela",
        "hela_unlabelled": "hela",
    }
    folder = write_sartorius(tmp_path / "other", [row("a", "../hela")])
    assert "image a is of the cell type '../hela', which cannot name a folder" in refused(folder, "sartorius")


def test_an_image_of_two_files_or_two_types_is_refused(tmp_path):
    folder = write_livecell(tmp_path / "set", {"A172_Phase_1": "A172", "BV2_Phase_1": "BV2"})
    table = folder / "annotations" / "LIVECell" / "livecell_coco_train.json"
    edit(table, lambda content: content["annotations"][0].update(category_id=2))
    assert "image A172_Phase_1.tif has cells of A172 and BV2: a type is one of the image" in refused(
        folder, "livecell"
    )
    write_livecell(folder, {"BV2_Phase_1": "BV2"})
    write_livecell(folder, {"BV2_Phase_1": "BV2"}, split="test")
    assert "image BV2_Phase_1 is in" in refused(folder, "livecell")


def test_subsets_beside_the_splits_are_not_read(tmp_path):
    folder = write_livecell(tmp_path / "set", {"BV2_Phase_1": "BV2"})
    single = folder / "annotations" / "LIVECell_single_cells" / "bv2" / "train.json"
    single.parent.mkdir(parents=True)
    single.write_bytes((folder / "annotations" / "LIVECell" / "livecell_coco_train.json").read_bytes())
    assert list(opened(folder, "livecell")) == ["bv2"]
    (folder / "annotations" / "LIVECell" / "livecell_coco_train.json").unlink()
    assert list(opened(folder, "livecell")) == ["bv2"]


def test_a_store_is_bound_to_the_table_that_it_was_made_from(tmp_path):
    folder = write_sartorius(tmp_path / "set", [row("a", "cort")], ["cort_1"])
    prepared(folder, "sartorius", tmp_path / "store")
    prepared(folder, "sartorius", tmp_path / "store")
    sartorius.write_table(folder / "train.csv", [row("a", "cort", masks()[:1])])
    with pytest.raises(InputError, match="was prepared from other files than cort holds now"):
        prepared(folder, "sartorius", tmp_path / "store")


def test_stores_without_categories_stay_readable(tmp_path):
    datasets.write_movie(tmp_path / "set", "01")
    (movie,) = prepared(tmp_path / "set", "ctc", tmp_path / "store")[0].values()
    assert (movie.category, movie.frame_names) == (None, None)
    attributes = json.loads((tmp_path / "store" / "01.ome.zarr" / "zarr.json").read_text())["attributes"][
        "celltrack"
    ]
    assert not {"category", "frame_names"} & attributes.keys()


def test_the_other_layout_is_named(tmp_path):
    folder = write_livecell(tmp_path / "set", {"BV2_Phase_1": "BV2"})
    assert "holds no images in the layout 'ctc': give --format=livecell" in refused(folder, "ctc")
    assert "train.csv does not exist" in refused(folder, "sartorius")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "holds no images in the layout 'livecell': check --source" in refused(empty, "livecell")


def test_images_of_16_bits_and_grey_colours_are_taken_and_others_refused(tmp_path):
    folder = write_sartorius(tmp_path / "set", [row("a", "cort")])
    path, grey = folder / "train" / "a.png", datasets.image(SHAPE, 0, np.uint8)
    (source,) = opened(folder, "sartorius").values()
    write_png(path, grey.astype(np.uint16) * 200)
    assert source.read(0).image.dtype == np.uint16
    write_png(path, np.stack([grey] * 3, -1))
    np.testing.assert_array_equal(source.read(0).image[0, 0], grey)
    write_png(path, np.stack([grey, grey, grey // 2], -1))
    with pytest.raises(InputError, match=r"a\.png \(frame 0\) has colours: .*convert it to grey values"):
        source.read(0)
