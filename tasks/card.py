"""The card of an exported model: card.json as a README that people read. Nothing is measured here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tasks.phrases import percent, together

MANY = 20
"""With more classes, the card has no confusion matrix, but the most frequent confusions."""
ARTIFACT = ("stage", "kind", "fingerprint")
"""Keys of a row of the chain that name its artifact. All others are settings."""
Card = Mapping[str, Any]


def readme(card: Card) -> str:
    """The README.md of an export.

    Args:
        card: the content of card.json, with `run`, the run's name.
    """
    return "\n".join(line.rstrip() for part in _parts(card) for line in (*part, "")).rstrip() + "\n"


def _parts(card: Card) -> Iterator[list[str]]:
    model, classes = card["model"], card["classes"]
    yield [f"# {model['backbone']} for {len(classes)} classes"]
    yield [f"The model that the run {card['run']} ships. It names the class of an image: {_listed(classes)}."]
    because = (card["shipped"] or {}).get("because")
    if because:
        yield [f"It is the run's {card['shipped']['model']}: {because}."]
    yield ["## Load it"]
    yield ["Each block runs in this folder. The first makes squares of pixels from image files (`paths`)."]
    yield [_block(squares(card))]
    for name, code in loading(card).items():
        yield [f"### {name}"]
        yield [_block(code)]
    yield ["The same steps in words:"]
    yield [f"{i}. {step}" for i, step in enumerate(card["preprocessing"]["steps"], start=1)]
    yield ["All files but those for torchvision and timm do the steps from 3 on themselves."]
    yield ["## How good it is"]
    yield from _scores(card)
    yield ["## What each file costs"]
    yield from _formats(card)
    yield ["## What distillation buys"]
    yield from _bought(card)
    yield ["## What it was made from"]
    yield from _made_from(card)
    yield ["## Limits"]
    yield _limits(card)


def squares(card: Card) -> str:
    """Code that turns `paths` into `images`, steps 1 and 2. Empty if images are not ordinary."""
    rule = card["preprocessing"]
    if rule.get("bands") or rule.get("value_range"):
        return ""
    side, fit = rule["stored_size"], rule.get("fit", "square")
    way = f"Image.Resampling.{rule.get('interpolation', 'bicubic').upper()}"
    if fit == "squash":
        body = f"""    return np.asarray(image.resize(({side}, {side}), {way}))"""
    elif fit == "shorter":
        size = rule["image_size"]
        body = f"""    short = min(image.size)
    image = image.resize([int({side} * length / short) for length in image.size], {way})
    left, top = (round((length - {size}) / 2) - round(({side} - {size}) / 2) for length in image.size)
    return np.asarray(image.crop((left, top, left + {side}, top + {side})))"""
    else:
        body = f"""    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    same = image.size == ({side}, {side})
    return np.asarray(image if same else image.resize(({side}, {side}), {way}, box))"""
    return f"""import numpy as np
from PIL import Image, ImageOps

def square(path):
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGBA")
    white = Image.new("RGBA", image.size, "white")  # under transparent parts
    image = Image.alpha_composite(white, image).convert("RGB")
{body}

images = np.stack([square(path) for path in paths])  # (N, {side}, {side}, 3) uint8"""


def loading(card: Card) -> dict[str, str]:
    """Code that computes `probabilities` from `images`, for each file that was kept."""
    kept = {name: row for name, row in card["formats"].items() if row["refused"] is None}
    blocks: dict[str, str] = {}
    for name, row in kept.items():
        if name in ("onnx", "int8"):
            blocks[name] = f"""import onnxruntime

session = onnxruntime.InferenceSession("{row["file"]}")
probabilities, features = session.run(["probabilities", "features"], {{"images": images}})"""
        elif name == "pt2":
            blocks[name] = """import torch

network = torch.export.load("model.pt2").module()
probabilities, features = network(torch.from_numpy(images))"""
        elif name == "safetensors":
            blocks[name] = _weights(card, row)
        elif name == "bits":
            blocks[name] = """from bits.reader import Reader

probabilities, features = Reader("bits/model.npz").answer(images)"""
    return blocks


