"""Streams of batches end: with the failure of the feed, and with the interpreter while TensorFlow still calls it."""

import subprocess
import sys

import pytest

CODE = """
import sys, time
import tensorflow as tf
from flowloom.schemas.errors import FlowloomError
from flowloom.trainers.batch_stream import BatchStream, Failures

called, failures = [], Failures()

def render(step):
    called.append(step)
    if len(called) > 20 and sys.argv[1] == "fail":
        raise FlowloomError("shard 3 is damaged")
    time.sleep(0.02)
    return step

def rendered(step):
    return tf.numpy_function(failures.noted(render), [step], tf.int64)

steps = tf.data.Dataset.range(10**9).map(rendered, num_parallel_calls=2).prefetch(tf.data.AUTOTUNE)
stream = BatchStream(steps, failures)
next(stream)
if sys.argv[1] == "leave":
    sys.exit(3)
try:
    for _ in stream:
        pass
except FlowloomError as error:
    print(error)
    raise
"""


@pytest.mark.timeout(400)
@pytest.mark.parametrize(("how", "code", "said"), [("leave", 3, ""), ("fail", 1, "shard 3 is damaged\n")])
def test_the_process_ends(how, code, said):
    done = subprocess.run([sys.executable, "-c", CODE, how], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (code, said), done.stderr
