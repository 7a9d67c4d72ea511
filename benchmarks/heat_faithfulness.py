"""Do heat maps show what matters? Parts of the history's pictures are painted over, and the score is read again.

python -m benchmarks.heat_faithfulness --model unimp --requests 60
python -m benchmarks.heat_faithfulness --model unimp --requests 60 --described category
python -m benchmarks.heat_faithfulness --model runs/h-and-m-tiny --interactions data/h-and-m --requests 30

A deletion test: of the patches of all pictures of a request, the hottest quarter (or the coldest, or any) takes the
colour of its picture's rim, and the log-probability of the recommended item is read again. Maps that are faithful
change it more by the hottest patches than by any, and hardly by the coldest. Shoppers are those of the test part.
"""

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor

from modeling_unimp import PersonalizationPipeline
from modeling_unimp.answering import outputs_of
from modeling_unimp.serving.reasons import picture_heat
from processing_unimp import EvaluationCases, ExampleSource, Histories, leave_last_out, make_demo_shop

NUM_RANDOM = 4
ALL = ("all pictures", "any", "all patches")
Heat = dict[int, np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="unimp", help="a trained model's folder")
    parser.add_argument("--requests", type=int, default=60)
    parser.add_argument("--interactions", help="the table the model was trained on; the made-up shop's without it")
    parser.add_argument(
        "--described", nargs="+", help="name history items by these attributes and a picture, not by id"
    )
    parser.add_argument("--fraction", type=float, default=0.25, help="of the patches that are painted over")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    started = time.time()
    model, processor = AutoModel.from_pretrained(args.model), AutoProcessor.from_pretrained(args.model)
    unimp = PersonalizationPipeline(model=model, processor=processor, device="cpu")
    requests = requests_of(unimp, args)
    rng = np.random.default_rng(args.seed)
    maps: dict[str, Callable[[dict[str, Any], str], Heat]] = {
        "picture_heat": lambda request, item_id: picture_heat(unimp, request, item_id),
        "gradient x features": lambda request, item_id: gradient_heat(unimp, request, item_id),
    }
    changes: dict[tuple[str, str, str], list[float]] = {}
    report_speed(unimp, requests[0])
    for request in requests:
        item_id = unimp(request, top_k=1)["items"][0]["item_id"]
        pictures = pictures_of(unimp, request)
        heats = {name: of(request, item_id) for name, of in maps.items()}
        if not any(each.any() for each in heats["picture_heat"].values()):
            continue  # No picture matters, so none of its parts does.
        shape = next(iter(heats["picture_heat"].values())).shape
        heats["centre"] = dict.fromkeys(pictures, centre(*shape))
        masks: dict[tuple[str, str, str], Heat] = {ALL: dict.fromkeys(pictures, np.ones(shape, dtype=bool))}
        for over, within in (("all pictures", False), ("each picture", True)):
            for name, heat in heats.items():
                masks[over, name, "hottest"] = most(heat, args.fraction, within)
                masks[over, name, "coldest"] = most({key: -each for key, each in heat.items()}, args.fraction, within)
            for draw in range(NUM_RANDOM):
                drawn = {key: rng.random(shape) for key in pictures}
                masks[over, f"random {draw}", "hottest"] = most(drawn, args.fraction, within)
        variants = [request, *(painted(request, pictures, mask) for mask in masks.values())]
        score, *without = scores(unimp, request, variants, item_id)
        for key, other in zip(masks, without, strict=True):
            changes.setdefault(key, []).append(score - other)
    with_heat = len(changes.get(ALL, []))
    print(f"{with_heat} of {len(requests)} requests have heat: in the others no picture moves the score by 0.001")
    if with_heat:
        report(changes, args.fraction)
    print(f"{(time.time() - started) / 60:.1f} minutes on one thread")


