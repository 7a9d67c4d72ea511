"""`python -m modeling_unimp.batch_scoring`, where scripts of shops call it; the command is in serving/."""

from .serving.batch_scoring import main
from .serving.history_tables import _event_tables
from .serving.history_tables import columns_of as _columns

__all__ = ["_columns", "_event_tables", "main"]

if __name__ == "__main__":
    main()
