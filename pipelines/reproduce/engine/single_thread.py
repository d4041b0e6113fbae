"""Start of a process that computes experiments beside other processes."""

from flowloom.trainers.native_logs import native_stderr_muted


def one_thread() -> None:
    """Restricts TensorFlow to one thread, so that trials in several processes do not wait for each other.

    Must be called before TensorFlow computes anything. Sums of several threads may differ in the last digit.
    """
    with native_stderr_muted():
        import tensorflow as tf
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
