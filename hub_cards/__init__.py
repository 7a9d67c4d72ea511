"""What a run leaves behind.

run_record.py       what a run was: results.json, comparison with trivial baselines, the recipe that may be published
report.py           report.html of a run, for people; template report.html, style report.css
html_pieces.py      template environment, and what report and Space show alike; macros in pieces.html
untrusted_text.py   text of sellers and shoppers as one line and as Markdown
cards.py            model card and .eval_results; template model_card.md
dataset_cards.py    a shop as a data set on the Hub, and its card; template dataset_card.md
model_folder.py     a folder that train.py saved, checked to be complete
export.py           the folder that goes to the Hub
unimp_push.py       upload in one commit: the command unimp-push
publication.py      the same at the end of a training
evaluate_modules/   metrics for evaluate.load
space/              the Gradio Space over a trained model
"""
