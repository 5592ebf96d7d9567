"""A web service that names the class of an image: MODEL=model/model.onnx uvicorn serve:app."""

import io
import json
import os
from typing import Annotated

import numpy as np
import onnxruntime
from fastapi import Body, FastAPI, HTTPException
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession(os.environ["MODEL"])
about = session.get_modelmeta().custom_metadata_map
classes, size = json.loads(about["classes"]), json.loads(about["preprocessing"])["stored_size"]
app = FastAPI(title="Names the class of an image")


def square(data: bytes) -> np.ndarray:
    """The central square of an image file, as (size, size, 3) uint8."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    side = min(image.size)
    left, top = ((length - side) / 2 for length in image.size)
    box = (left, top, left + side, top + side)
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box))


@app.post("/predict")
def predict(data: Annotated[bytes, Body(media_type="image/*")]) -> dict[str, float]:
    """Return the five most likely classes with their probabilities, the most likely one first."""
    try:
        images = square(data)[None]
    except (OSError, Image.DecompressionBombError) as error:
        raise HTTPException(422, f"the body is not an image that Pillow can read: {error}") from None
    probabilities = session.run(["probabilities"], {"images": images})[0][0]
    return {classes[i]: float(probabilities[i]) for i in probabilities.argsort()[::-1][:5]}
