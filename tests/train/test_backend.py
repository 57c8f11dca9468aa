"""Training is ours, whatever other projects have set for Keras."""

import json
import os
import subprocess
import sys
from pathlib import Path

LOADED = """
from train import backend
backend.load(0)
import keras, tensorflow as tf
from keras import layers
image = layers.Conv2D(2, 3)(keras.Input((8, 8, 1)))
print(
    keras.config.backend(), image.dtype, image.shape,
    tf.config.experimental.tensor_float_32_execution_enabled(),
)
"""


def test_keras_settings_of_another_project_are_overridden(tmp_path: Path) -> None:
    other = {"backend": "jax", "floatx": "float16", "image_data_format": "channels_first"}
    (tmp_path / "keras.json").write_text(json.dumps(other))
    ran = subprocess.run(
        [sys.executable, "-c", LOADED],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"KERAS_BACKEND": "jax", "KERAS_HOME": str(tmp_path)},
    )
    assert ran.stdout == "tensorflow float32 (None, 6, 6, 2) False\n"
    assert ran.stderr == "KERAS_BACKEND=jax is ignored: the backend is tensorflow\n"
