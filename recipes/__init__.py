"""What to run, as YAML files, and what makes the two tables of public data sets.

amazon/, h_and_m/, movielens/, netflix/    prepare.py of each, and recipes of its sizes
paper/                                     the paper's own recipes
accelerate/                                configurations for several GPUs
demo.yaml, experiments.yaml                the made-up shop; the paper's experiments at small sizes

raw_files.py          raw files of any publisher, row by row
raw_values.py         values of raw records, one kind a column
raw_tables.py         from raw rows to the two tables, out of core
picture_files.py      picture files below a folder
download_images.py    downloads the pictures of a catalogue
public_http.py        fetches files by addresses of strangers
work_folder.py        a folder for the time of one run
"""
