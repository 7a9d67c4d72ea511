"""Paths of a table lead into one folder and nowhere else, and nothing tells what is elsewhere."""

import os
from pathlib import Path

import numpy as np
import pytest

from processing_unimp.picture import UnreadablePicture
from processing_unimp.picture_folder import PictureFolder


@pytest.fixture
def shop(tmp_path) -> Path:
    (tmp_path / "secret").write_text("secret")
    root = tmp_path / "shop"
    (root / "sub").mkdir(parents=True)
    (root / "a.png").write_bytes(b"picture")
    (root / "sub" / "b.png").write_bytes(b"other")
    os.mkfifo(root / "pipe.png")
    (root / "inside.png").symlink_to(root / "a.png")
    (root / "out.png").symlink_to(tmp_path / "secret")
    (root / "etc").symlink_to("/etc")
    (root / "loop.png").symlink_to(root / "loop.png")
    return root


INSIDE = {"a.png": b"picture", "sub/b.png": b"other", "sub/../a.png": b"picture", "inside.png": b"picture"}
OUTSIDE = (
    "/etc/shadow",
    "/no/such/file",
    "../secret",
    "../gone",
    "sub/../../secret",
    "out.png",
    "etc/shadow",
    "etc/gone",
)


@pytest.mark.parametrize("path", INSIDE)
def test_paths_inside_are_read(shop, path):
    folder = PictureFolder(shop)
    assert folder.read(path) == folder.read(str(shop / path)) == INSIDE[path]


@pytest.mark.parametrize("path", OUTSIDE)
def test_paths_that_lead_out_are_refused_alike_whether_anything_is_there(shop, path):
    folder = PictureFolder(shop)
    for ask in (folder.find, folder.read):
        with pytest.raises(UnreadablePicture) as told:
            ask(path)
        assert str(told.value) == (
            f"the picture path {path!r} leads out of {str(shop)!r}. Expected a file inside; for pictures elsewhere "
            "name their folder with image_root."
        )


@pytest.mark.parametrize("path", ["a\0.png", "x" * 5000, "sub/" * 3000, "loop.png"])
def test_what_can_be_no_path_is_no_picture(shop, path):
    with pytest.raises(UnreadablePicture) as told:
        PictureFolder(shop).read(path)
    assert len(str(told.value)) < 600


def test_missing_files_and_addresses_are_told_apart(shop):
    folder = PictureFolder(shop)
    with pytest.raises(UnreadablePicture, match="no picture file at .*gone.png"):
        folder.read("gone.png")
    with pytest.raises(UnreadablePicture, match="is an address"):
        folder.read("http://127.0.0.1/a.png")
    with pytest.raises(UnreadablePicture, match="no regular file"):
        folder.read("pipe.png")


def test_holds_asks_no_file_outside(shop):
    paths = [*INSIDE, None, "", "gone.png", "sub", "pipe.png", "loop.png", "http://x/a.png", "a\0.png", *OUTSIDE]
    found = PictureFolder(shop).holds(paths)
    np.testing.assert_array_equal(found, [path in INSIDE for path in paths])


def test_a_folder_is_listed_once_however_its_path_is_written(shop, monkeypatch):
    listed = []
    scan = os.scandir
    monkeypatch.setattr("os.scandir", lambda folder: listed.append(str(folder)) or scan(folder))
    name = next(entry.name for entry in shop.iterdir() if entry.is_file())
    paths = [name, f"./{name}", f"{shop}/{name}", *(f"{n}/../{name}" for n in range(50)), "../x.png", "gone/a.png"]
    assert PictureFolder(shop).holds(paths).tolist() == [True] * 53 + [False] * 2
    assert listed.count(str(shop.resolve())) == 1 and len(listed) == 2


def test_the_root_itself_may_be_a_link(shop, tmp_path):
    (tmp_path / "link").symlink_to(shop)
    assert PictureFolder(tmp_path / "link").read("a.png") == b"picture"