def _weights(card: Card, row: Mapping[str, Any]) -> str:
    rule = card["preprocessing"]
    size, start = rule["image_size"], round((rule["stored_size"] - rule["image_size"]) / 2)
    crop = f"[:, {start}:{start + size}, {start}:{start + size}]" if start else ""
    answers = f"""x = torch.from_numpy(images{crop}).permute(0, 3, 1, 2) / 255
x = (x - torch.tensor({rule["mean"]}).view(-1, 1, 1)) / torch.tensor({rule["std"]}).view(-1, 1, 1)
with torch.inference_mode():
    probabilities = torch.softmax(network(x) / {rule["temperature"]}, 1)"""
    match row["library"]:
        case "torchvision":
            return f"""import safetensors.torch, torch, torchvision

network = torchvision.models.{row["constructor"]}(num_classes={len(card["classes"])}).eval()
network.load_state_dict(safetensors.torch.load_file("weights/model.safetensors"), strict=True)
{answers}"""
        case "timm":
            return f"""import timm, torch

network = timm.create_model("local-dir:weights", pretrained=True).eval()
{answers}"""
        case _:
            return """from weights.reader import Reader

probabilities, features = Reader("weights").answer(images)"""


def _scores(card: Card) -> Iterator[list[str]]:
    found = card["test"]
    if not found:
        yield ["No test image has a label, so the model's accuracy is not known."]
        return
    n = found["labelled"]
    yield [
        f"Measured on {n:,} test images, with the network in float32:",
    ]
    yield _table(
        ("measure", "value (95 % interval)"),
        [
            ("accuracy", _interval(found)),
            ("balanced accuracy", _spread(found, "balanced_accuracy")),
            ("macro F1", _spread(found, "macro_f1")),
            ("mean confidence", _spread(found, "mean_confidence")),
            ("calibration error", _spread(found, "calibration_error")),
            ("log loss", _spread(found, "log_loss", "{:.3f}".format)),
        ],
    )
    yield _table(
        ("class", "found (recall)", "right when named (precision)", "test images"),
        [
            (row["name"], _spread(row, "recall"), _spread(row, "precision"), f"{row['images']:,}")
            for row in found["classes"]
        ],
    )
    names, matrix = card["classes"], found["confusion"]
    if len(names) <= MANY:
        yield ["Rows are true classes, columns are answers."]
        yield _table(("", *names), [(name, *map(str, row)) for name, row in zip(names, matrix, strict=True)])
    else:
        pairs = [
            (matrix[i][j], names[i], names[j]) for i in range(len(names)) for j in range(len(names)) if i != j
        ]
        yield ["The most frequent mistakes:"]
        most = sorted(pairs, key=lambda pair: -pair[0])[:MANY]
        yield _table(("true class", "answer", "images"), [(a, b, str(n)) for n, a, b in most if n])


def _formats(card: Card) -> Iterator[list[str]]:
    own = card["float"]
    cores = own["cores"]
    rows = [("PyTorch here", "-", "-", _interval(own), "-", _rate(own, "rate_one_core"), _rate(own, "rate"))]
    for name, row in card["formats"].items():
        if row["refused"] is None:
            rows.append(
                (
                    f"{name}: `{row['file']}`",
                    f"{row['difference']:.1g}",
                    percent(row["agreement"], 2),
                    _interval(row),
                    _bytes(row["bytes"]),
                    _rate(row, "rate_one_core"),
                    _rate(row, "rate"),
                )
            )
    head = ("file", "largest difference of a probability", "same answer", "accuracy (95 % interval)", "size")
    yield _table((*head, "images/s, one core", f"images/s, {cores} cores"), rows)
    yield [
        "Images per second were measured on the machine that wrote these files, with 32 images at a time. "
        "Every file takes any number of images."
    ]
    counted = {row["images"] for row in card["formats"].values() if "images" in row}
    if counted:
        yield [f"Each file was compared on {' or '.join(f'{n:,}' for n in sorted(counted))} test images."]
    refused = [(name, row["refused"]) for name, row in card["formats"].items() if row["refused"] is not None]
    if refused:
        yield [f"- {name} is not here: {why}." for name, why in refused]
    if card["uncertain"]:
        listed = "; ".join(f"{name}: {_listed(rows)}" for name, rows in card["uncertain"].items())
        yield [
            "On these test images (rows of the manifest), the two best logits are so near that rounding "
            f"decided otherwise. {listed}."
        ]


