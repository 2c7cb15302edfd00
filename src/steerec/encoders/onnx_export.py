"""Convert a sentence model to ONNX with int8 weights, once, and prove that it still agrees."""

import hashlib
import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from steerec.contracts import Floats
from steerec.encoders.models import ModelFiles
from steerec.encoders.text import load_sentence_model
from steerec.errors import EncoderError

log = logging.getLogger(__name__)

FORMAT = 1
MIN_AGREEMENT = 0.98  # mean cosine between int8 and float32 vectors
_OPSET = 18
_LONGEST = 8192
# Said to the exporter, then checked against: product titles, questions, long and short, not only
# English, because the scale of int8 activations depends on what runs through the model.
_PROBES = (
    "blue cotton shirt",
    "Waterproof hiking boots for women, leather, wide fit",
    "a quiet film about two sisters who inherit a bakery by the sea",
    "wireless headphones with noise cancelling and thirty hours of battery",
    "lamp",
    "Stainless steel chef's knife, 20 cm. Kitchen, knives. Keeps its edge, dishwasher safe.",
    "less horror, something light for the weekend",
    "Comedy, Drama, Romance (1994)",
    "organic green tea, 250 g, loose leaf",
    "SET OF 6 RETROSPOT TEA CUPS",
    "how do I return a pair of shoes that do not fit?",
    "puzzle with 1000 pieces showing a map of the old world, ages 10 and up, gift box included",
    "蓝色棉质衬衫",
    "mystery novel",
    "USB-C charger 65W 2-port",
    "gentle face cream for dry skin without perfume; apply in the morning and in the evening",
)


@dataclass(frozen=True)
class Converted:
    """A converted model on disk.

    Attributes:
        key: names the model, its weights and the conversion.
        max_tokens: the model's own limit.
        agreement: (mean, smallest) cosine between int8 and float32 vectors of the probe texts.
    """

    path: Path
    tokenizer: Path
    key: str
    dim: int
    max_tokens: int
    agreement: tuple[float, float]


