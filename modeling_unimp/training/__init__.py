"""From a recipe to a trained model. Never exported; these files may see both packages.

recipe.py               the arguments of a run, from YAML and command line
defaults.py             what a run without a recipe takes from the data
experiment.py           shop, split, codec, model and cases that a recipe asks for
initial_model.py        weights of an earlier model, for a shop that has changed since
trainer.py              UniMPTrainer: the loss over tasks, and evaluation while training
evaluation.py           answers evaluation cases and evaluates the answers
epoch_rows.py           which rows are read in which epoch
checkpoints.py          which checkpoints are whole, and which one to go on from
bfloat16_probe.py       whether a CPU trains faster in bfloat16
termination.py          SIGTERM: save a checkpoint and stop
sharding.py             FSDP2 for a model of which a batch may leave parts unused
closed_form.py          closed-form scores of a shop: which there are
hybrid_fitting.py       how much each of them counts beside the network, by validation
ranking_weights.py      softmax regression over scores that rank
star_fitting.py         biases, factors and their blend for stars
refit.py                what validation chose, learnt again from all interactions
item_similarity.py      neighbours of items: kNN, transitions, text, pictures
linear_models.py        neighbours of items: EASE, and what is taken after an item
rating_factors.py       biases and factors of stars
feature_store.py        vision features of the catalogue's pictures, on disk
low_rank_adapters.py    LoRA on the language model
codec_training.py       trains and measures an image codec
taming_vqgan.py         VQGAN checkpoints of taming-transformers as an image codec
"""
