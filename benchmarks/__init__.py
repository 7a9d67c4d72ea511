"""How we know: measurements, and the tables of README.md.

Accuracy:
    experiments.py              the paper's experiments, of recipes/experiments.yaml
    headlines.py                the tables of a data set: runs beside baselines
    baselines.py                tuned baselines on the same cases
    ranking_baselines.py        of rankings
    rating_baselines.py         of stars
    text_baselines.py           of explanations
    walking_shop.py             a made-up shop that no default was chosen on
    taste_shop.py               another, of tastes alone, where linear models are strong
    taste_bound.py              the most that can be known there
    grocery_shop.py             another, in which most is bought again
    fashion_shop.py             another, in which things go out of fashion
    transformer_baselines.py    SASRec, eSASRec, BERT4Rec and HSTU through RecTools
    cold_items.py               items that are added after the training
    refit.py                    what training again on all interactions is worth
    explanation_truth.py        what explanations of the made-up shop claim, and what of it is so
    imagine_demo.py             what a model of the made-up shop draws
    imagine_questions.py        what it is asked for, and what is right
    imagine_sheet.py            the drawn pictures on one sheet
    drawing_reader.py           kind and colour of a drawn picture, by its pixels
    heat_faithfulness.py        whether heat maps show what matters

Cost:
    throughput.py               steps, answers and starts
    savings.py                  what is saved by not computing twice
    techniques.py               what each technique is worth
    peer.py                     OpenFlamingo at the same shapes
    scale.py                    shops of up to a million items
    sizes.py                    parameters, memory and steps a day of the paper's model
"""