def converted_model(files: ModelFiles, cache_dir: Path) -> Converted:
    """The int8 form of a model, from the cache or made now.

    Raises:
        EncoderError: if it is not a mean-pooled model, or its int8 form strays from float32.
    """
    folder = cache_dir / "onnx" / f"{files.key.replace('@', '-')}-v{FORMAT}"
    if (folder / "about.json").is_file():
        known = _read(folder)
        if known is not None:
            return known
        log.warning("onnx_model=damaged path=%s action=convert_again", folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        _convert(files, Path(name))
        _move_into_place(Path(name), folder)
    made = _read(folder)
    if made is None:
        raise EncoderError(f"{folder} changed while it was written: check the disk and try again")
    return made


def _move_into_place(made: Path, folder: Path) -> None:
    """File by file, about.json last: a reader that sees it sees all."""
    folder.mkdir(exist_ok=True)
    for name in ("tokenizer.json", "model.onnx", "about.json"):
        (made / name).replace(folder / name)


def _read(folder: Path) -> Converted | None:
    """None where a file is missing or differs from what was written."""
    try:
        about = json.loads((folder / "about.json").read_text())
        for name in ("model.onnx", "tokenizer.json"):
            if _sha256(folder / name) != about["sha256"][name]:
                return None
        return Converted(
            path=folder / "model.onnx",
            tokenizer=folder / "tokenizer.json",
            key=str(about["key"]),
            dim=int(about["dim"]),
            max_tokens=int(about["max_tokens"]),
            agreement=(float(about["agreement"][0]), float(about["agreement"][1])),
        )
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None


def _convert(files: ModelFiles, folder: Path) -> None:
    log.info("onnx_model=converting model=%s", files.key)
    sentence_model = load_sentence_model(files, _LONGEST)
    _check_kind(sentence_model, files)
    tokenizer = files.folder / "tokenizer.json"
    if not tokenizer.is_file():
        raise EncoderError(f"{files.folder} has no tokenizer.json: use the text encoder for it")
    shutil.copyfile(tokenizer, folder / "tokenizer.json")
    _export(sentence_model, folder / "float.onnx")
    _quantise(folder / "float.onnx", folder / "model.onnx")
    mean, worst = _agreement(sentence_model, folder)
    if mean < MIN_AGREEMENT:
        raise EncoderError(
            f"int8 vectors of {files.key} have a mean cosine of {mean:.3f} to float32, expected "
            f"{MIN_AGREEMENT}: use the text encoder for this model"
        )
    about = {
        "key": f"{files.key}-onnx{FORMAT}",
        "dim": int(sentence_model.get_embedding_dimension()),
        "max_tokens": int(sentence_model.max_seq_length),
        "agreement": [mean, worst],
        "sha256": {n: _sha256(folder / n) for n in ("model.onnx", "tokenizer.json")},
    }
    (folder / "about.json").write_text(json.dumps(about, indent=2))
    log.info("onnx_model=converted cosine_mean=%.4f cosine_min=%.4f", mean, worst)


def _check_kind(model: Any, files: ModelFiles) -> None:
    kinds = [type(part).__name__ for part in model]
    if kinds[:2] != ["Transformer", "Pooling"] or set(kinds[2:]) - {"Normalize"}:
        raise EncoderError(f"{files.key} is built of {kinds}: use the text encoder for it")
    if model[1].pooling_mode != "mean":
        raise EncoderError(
            f"{files.key} pools by {model[1].pooling_mode!r}, only 'mean' converts: use the text "
            "encoder for it"
        )


def _export(sentence_model: Any, path: Path) -> None:
    """One text at a time: (1, n_tokens) int64 → (1, dim) float32, no padding and so no mask."""
    import torch

    class Pooled(torch.nn.Module):
        def __init__(self, body: torch.nn.Module) -> None:
            super().__init__()
            self.body = body

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            words: torch.Tensor = self.body(input_ids=input_ids).last_hidden_state
            return torch.nn.functional.normalize(words.mean(dim=1), dim=1)

    limit = int(sentence_model.max_seq_length)  # positions the model has
    example = torch.full((1, 7), 100, dtype=torch.long)
    with _quiet_export():
        torch.onnx.export(
            Pooled(sentence_model[0].auto_model).eval(),
            (example,),
            path,
            input_names=["input_ids"],
            output_names=["vector"],
            opset_version=_OPSET,
            dynamo=True,
            dynamic_shapes=({1: torch.export.Dim("n_tokens", min=1, max=limit)},),
            external_data=False,
            verbose=False,
        )


def _quantise(source: Path, target: Path) -> None:
    """Weights int8 per channel, activations uint8 by each call; embeddings stay float32.

    Per tensor the mean cosine was .93, per channel .99. Seven-bit weights (`reduce_range`) cannot
    overflow the 16-bit sums of processors without VNNI, and cost nothing in agreement.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(source)
    # Says that shapes are known; else the quantiser advises on models with images.
    model.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")
    onnx.save(model, source)
    silence = logging.NullHandler()
    logging.getLogger().addHandler(silence)  # else its logging.info would configure the root logger
    try:
        quantize_dynamic(
            source,
            target,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
        )
    finally:
        logging.getLogger().removeHandler(silence)


def _agreement(sentence_model: Any, folder: Path) -> tuple[float, float]:
    import onnxruntime

    exact: Floats = sentence_model.encode(list(_PROBES), show_progress_bar=False)
    session = onnxruntime.InferenceSession(
        str(folder / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    tokens = (sentence_model.tokenizer(text)["input_ids"] for text in _PROBES)
    rough = np.concatenate([session.run(None, {"input_ids": np.array([t])})[0] for t in tokens])
    exact = exact / np.linalg.norm(exact, axis=1, keepdims=True)
    cosine = (exact * rough).sum(axis=1)
    return float(cosine.mean()), float(cosine.min())


@contextmanager
def _quiet_export() -> Iterator[None]:
    """The exporter warns of packages and dimensions that play no part here."""
    chatter = logging.getLogger("torch.onnx")
    level = chatter.level
    chatter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        chatter.setLevel(level)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
