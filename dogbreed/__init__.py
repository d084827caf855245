"""Fine-tune an image classifier: data, model, training, report and prediction, with no knowledge of where they run.

Nothing of ours is imported here, so that `import dogbreed.errors` loads neither torch nor lightning. Start with:

    from dogbreed.data import DogBreedData
    from dogbreed.model import DogBreedClassifier
    from dogbreed.inference import Predictor
"""

import os

# before ONNX Runtime is imported, wherever that is: since 1.29 it reports to Microsoft unless this is set
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"
