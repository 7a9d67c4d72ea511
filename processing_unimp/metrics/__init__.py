"""Metrics over all cases of an evaluation.

summary.py        those of each task, by name
ranking.py        hit rate, NDCG, MRR
lists.py          novelty and diversity of lists
stars.py          errors of stars
calibration.py    expected calibration error, and the bins of a reliability plot
texts.py          BLEU, ROUGE, METEOR, distinct-n, BERTScore
pictures.py       Frechet distance, diversity
"""