def requests_of(unimp: Any, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Requests to recommend, whose histories show at least one picture; without the true answers."""
    catalogue, processor = unimp.processor.catalogue, unimp.processor
    if args.interactions is None:
        histories = Histories.from_interactions(make_demo_shop()[1], catalogue)
    else:
        histories = Histories.load(args.interactions, catalogue)
    source = ExampleSource(catalogue, np.random.default_rng(args.seed), history_length=processor.history_length)
    cases = EvaluationCases.of(
        "recommend",
        leave_last_out(histories, seed=args.seed).test,
        source,
        exclude_seen=True,
        max_cases=2 * args.requests,
    )
    requests = []
    for request in cases.requests:
        history = [described(catalogue, entry, args.described) for entry in request["history"]]
        if any(catalogue.has_picture(entry["item_id"]) for entry in request["history"]):
            requests.append({"task": "recommend", "history": history})
    return requests[: args.requests]


def described(catalogue: Any, entry: Mapping[str, Any], attributes: Sequence[str] | None) -> dict[str, Any]:
    """A history item, by its id or by some of its attributes; with its picture, to be painted over."""
    item_id = entry["item_id"]
    if attributes is None:
        named = {"item_id": item_id, "rating": entry.get("rating")}
    else:
        named = {name: catalogue.item(item_id)[name] for name in attributes}
    picture = catalogue.picture(item_id) if catalogue.has_picture(item_id) else None
    return named if picture is None else named | {"image": picture}


def pictures_of(unimp: Any, request: Mapping[str, Any]) -> dict[int, Image.Image]:
    return {place: entry["image"] for place, entry in enumerate(request["history"]) if "image" in entry}


def gradient_heat(unimp: Any, request: dict[str, Any], item_id: str) -> Heat:
    """Gradient x input at the vision features, what lowers the score cut off: the map to compare with."""
    model, processor = unimp.model, unimp.processor
    inputs = processor(requests=[request])
    ends = inputs["input_ids"][0] == processor.control.eoc
    row_of_place = (inputs["media_index"][0][ends] - 1).tolist()
    with torch.no_grad():
        features = model.model.encode_pictures(inputs["pixel_values"])
    features.requires_grad_()
    given = {name: inputs[name] for name in ("input_ids", "attention_mask", "media_index")}
    logits = model.answer_logits("items", **given, vision_features=features)[0, -1]
    score = masked(unimp, request, logits).log_softmax(dim=-1)[processor.catalogue.number(item_id)]
    (gradient,) = torch.autograd.grad(score, features)
    heat = (gradient * features.detach()).sum(dim=-1).clamp(min=0).numpy()
    side = int(heat.shape[1] ** 0.5)
    return {
        place: heat[row_of_place[place], -side * side :].reshape(side, side) for place in pictures_of(unimp, request)
    }


def centre(rows: int, columns: int) -> np.ndarray:
    """A map that knows no picture: the middle is hot."""
    y, x = np.linspace(-1, 1, rows)[:, None], np.linspace(-1, 1, columns)[None]
    return np.exp(-(y**2) - x**2)


def most(heat: Heat, fraction: float, within: bool) -> Heat:
    """Masks of the hottest patches, of each picture or over all of them."""
    values = np.stack(list(heat.values()))
    flat = values.reshape(len(values), -1) if within else values.reshape(1, -1)
    order = np.argsort(-flat, axis=1, kind="stable")[:, : round(fraction * flat.shape[1])]
    chosen = np.zeros(flat.shape, dtype=bool)
    np.put_along_axis(chosen, order, True, axis=1)
    return dict(zip(heat, chosen.reshape(values.shape), strict=True))


def painted(request: dict[str, Any], pictures: dict[int, Image.Image], mask: Heat) -> dict[str, Any]:
    """The request with patches of its pictures in the mean colour of the picture's rim."""
    history = list(request["history"])
    for place, picture in pictures.items():
        pixels = np.array(picture.convert("RGB"))
        rim = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]).mean(axis=0).round()
        chosen = Image.fromarray(mask[place].astype(np.uint8)).resize(picture.size, Image.Resampling.NEAREST)
        pixels[np.asarray(chosen, dtype=bool)] = rim
        history[place] = history[place] | {"image": Image.fromarray(pixels)}
    return request | {"history": history}


def scores(unimp: Any, request: dict[str, Any], variants: list[dict[str, Any]], item_id: str) -> list[float]:
    """Log-probability of the item among the allowed ones of the request, in each variant."""
    outputs = outputs_of(unimp.model, unimp.processor, variants, "items", batch_size=8)
    number = unimp.processor.catalogue.number(item_id)
    return [
        float(masked(unimp, request, torch.from_numpy(output).double()).log_softmax(dim=-1)[number])
        for output in outputs
    ]


def masked(unimp: Any, request: dict[str, Any], logits: torch.Tensor) -> torch.Tensor:
    allowed = unimp.processor.catalogue.available.copy()
    seen = [str(entry["item_id"]) for entry in request["history"] if "item_id" in entry]
    allowed[[unimp.processor.catalogue.number(item_id) for item_id in seen]] = False
    return logits.masked_fill(~torch.from_numpy(allowed), float("-inf"))


def report_speed(unimp: Any, request: dict[str, Any]) -> None:
    item_id, times = unimp.processor.catalogue.item_ids[0], []
    for _ in range(5):
        started = time.perf_counter()
        picture_heat(unimp, request, item_id)
        times.append(time.perf_counter() - started)
    print(f"picture_heat: {1000 * float(np.median(times)):.0f} ms a request")


def report(changes: dict[tuple[str, str, str], list[float]], fraction: float) -> None:
    """Means over the requests; of |change| also how far the hottest patches are ahead of any, 95 % of bootstraps."""
    whole = np.array(changes[ALL])
    print(f"all patches painted over: drop {whole.mean():.4f}, |change| {np.abs(whole).mean():.4f}\n")
    print(
        f"{fraction:.0%} of the patches of | map | hottest: drop, |change| | coldest: drop, |change| | ahead of random"
    )
    print("--- | --- | --- | --- | ---")
    for over in ("all pictures", "each picture"):
        drawn = np.array([changes[over, f"random {draw}", "hottest"] for draw in range(NUM_RANDOM)])
        chance = np.abs(drawn).mean(axis=0)
        print(f"{over} | random | {drawn.mean():.4f}, {chance.mean():.4f} | |")
        for name in ("picture_heat", "gradient x features", "centre"):
            hot, cold = (np.array(changes[over, name, part]) for part in ("hottest", "coldest"))
            ahead = np.abs(hot) - chance
            draws = np.random.default_rng(0).integers(0, len(ahead), (2000, len(ahead)))
            low, high = np.percentile(ahead[draws].mean(axis=1), [2.5, 97.5])
            print(
                f"{over} | {name} | {hot.mean():.4f}, {np.abs(hot).mean():.4f} | {cold.mean():.4f}, "
                f"{np.abs(cold).mean():.4f} | {ahead.mean():.4f} [{low:.4f} - {high:.4f}]"
            )


if __name__ == "__main__":
    main()
