"""Answers for many shoppers at once, and reasons of answers. Never exported; these files may see both packages.

batch_scoring.py     unimp-recommend: the best items for every shopper of a table
history_tables.py    reads the histories, and groups interactions by shopper
finished_parts.py    output in parts, so that a stopped run can resume
reasons.py           which items of a history, and which parts of their pictures, an answer came from
"""
