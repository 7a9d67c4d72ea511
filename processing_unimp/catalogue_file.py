"""catalogue.parquet: the items of a shop with their pictures embedded, written whole or not at all."""

import contextlib
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .item_pictures import ItemPictures
from .processor_manifest import replace_file
from .table_columns import IMAGE

try:  # comes with datasets; inside `try` so that Hub export does not list it as a requirement of its own
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError as error:
    raise ImportError("UniMP reads its tables with pyarrow; pip install datasets brings it") from error

CATALOGUE_FILE = "catalogue.parquet"
# A saved table of fewer rows could hold a row group of pictures that does not fit into memory.
ROWS_A_GROUP, ROWS_A_GROUP_WITH_PICTURES = 10_000, 100
UNFINISHED = ".catalogue-"
SECONDS_A_DAY = 86_400
_NUM_PICTURE_READERS = 4


def write_catalogue(folder: Path, table: "pa.Table", pictures: ItemPictures | None) -> None:
    """Writes a table and the pictures of its rows into `folder`; an interrupted write leaves the old file as it was.

    Args:
        folder (`Path`): made if it does not exist.
        table (`pa.Table`): all columns but the pictures.
        pictures (`ItemPictures`, *optional*): embedded as the column `image`; without it there is none.
    """
    from datasets import Features, Image

    folder.mkdir(parents=True, exist_ok=True)
    features = Features.from_arrow_schema(table.schema)
    if pictures is not None:
        features["image"] = Image()
    rows_a_group = ROWS_A_GROUP if pictures is None else ROWS_A_GROUP_WITH_PICTURES
    _clear_left_over(folder)
    handle, name = tempfile.mkstemp(prefix=UNFINISHED, suffix=".parquet", dir=folder)
    os.close(handle)
    try:
        with (
            pq.ParquetWriter(name, features.arrow_schema) as writer,
            ThreadPoolExecutor(_NUM_PICTURE_READERS) as readers,
        ):
            for start in range(0, len(table), rows_a_group):
                part = table.slice(start, rows_a_group)
                if pictures is not None:
                    sources = list(readers.map(pictures.embedded, range(start, start + len(part))))
                    part = part.append_column("image", pa.array(sources, IMAGE))
                writer.write_table(part.cast(features.arrow_schema))
        os.chmod(name, 0o666 & ~_umask())
        replace_file(Path(name), folder / CATALOGUE_FILE)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _clear_left_over(folder: Path) -> None:
    """Removes what saves that were killed left; what is older than a day belongs to no save at work."""
    for file in folder.glob(f"{UNFINISHED}*.parquet"):
        with contextlib.suppress(OSError):  # another save removes it too
            if time.time() - file.stat().st_mtime > SECONDS_A_DAY:
                file.unlink()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
