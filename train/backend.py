"""Import TensorFlow without its messages."""

import os
import sys
import warnings

from monitor.errors import Failure


def load(seed: int | None = None) -> None:
    """Import TensorFlow and tf2onnx silently; seed the generators of Python, NumPy and TensorFlow.

    Raises:
        Failure: TensorFlow is not installed.
    """
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
    # With several networks in one process it warns of retracing.
    tensorflow.get_logger().setLevel("ERROR")
    if seed is not None:
        keras.utils.set_random_seed(seed)
