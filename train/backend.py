"""Import TensorFlow without its messages, and set it and Keras up for us."""

import contextlib
import os
import sys
import warnings

from monitor import processors
from monitor.errors import Failure


def load(seed: int | None = None) -> None:
    """Import TensorFlow and tf2onnx silently; seed the generators of Python, NumPy and TensorFlow.

    Keras computes with TensorFlow in float32, whatever another project has set in `KERAS_BACKEND`
    or `~/.keras/keras.json`. TensorFloat-32 is off: on a GPU it would compute with 10 bits of a
    number's 23, and the exported file would differ from Keras by more than `export.TOLERANCE`.

    Raises:
        Failure: TensorFlow is not installed, or Keras runs on something else already.
    """
    other = os.environ.get("KERAS_BACKEND", "tensorflow")
    if other != "tensorflow":
        print(f"KERAS_BACKEND={other} is ignored: the backend is tensorflow", file=sys.stderr)
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # TensorFlow's native code writes to the file descriptor before its log level takes effect.
    sys.stderr.flush()
    stderr = os.dup(2)
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 2)
    try:
        with warnings.catch_warnings(action="ignore"):
            import keras
            import tensorflow
            import tf2onnx  # noqa: F401
    except ModuleNotFoundError as missing:
        raise Failure(f"training needs {missing.name}: pip install 'ecg-monitor[train]'") from None
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(silence)
    if keras.config.backend() != "tensorflow":
        raise Failure(f"Keras runs on {keras.config.backend()} already; it must be tensorflow")
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
    keras.config.set_image_data_format("channels_last")
    tensorflow.config.experimental.enable_tensor_float_32_execution(False)
    with contextlib.suppress(RuntimeError):  # it has computed already
        tensorflow.config.threading.set_intra_op_parallelism_threads(
            int(os.environ.get("TF_NUM_INTRAOP_THREADS") or processors.available())
        )
    # With several networks in one process it warns of retracing.
    tensorflow.get_logger().setLevel("ERROR")
    if seed is not None:
        keras.utils.set_random_seed(seed)
