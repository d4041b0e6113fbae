"""How a process begins that computes cells of a grid beside others."""

from flowloom.trainers.native_logs import native_stderr_muted


def one_thread() -> None:
    """Let TensorFlow compute on one thread, so that trials in several processes do not wait for each other.

    It has to be called before anything is computed. Sums of several threads may differ in the last digit.
    """
    with native_stderr_muted():
        import tensorflow as tf
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
