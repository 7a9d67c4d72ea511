"""From a recipe to a trained model. Never exported; these files may see both packages.

recipe.py               the arguments of a run, from YAML and command line
experiment.py           shop, split, codec, model and cases that a recipe asks for
trainer.py              UniMPTrainer: the loss over tasks, and evaluation while training
evaluator.py            answers evaluation cases and evaluates the answers
epoch_rows.py           which rows are read in which epoch
checkpoints.py          which checkpoints are whole, and which one to go on from
termination.py          SIGTERM: save a checkpoint and stop
feature_store.py        vision features of the catalogue's pictures, on disk
low_rank_adapters.py    LoRA on the language model
codec_training.py       trains and measures an image codec
taming_vqgan.py         VQGAN checkpoints of taming-transformers as an image codec
"""
