"""A minimal baseline server: FastAPI, torchvision on PIL, eager torch. Arguments: WEIGHTS BACKBONE PORT."""

import io
import sys
from typing import Annotated

import torch
import uvicorn
from fastapi import Body, FastAPI
from PIL import Image
from torch import nn
from torchvision import models, transforms

weights, backbone, port = sys.argv[1:]
state = torch.load(weights, weights_only=True)
model = models.get_model(backbone, weights=None)
model.fc = nn.Linear(model.fc.in_features, len(state["fc.bias"]))
model.load_state_dict(state)
model.eval()
transform = transforms.Compose(
    [
        transforms.Resize(232),
        transforms.CenterCrop(224),
        transforms.ToTensor(),
        transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ]
)
app = FastAPI()


@app.post("/invocations")
def invocations(picture: Annotated[bytes, Body(media_type="application/octet-stream")]) -> dict[str, list[float]]:
    image = transform(Image.open(io.BytesIO(picture)).convert("RGB"))
    with torch.inference_mode():
        return {"probabilities": model(image.unsqueeze(0)).softmax(-1)[0].tolist()}


uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="warning")