def _bought(card: Card) -> Iterator[list[str]]:
    rows = [
        (
            row["name"],
            _interval(row),
            _bytes(row["bytes"]),
            f"{together(row['real_operations'], row['binary_operations']) / 1e6:,.1f} M",
            _rate(row, "rate_one_core"),
            _rate(row, "rate"),
        )
        for row in card["compared"]
    ]
    head = ("model", "accuracy (95 % interval)", "size on disk", "multiply-adds per image")
    yield _table((*head, "images/s, one core", f"images/s, {card['float']['cores']} cores"), rows)
    signs = any(row["binary_operations"] for row in card["compared"])
    yield [
        "Unless it is named otherwise, a model computes in PyTorch in float32."
        + (" 64 multiply-adds of two signs count as one." if signs else "")
    ]


def _made_from(card: Card) -> Iterator[list[str]]:
    images, labels = card["images"], card["labels"]
    text = f"{images['train']:,} training images, {images['unlabelled']:,} more without labels"
    told = f"{labels['train']:,} labels to train on" if labels else "labels of an earlier run"
    if labels.get("validation"):
        told += f" and {labels['validation']:,} to choose settings by"
    yield [f"{text}, and {told}. {images['test']:,} images are for testing only."]
    hashes = card["image_hashes"]
    yield _table(("images", "hash"), [(name, f"`{value}`") for name, value in hashes.items()])
    teacher = card["teacher"]
    files = ", ".join(f"`{value}`" for value in teacher["sha256"]) or "-"
    yield _table(
        ("teacher", ""),
        [("source", teacher["source"]), ("sha256", files), ("licence", teacher["licence"])],
    )
    yield ["These stages made the model, one after the other."]
    rows = []
    for row in card["chain"]:
        about = ", ".join(
            f"{key} {value}"
            for key, value in row.items()
            if key not in ARTIFACT and not key.startswith("weights_")
        )
        rows.append((row["stage"], about, f"`{row['kind']}/{row['fingerprint']}`"))
    yield _table(("stage", "how", "artifact"), rows)


def _limits(card: Card) -> list[str]:
    rule = card["preprocessing"]
    found = card["test"]
    lines = [
        f"- It always names one of its {len(card['classes'])} classes, also for an image that shows none.",
        "- Only the central square of an image counts.",
        "- The figures hold for images like the test images. On others, measure again.",
        f"- It sees {rule['image_size']} x {rule['image_size']} px. Smaller things are lost.",
    ]
    rare = [row["name"] for row in found.get("classes", []) if row["images"] < 10]
    if rare:
        lines.append(f"- Fewer than 10 test images show {_listed(rare)}: little is known about these.")
    return lines


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    lines = [head, tuple("---" for _ in head), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


def _block(code: str) -> str:
    return f"```python\n{code}\n```" if code else "Read the images as the steps below say."


def _listed(names: list[Any]) -> str:
    shown = [str(name) for name in names[:MANY]]
    return ", ".join(shown) + (f" and {len(names) - MANY:,} more" if len(names) > MANY else "")


def _interval(row: Mapping[str, Any]) -> str:
    if "accuracy" not in row:
        return "unknown"
    return f"{percent(row['accuracy'])} ({percent(row['low'])} to {percent(row['high'])})"


def _spread(row: Mapping[str, Any], key: str, write: Callable[[float], str] = percent) -> str:
    """A value with its interval; `-` if there is none."""
    if row[key] is None:
        return "-"
    if f"{key}_low" not in row:
        return write(row[key])
    return f"{write(row[key])} ({write(row[f'{key}_low'])} to {write(row[f'{key}_high'])})"


def _rate(row: Mapping[str, Any], key: str) -> str:
    return f"{row[key]:,.0f}" if key in row else "-"


def _bytes(count: float) -> str:
    return f"{count / 1e6:.2f} MB" if count >= 1e4 else f"{count / 1e3:.1f} kB"
