"""Rows in, tensors out: the catalogue, the histories, the tasks and the processor of UniMP.

Exported to the Hub, with a published model:
    processing_unimp    UniMPProcessor: requests to tensors, generated ids to text
    sequence_rows       sequences under construction, and a left-padded batch of them
    request_sequence    the sequence of one request, written token by token
    batch_pictures      the pictures of a batch, and a cache of pixels
    item_text           the text of an item, as token ids
    item_terms          weighted terms of items, for content rows
    control_tokens      ids of the tokens beyond the language model's vocabulary
    byte_level_bpe      the tokenizer of models from scratch
    call_arguments      which keyword arguments a processor's call accepts
    request_reading     requests from JSON or Python, brought to one form
    bounds              limits on the size of requests and tables
    task, task_*        the six tasks: example, prompt, answer, score of one answer
    grounds             what the history has in common with an explained item
    all_tasks           the tasks by name
    case_metrics        rank of the true item, precision and recall, cosine of pictures
    catalogue           the items of a shop
    catalogue_file      writing catalogue.parquet
    item_pictures       where the picture of each item is
    picture_folder      picture paths, resolved inside one folder
    picture             opening untrusted pictures
    avif_sizes          how many pixels an AVIF makes its decoder hold
    counted_file        a file in memory that is read so often and no more
    tiff_tags           what the tags of a TIFF say of themselves
    upright             which way up a picture is
    shop_lock           many answers at once, or one change
    history             who did what, in time order
    tables              reading parquet, JSON and CSV
    parquet_file        the file that is named, memory-mapped and bounded
    parquet_pages       its pages, by their own headers
    table_columns       Arrow columns of the few types that we use
    cell_values         single values: ids, times, pictures, attributes
    processor_manifest  hashes of saved files, checked on load

Not exported:
    collator            batches for training
    splits              evaluation protocols
    task_mixture        training examples, drawn from histories
    evaluation_cases    the requests of an evaluation
    metrics/            ranking, rating, text and picture metrics over all cases
    demo_shop           a made-up shop
    publishing          catalogue and histories as a dataset on the Hub
"""

from .all_tasks import TASKS
from .catalogue import Catalogue
from .collator import UniMPCollator
from .demo_shop import make_demo_shop
from .evaluation_cases import EvaluationCases
from .history import Case, Histories, Interaction
from .item_terms import ItemTerms
from .processing_unimp import UniMPProcessor
from .splits import Split, Targets, by_time, hold_out_domain, k_core, leave_last_out, new_items_of
from .task import TASK_NAMES, ExampleSource
from .task_mixture import TaskMixture

__all__ = [
    "TASKS",
    "TASK_NAMES",
    "Case",
    "Catalogue",
    "EvaluationCases",
    "ExampleSource",
    "Histories",
    "Interaction",
    "ItemTerms",
    "Split",
    "Targets",
    "TaskMixture",
    "UniMPCollator",
    "UniMPProcessor",
    "by_time",
    "hold_out_domain",
    "k_core",
    "leave_last_out",
    "make_demo_shop",
    "new_items_of",
]
