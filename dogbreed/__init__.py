"""Fine-tune an image classifier: data, model, training, report and prediction, with no knowledge of where they run.

Nothing heavy is imported here, so that `import dogbreed.errors` loads neither torch nor lightning. Start with:

    from dogbreed.data import DogBreedData
    from dogbreed.model import DogBreedClassifier
    from dogbreed.inference import Predictor
"""

from dogbreed.telemetry import turn_off_reports

__version__ = "0.1.0"

turn_off_reports()  # before ONNX Runtime is imported by whichever module or library needs it first
