"""Name the classes of images with an exported model: python ask.py model.onnx IMAGES..."""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession(sys.argv[1])
about = session.get_modelmeta().custom_metadata_map
classes, size = json.loads(about["classes"]), json.loads(about["preprocessing"])["stored_size"]
for path in sys.argv[2:]:
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    side = min(image.size)
    left, top = ((length - side) / 2 for length in image.size)
    image = image.resize((size, size), Image.Resampling.BICUBIC, (left, top, left + side, top + side))
    probabilities = session.run(["probabilities"], {"images": np.asarray(image)[None]})[0][0]
    print(path, classes[probabilities.argmax()], f"{probabilities.max():.4f}", sep="\t")
